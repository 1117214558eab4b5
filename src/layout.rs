//! Where the shards of this process run: as a layout file says, or as is planned for this host.

use std::fmt;
use std::path::Path;

pub use ringgate_tune::layout::{Layout, Memory, Shard, Shards, Steering};

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::plan::{PlanOptions, plan};
use rustix::thread::{CpuSet as Mask, sched_setaffinity};

use crate::config::ShardPlan;

/// A layout that this process can start with, and where it comes from.
#[derive(Clone, Debug)]
pub struct Placement {
    pub layout: Layout,
    origin: String,
    /// In what the host is another one than the layout says; it is served all the same.
    pub notes: Vec<String>,
}

/// Why there is no layout to start with: each error with its place and remedy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct LayoutError(pub Vec<String>);

impl Placement {
    /// What the layout in `file` says.
    ///
    /// # Errors
    ///
    /// When it cannot be read, when it names CPUs that this process may not use, or when the
    /// configuration, of which `shards` is a part, says where shards run as well.
    pub fn read(file: &Path, shards: &ShardPlan) -> Result<Self, LayoutError> {
        if *shards != ShardPlan::Planned {
            return Err(LayoutError(vec![format!(
                "{}: [shards] of the configuration says where shards run, and so does this layout: \
                 keep one of the two",
                file.display()
            )]));
        }
        let layout = Layout::read(file)
            .map_err(|errors| LayoutError(errors.iter().map(ToString::to_string).collect()))?;
        let here = inspect();
        let notes: Vec<String> = layout
            .misfits(&here)
            .iter()
            .map(|misfit| format!("{}: {misfit}", file.display()))
            .collect();
        let may_use = |cpu| here.usable.contains(cpu);
        let all_usable =
            layout.shard_cpus().iter().all(may_use) && layout.housekeeping.iter().all(may_use);
        if !all_usable {
            return Err(LayoutError(notes));
        }
        let nodeless = match &layout.shards {
            Shards::Pinned(shards) if layout.memory == Memory::Bind => {
                shards.iter().find(|shard| shard.node.is_none())
            }
            _ => None,
        };
        if let Some(shard) = nodeless {
            return Err(LayoutError(vec![format!(
                "{}: memory = \"bind\", and the shard on CPU {} names no node: add `node = N`",
                file.display(),
                shard.cpu
            )]));
        }
        Ok(Self {
            layout,
            origin: format!("by {}", file.display()),
            notes,
        })
    }

    /// What is planned for this host, as far as `shards` leaves it open.
    ///
    /// # Errors
    ///
    /// When `shards` names a CPU that this process may not use.
    pub fn planned(shards: &ShardPlan) -> Result<Self, LayoutError> {
        let here = inspect();
        let options = PlanOptions {
            // Nobody applies this layout.
            place_interrupts: false,
            ..PlanOptions::default()
        };
        let layout = plan(&here, &options);
        let (layout, origin) = match shards {
            ShardPlan::Planned => (layout, "planned for this host"),
            ShardPlan::Count(count) => (with_count(layout, *count, &here), "by shards.count"),
            ShardPlan::Cpus(cpus) => (with_cpus(layout, cpus, &here)?, "by shards.cpus"),
        };
        Ok(Self {
            layout,
            origin: origin.to_owned(),
            notes: Vec::new(),
        })
    }

    /// Keeps the calling thread, and those that it starts from here on, to the CPUs of
    /// housekeeping, if there are any; shards choose their own. What could not be done.
    pub fn keep_house(&self) -> Option<String> {
        let cpus = &self.layout.housekeeping;
        if cpus.is_empty() {
            return None;
        }
        let mut mask = Mask::new();
        // Such a mask knows the first 1024.
        let known = cpus.iter().map(|cpu| cpu as usize);
        known
            .filter(|&cpu| cpu < Mask::MAX_CPU)
            .for_each(|cpu| mask.set(cpu));
        sched_setaffinity(None, &mask).err().map(|error| {
            format!("the control plane does not keep to CPUs {cpus}: {error}; it runs anywhere")
        })
    }
}

impl fmt::Display for Placement {
    /// One line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = &self.layout;
        let count = layout.shard_count();
        write!(f, "{count} {}", if count == 1 { "shard" } else { "shards" })?;
        match &layout.shards {
            Shards::Pinned(_) => write!(f, " on CPUs {}", layout.shard_cpus())?,
            Shards::Unpinned(_) => write!(f, ", not pinned")?,
        }
        write!(f, ", {}; housekeeping ", self.origin)?;
        match layout.housekeeping.is_empty() {
            true => write!(f, "anywhere")?,
            false => write!(f, "on CPUs {}", layout.housekeeping)?,
        }
        let steering = match layout.steering {
            Steering::Cpu => "by the CPU that takes them",
            Steering::Hash => "by hash",
        };
        let memory = match layout.memory {
            Memory::Bind => "bound to its node",
            Memory::Local => "local",
        };
        write!(f, "; connections {steering}; memory {memory}")
    }
}

fn inspect() -> Inspection {
    let own = core_affinity::get_core_ids().map(|cores| {
        let ids = cores.into_iter().map(|core| u32::try_from(core.id));
        ids.filter_map(Result::ok).collect::<CpuSet>()
    });
    Inspection::read(&Host::default(), own)
}

/// The first `count` shards of the plan; where it has fewer, one on each of the first usable CPUs;
/// where there are fewer CPUs, they are left to the scheduler: pinning two to one would only forbid
/// the better places.
fn with_count(mut layout: Layout, count: usize, here: &Inspection) -> Layout {
    match &mut layout.shards {
        Shards::Pinned(shards) if count <= shards.len() => shards.truncate(count),
        Shards::Pinned(_) if count <= here.usable.len() => {
            layout.shards = Shards::Pinned(here.usable.iter().take(count).map(on).collect());
            layout.housekeeping = CpuSet::default();
        }
        _ => {
            layout.shards = Shards::Unpinned(count);
            layout.housekeeping = CpuSet::default();
        }
    }
    layout
}

fn with_cpus(mut layout: Layout, cpus: &[usize], here: &Inspection) -> Result<Layout, LayoutError> {
    let mut shards = Vec::new();
    for &cpu in cpus {
        match u32::try_from(cpu)
            .ok()
            .filter(|&cpu| here.usable.contains(cpu))
        {
            Some(cpu) => shards.push(on(cpu)),
            None => {
                return Err(LayoutError(vec![format!(
                    "CPU {cpu} is not among those this process may use ({}); correct shards.cpus",
                    here.usable
                )]));
            }
        }
    }
    layout.shards = Shards::Pinned(shards);
    layout.housekeeping = CpuSet::default();
    Ok(layout)
}

fn on(cpu: u32) -> Shard {
    Shard {
        cpu,
        node: None,
        serves: CpuSet::default(),
        listeners: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> CpuSet {
        inspect().usable
    }

    fn scratch(name: &str, text: &str) -> std::path::PathBuf {
        let file = std::env::temp_dir().join(format!("layout-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// A layout for this host with the one shard of `shard`.
    fn text(shard: &str, rest: &str) -> String {
        let host = ringgate_tune::layout::HostShape::of(&inspect());
        format!(
            "version = 1\n[host]\nonline = \"{}\"\ncores = {}\nnodes = {}\n[shards]\nlist = \
             [{shard}]\n{rest}\n",
            host.online, host.cores, host.nodes
        )
    }

    fn read(name: &str, text: &str) -> Result<Placement, LayoutError> {
        let file = scratch(name, text);
        let placement = Placement::read(&file, &ShardPlan::Planned);
        std::fs::remove_file(file).unwrap();
        placement
    }

    #[test]
    fn a_count_takes_the_first_of_the_plan_or_lets_go_of_pinning() {
        let one = Placement::planned(&ShardPlan::Count(1)).unwrap();
        assert_eq!(one.layout.shard_count(), 1);
        let all = Placement::planned(&ShardPlan::Count(usable().len())).unwrap();
        assert_eq!(all.layout.shard_count(), usable().len());
        let more = Placement::planned(&ShardPlan::Count(usable().len() + 1)).unwrap();
        assert_eq!(more.layout.shards, Shards::Unpinned(usable().len() + 1));
        assert!(more.layout.housekeeping.is_empty());
    }

    #[test]
    fn cpus_are_taken_as_they_are_named() {
        let cpu = usable().first().unwrap();
        let plan = ShardPlan::Cpus(vec![cpu as usize]);
        let placement = Placement::planned(&plan).unwrap();
        assert_eq!(placement.layout.shards, Shards::Pinned(vec![on(cpu)]));
        let said = placement.to_string();
        let expected = format!("1 shard on CPUs {cpu}, by shards.cpus; housekeeping anywhere; ");
        assert!(said.starts_with(&expected), "{said}");
    }

    #[test]
    fn a_layout_of_another_host_serves_where_its_cpus_are_here() {
        let cpu = usable().first().unwrap();
        let elsewhere = text(&format!("{{ cpu = {cpu} }}"), "").replace("cores = ", "cores = 1");
        let placement = read("elsewhere", &elsewhere).unwrap();
        assert_eq!(placement.notes.len(), 1);
        assert!(
            placement.notes[0].contains("ringgate-tune plan"),
            "{:?}",
            placement.notes
        );
    }

    #[test]
    fn a_cpu_that_is_not_here_is_an_error_that_names_it() {
        let error = read("cpu", &text("{ cpu = 4000 }", ""))
            .unwrap_err()
            .to_string();
        assert!(error.contains("shards: CPUs 4000 are not among"), "{error}");
        let cpu = usable().first().unwrap();
        let house = text(&format!("{{ cpu = {cpu} }}"), "housekeeping = \"4001\"");
        let error = read("house", &house).unwrap_err().to_string();
        assert!(error.contains("housekeeping: CPUs 4001"), "{error}");
    }

    #[test]
    fn bound_memory_needs_a_node() {
        let cpu = usable().first().unwrap();
        let bound = text(&format!("{{ cpu = {cpu} }}"), "memory = \"bind\"");
        let error = read("bound", &bound).unwrap_err().to_string();
        assert!(error.contains("names no node"), "{error}");
    }

    #[test]
    fn a_layout_beside_shards_of_the_configuration_is_refused() {
        let file = Path::new("/nowhere/layout.toml");
        let error = Placement::read(file, &ShardPlan::Count(1)).unwrap_err();
        assert!(error.to_string().contains("keep one of the two"), "{error}");
        let error = Placement::read(file, &ShardPlan::Planned).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
