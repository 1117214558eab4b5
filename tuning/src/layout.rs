//! A layout: who lives on which CPU of one host, and the knobs that go with it. `layout.toml` is
//! its form on disk ([`Layout::read`]); `ringgate-tune plan` writes one, `ringgate run --layout`
//! starts from one.

mod document;
mod text;
pub mod why;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cpu_set::CpuSet;
use crate::inspection::Inspection;
use crate::units::counted;
use why::Why;

pub(crate) use document::{SHARDS_MAX, is_name};

/// Bytes of a layout; that of a host with 4096 CPUs has fewer.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A layout, each of whose values is possible by itself. Whether it fits a host, tells
/// [`Layout::misfits`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    pub host: HostShape,
    pub shards: Shards,
    /// CPUs of the control plane and of everything else; empty leaves that to the scheduler.
    pub housekeeping: CpuSet,
    pub memory: Memory,
    pub steering: Steering,
    pub ring: Ring,
    pub nics: Vec<Nic>,
    /// Below `/proc/sys`, in the order of the file.
    pub sysctls: Vec<Sysctl>,
}

/// What tells the host that a layout was planned for from others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostShape {
    pub online: CpuSet,
    /// Physical cores that are online.
    pub cores: usize,
    /// Memory nodes that have CPUs.
    pub nodes: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shards {
    /// One thread for each, pinned to its CPU.
    Pinned(Vec<Shard>),
    /// So many threads, left to the scheduler: under a CPU quota a pinned thread is stopped though
    /// another CPU would have time.
    Unpinned(usize),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shard {
    pub cpu: u32,
    /// The memory node of its CPU, where the host has several.
    pub node: Option<u32>,
    /// With [`Steering::Cpu`]: the CPUs whose interrupts bring this shard its connections. Empty
    /// stands for its own CPU.
    pub serves: CpuSet,
    /// Names of the listeners that it accepts for; `None` is all of them.
    pub listeners: Option<Vec<String>>,
}

/// Where a shard's memory comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Memory {
    /// From its node alone; where that has none left, the shard ends (MPOL_BIND).
    Bind,
    /// From its node while there is some (MPOL_LOCAL).
    #[default]
    Local,
}

/// How the kernel chooses the shard that a new connection goes to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Steering {
    /// By the CPU that took the interrupt (a classic BPF program, SO_ATTACH_REUSEPORT_CBPF).
    Cpu,
    /// By a hash of addresses and ports (SO_REUSEPORT).
    #[default]
    Hash,
}

/// Choices for each shard's ring; `None` leaves the kernel's way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ring {
    /// Submission queue entries, a power of two.
    pub entries: Option<u32>,
    /// Milliseconds that a kernel thread goes on looking for submissions (IORING_SETUP_SQPOLL).
    pub sqpoll_ms: Option<u32>,
    /// Microseconds that a wait looks at the network card itself (IORING_REGISTER_NAPI, kernel 6.9).
    pub busy_poll_us: Option<u32>,
}

/// A network card's knobs; what is absent is left as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nic {
    pub name: String,
    /// Combined queues (`ethtool -L`).
    pub queues: Option<u32>,
    /// By the interrupt's name: its number is another one after a restart.
    pub irqs: Vec<(String, CpuSet)>,
    /// Receive queue, and the CPUs that its packets are spread over (RPS). The empty set turns it
    /// off.
    pub rps: Vec<(u32, CpuSet)>,
    /// Transmit queue, and the CPUs that use it (XPS).
    pub xps: Vec<(u32, CpuSet)>,
    /// `ethtool -C`, by its names for the settings.
    pub coalesce: Vec<(String, u32)>,
    /// Polls that may find nothing before interrupts are on again (`napi_defer_hard_irqs`).
    pub napi_defer_hard_irqs: Option<u32>,
    /// Nanoseconds between such polls (`gro_flush_timeout`).
    pub gro_flush_timeout_ns: Option<u64>,
}

/// A kernel setting by its dotted name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sysctl {
    pub name: String,
    /// As it is written; several numbers are separated by one blank.
    pub value: String,
}

/// What is wrong with a layout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayoutError {
    pub file: PathBuf,
    /// Counted from 1; `None` where it is about the file as a whole.
    pub line: Option<usize>,
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for LayoutError {}

impl Layout {
    /// Reads `layout.toml`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, or the first place at which it is no TOML.
    pub fn read(file: &Path) -> Result<Self, Vec<LayoutError>> {
        let mut text = String::new();
        let read = File::open(file).and_then(|it| it.take(FILE_LEN_MAX).read_to_string(&mut text));
        if let Err(error) = read {
            return Err(vec![LayoutError {
                file: file.to_owned(),
                line: None,
                problem: format!("cannot be read: {error}"),
                remedy: "`ringgate-tune plan` writes a layout".to_owned(),
            }]);
        }
        Self::parse(file, &text)
    }

    /// Reads `text`; errors name `file`.
    ///
    /// # Errors
    ///
    /// As [`Layout::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<LayoutError>> {
        document::parse(file, text)
    }

    /// `layout.toml`, with the reasons in `why` as comments; [`Layout::parse`] reads the same layout.
    pub fn to_toml(&self, why: &Why) -> String {
        text::write(self, why)
    }

    /// Threads of the data plane.
    pub fn shard_count(&self) -> usize {
        match &self.shards {
            Shards::Pinned(shards) => shards.len(),
            Shards::Unpinned(count) => *count,
        }
    }

    /// The CPUs that shards are pinned to.
    pub fn shard_cpus(&self) -> CpuSet {
        match &self.shards {
            Shards::Pinned(shards) => shards.iter().map(|shard| shard.cpu).collect(),
            Shards::Unpinned(_) => CpuSet::default(),
        }
    }

    /// In what the host that was inspected is not the one this was planned for, each with what can
    /// still be done. Empty: it fits.
    pub fn misfits(&self, here: &Inspection) -> Vec<String> {
        let mut misfits = Vec::new();
        let shape = HostShape::of(here);
        if shape != self.host {
            misfits.push(format!(
                "this layout is of a host with {}, and here are {}: make one for this host with \
                 `ringgate-tune plan`",
                self.host, shape
            ));
        }
        for (who, cpus) in [
            ("shards", self.shard_cpus()),
            ("housekeeping", self.housekeeping.clone()),
        ] {
            let missing: CpuSet = cpus
                .iter()
                .filter(|&cpu| !here.usable.contains(cpu))
                .collect();
            if !missing.is_empty() {
                misfits.push(format!(
                    "{who}: CPUs {missing} are not among those this process may use ({}): bring \
                     them online, widen the affinity mask or the cgroup's cpuset, or plan anew",
                    here.usable
                ));
            }
        }
        misfits
    }
}

impl Nic {
    /// Whether a queue is past the count that is set: drivers take its interrupt away along with it.
    pub(crate) fn is_past(&self, queue: Option<u32>) -> bool {
        let (count, queue) = (self.queues, queue);
        count
            .zip(queue)
            .is_some_and(|(count, queue)| queue >= count)
    }
}

impl HostShape {
    pub fn of(inspection: &Inspection) -> Self {
        let nodes = &inspection.topology.nodes;
        Self {
            online: inspection.online.clone(),
            cores: inspection.topology.cores.len(),
            nodes: nodes.iter().filter(|node| !node.cpus.is_empty()).count(),
        }
    }
}

impl fmt::Display for HostShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPUs {} online in {} and {}",
            self.online,
            counted(self.cores, "core"),
            counted(self.nodes, "memory node")
        )
    }
}
