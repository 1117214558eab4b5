//! What may be worth a try: layouts that differ from the present one in one thing each, as far as
//! this host can have them.

use crate::cpu_set::CpuSet;
use crate::inspection::Inspection;
use crate::layout::{Layout, Ring, Shard, Shards, Steering};
use crate::plan::{PlanOptions, plan};

/// Candidates at most: each costs minutes of load.
pub const CANDIDATES_MAX: usize = 12;

/// Values that are tried.
const SQPOLL_MS: u32 = 2;
const BUSY_POLL_US: u32 = 50;
const RING_ENTRIES: [u32; 2] = [1024, 8192];

/// A layout, and what it is tried for.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub name: String,
    pub why: String,
    pub layout: Layout,
}

/// Whether the kernel of this release can poll network cards from a ring's wait
/// (IORING_REGISTER_NAPI, kernel 6.9).
pub fn can_busy_poll(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= (6, 9))
}

/// The present layout, and then at most [`CANDIDATES_MAX`] that differ from it and from each other;
/// those that most often matter come first.
pub fn candidates(here: &Inspection, present: &Layout, busy_poll: bool) -> Vec<Candidate> {
    let mut maker = Maker {
        here,
        present,
        made: vec![Candidate {
            name: "present".to_owned(),
            why: "what you have".to_owned(),
            layout: present.clone(),
        }],
    };
    maker.planned();
    maker.smt();
    maker.counts();
    maker.housekeeping();
    maker.unpinned();
    maker.steering();
    maker.rings(busy_poll);
    maker.made.truncate(1 + CANDIDATES_MAX);
    maker.made
}

struct Maker<'a> {
    here: &'a Inspection,
    present: &'a Layout,
    made: Vec<Candidate>,
}

impl Maker<'_> {
    fn add(&mut self, name: &str, why: &str, layout: Layout) {
        if self.made.iter().all(|made| made.layout != layout) {
            self.made.push(Candidate {
                name: name.to_owned(),
                why: why.to_owned(),
                layout,
            });
        }
    }

    /// What the planner says, without its knobs of network cards and sysctls.
    fn planned(&mut self) {
        let planned = plan(self.here, &PlanOptions::default());
        self.with_shards_of(
            "planned",
            "as `ringgate-tune plan` lays out this host",
            planned,
        );
    }

    fn smt(&mut self) {
        if !self.here.topology.has_smt() {
            return;
        }
        let cpus = self.present.shard_cpus();
        let doubled = |core: &CpuSet| core.intersection(&cpus).len() > 1;
        let on = self.here.topology.cores.iter().any(doubled);
        let planned = plan(
            self.here,
            &PlanOptions {
                smt: !on,
                ..PlanOptions::default()
            },
        );
        let (name, why) = match on {
            true => (
                "smt-off",
                "one shard for a core: siblings share its execution units",
            ),
            false => (
                "smt-on",
                "a shard for each SMT sibling: one works while the other waits",
            ),
        };
        self.with_shards_of(name, why, planned);
    }

    /// Fewer shards than now, and more.
    fn counts(&mut self) {
        let now = self.present.shard_count();
        let fewer = "less contention with the kernel, the upstreams and each other";
        let most = self.most_shards();
        for (name, count, why) in [
            (
                "one-more",
                now + 1,
                "a CPU more, where it waits for nothing else",
            ),
            ("one-fewer", now.saturating_sub(1), fewer),
            ("half", now / 2, fewer),
            ("every-cpu", most, "a shard on every CPU that may be used"),
        ] {
            if count == 0 || count > most || count == now {
                continue;
            }
            if let Some(shards) = self.shards(count) {
                let mut layout = self.present.clone();
                layout.housekeeping = without(&layout.housekeeping, &shards);
                layout.shards = shards;
                self.add(name, why, layout);
            }
        }
    }

    /// Without CPUs of its own, and with one.
    fn housekeeping(&mut self) {
        let Shards::Pinned(shards) = &self.present.shards else {
            return;
        };
        let mut layout = self.present.clone();
        if !layout.housekeeping.is_empty() {
            layout.housekeeping = CpuSet::default();
            let why = "the control plane goes where the scheduler puts it";
            self.add("housekeeping-shared", why, layout);
            return;
        }
        let taken = self.present.shard_cpus();
        let free = self.here.usable.iter().find(|cpu| !taken.contains(*cpu));
        let why = "a CPU that no shard is on keeps the control plane out of their way";
        if let Some(cpu) = free {
            layout.housekeeping = CpuSet::from_iter([cpu]);
        } else if shards.len() > 1 && self.uniform() {
            layout.housekeeping = CpuSet::from_iter([shards[0].cpu]);
            layout.shards = Shards::Pinned(shards[1..].to_vec());
        } else {
            return;
        }
        self.add("housekeeping-reserved", why, layout);
    }

    fn unpinned(&mut self) {
        let mut layout = self.present.clone();
        let has_steering = layout.steering == Steering::Cpu;
        if has_steering || !self.uniform() || !matches!(layout.shards, Shards::Pinned(_)) {
            return;
        }
        layout.shards = Shards::Unpinned(layout.shard_count());
        let why = "the scheduler moves shards away from CPUs that others use";
        self.add("unpinned", why, layout);
    }

    fn steering(&mut self) {
        if !matches!(&self.present.shards, Shards::Pinned(shards) if shards.len() > 1) {
            return;
        }
        let mut layout = self.present.clone();
        match layout.steering {
            Steering::Hash => {
                layout.steering = Steering::Cpu;
                let why = "a connection is served where its interrupt came, with warm caches";
                self.add("steering-cpu", why, layout);
            }
            Steering::Cpu => {
                layout.steering = Steering::Hash;
                let why = "spreads evenly where interrupts do not";
                self.add("steering-hash", why, layout);
            }
        }
    }

    fn rings(&mut self, busy_poll: bool) {
        let ring = self.present.ring;
        let free_cpu = self.here.usable.len() > self.present.shard_count();
        let mut try_ring = |name: &str, why: &str, ring: Ring| {
            let layout = Layout {
                ring,
                ..self.present.clone()
            };
            self.add(name, why, layout);
        };
        let [few, many] = RING_ENTRIES.map(Some);
        for (name, entries, why) in [
            ("entries-few", few, "a smaller ring stays in the cache"),
            (
                "entries-many",
                many,
                "a larger ring is handed in less often",
            ),
        ] {
            try_ring(name, why, Ring { entries, ..ring });
        }
        if ring.sqpoll_ms.is_some() {
            let why = "no kernel thread that takes a CPU";
            try_ring(
                "sqpoll-off",
                why,
                Ring {
                    sqpoll_ms: None,
                    ..ring
                },
            );
        } else if free_cpu {
            let why = "a kernel thread on a free CPU takes submissions without a system call";
            let sqpoll_ms = Some(SQPOLL_MS);
            try_ring("sqpoll", why, Ring { sqpoll_ms, ..ring });
        }
        if ring.busy_poll_us.is_some() {
            let why = "interrupts wake a shard that has nothing to do";
            try_ring(
                "busy-poll-off",
                why,
                Ring {
                    busy_poll_us: None,
                    ..ring
                },
            );
        } else if busy_poll {
            let why = "a shard that waits looks at the card itself";
            let busy_poll_us = Some(BUSY_POLL_US);
            try_ring(
                "busy-poll",
                why,
                Ring {
                    busy_poll_us,
                    ..ring
                },
            );
        }
    }

    /// The present layout with shards and housekeeping of another.
    fn with_shards_of(&mut self, name: &str, why: &str, other: Layout) {
        if !self.uniform() {
            return;
        }
        let mut layout = self.present.clone();
        layout.housekeeping = other.housekeeping;
        layout.shards = match other.shards {
            Shards::Pinned(shards) => {
                let cpus: Vec<u32> = shards.iter().map(|shard| shard.cpu).collect();
                self.pinned(&cpus)
            }
            unpinned @ Shards::Unpinned(_) => {
                layout.steering = Steering::Hash;
                unpinned
            }
        };
        self.add(name, why, layout);
    }

    /// So many shards: those of now first, then CPUs of cores that have none yet. `None` where
    /// there are not so many CPUs, or where shards differ in what they serve.
    fn shards(&self, count: usize) -> Option<Shards> {
        if !self.uniform() {
            return None;
        }
        let Shards::Pinned(now) = &self.present.shards else {
            return Some(Shards::Unpinned(count));
        };
        let mut cpus: Vec<u32> = now.iter().map(|shard| shard.cpu).collect();
        while cpus.len() < count {
            let taken: CpuSet = cpus.iter().copied().collect();
            let free = self.here.usable.iter().filter(|cpu| !taken.contains(*cpu));
            // Housekeeping's CPUs last; a sibling of a shard only where no core is left.
            let next = free.min_by_key(|&cpu| {
                let cores = &self.here.topology.cores;
                let core = cores.iter().find(|core| core.contains(cpu));
                let shared = core.is_some_and(|core| !core.intersection(&taken).is_empty());
                (shared, self.present.housekeeping.contains(cpu), cpu)
            })?;
            cpus.push(next);
        }
        cpus.truncate(count);
        Some(self.pinned(&cpus))
    }

    /// Shards on these CPUs, serving what those of now serve.
    fn pinned(&self, cpus: &[u32]) -> Shards {
        let listeners = match &self.present.shards {
            Shards::Pinned(shards) => shards.first().and_then(|shard| shard.listeners.clone()),
            Shards::Unpinned(_) => None,
        };
        let topology = &self.here.topology;
        let several_nodes = topology
            .nodes
            .iter()
            .filter(|it| !it.cpus.is_empty())
            .count()
            > 1;
        let node = |id| {
            topology
                .cpus
                .iter()
                .find(|cpu| cpu.id == id)
                .and_then(|cpu| cpu.node)
        };
        let shard = |&cpu: &u32| Shard {
            cpu,
            node: node(cpu).filter(|_| several_nodes),
            // The CPUs that the present shards serve belong to their number.
            serves: CpuSet::default(),
            listeners: listeners.clone(),
        };
        // A shard of now stays as it is where all of them stay.
        match &self.present.shards {
            Shards::Pinned(now) if now.iter().map(|shard| &shard.cpu).eq(cpus) => {
                Shards::Pinned(now.clone())
            }
            _ => Shards::Pinned(cpus.iter().map(shard).collect()),
        }
    }

    /// Whether all shards serve the same listeners: others cannot be dealt out anew without
    /// changing what is served.
    fn uniform(&self) -> bool {
        match &self.present.shards {
            Shards::Pinned(shards) => {
                let mut pairs = shards.windows(2);
                pairs.all(|pair| pair[0].listeners == pair[1].listeners)
            }
            Shards::Unpinned(_) => true,
        }
    }

    /// No more than CPUs, and than the quota allows.
    fn most_shards(&self) -> usize {
        let cpus = self.here.usable.len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole CPUs of a quota, which is not negative"
        )]
        match &self.here.cgroup.quota {
            Some(quota) => cpus.min((quota.cpus as usize).max(1)),
            None => cpus,
        }
    }
}

/// Housekeeping leaves the CPUs that shards take, unless it would have none.
fn without(housekeeping: &CpuSet, shards: &Shards) -> CpuSet {
    let Shards::Pinned(shards) = shards else {
        return housekeeping.clone();
    };
    let taken = |cpu| shards.iter().any(|shard| shard.cpu == cpu);
    housekeeping.iter().filter(|&cpu| !taken(cpu)).collect()
}
