//! Sockets, cores, caches, memory nodes and how fast each CPU is (sysfs, Linux ABI documents
//! `sysfs-devices-system-cpu` and `sysfs-devices-node`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgroup::parse_number;
use crate::cpu_set::CpuSet;
use crate::host::{Need, Reader};

/// The last cache level that a CPU has, and who shares it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct LastLevelCache {
    pub cpus: CpuSet,
    pub level: u32,
    /// As the kernel writes it, `32768K`.
    pub size: Option<String>,
}

/// A memory node and its CPUs; nodes of memory alone have none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Node {
    pub id: u32,
    pub cpus: CpuSet,
}

/// CPUs that are equally fast.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Speed {
    pub cpus: CpuSet,
    /// Relative to the fastest CPU of the machine, which has 1024.
    pub capacity: Option<u32>,
    pub max_frequency_khz: Option<u64>,
}

/// One CPU that is online.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Cpu {
    pub id: u32,
    /// The socket.
    pub package: Option<u32>,
    /// The CPUs of its physical core, itself included.
    pub siblings: CpuSet,
    /// The cores that share more than the memory bus but less than the socket, where the kernel
    /// knows of such and they are more than one core.
    pub cluster: Option<CpuSet>,
    pub llc: Option<LastLevelCache>,
    pub node: Option<u32>,
    /// Relative to the fastest CPU of the machine, which has 1024.
    pub capacity: Option<u32>,
    pub max_frequency_khz: Option<u64>,
}

/// The CPUs that are online, and the groups they form; groups stand in the order of their first CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Topology {
    pub cpus: Vec<Cpu>,
    /// Physical cores: each the set of its SMT siblings.
    pub cores: Vec<CpuSet>,
    pub clusters: Vec<CpuSet>,
    pub llcs: Vec<LastLevelCache>,
    pub nodes: Vec<Node>,
    pub speeds: Vec<Speed>,
}

impl Topology {
    /// Reads what the CPUs in `online` say of themselves; a CPU that is offline has no topology.
    pub fn read(reader: &mut Reader<'_>, online: &CpuSet) -> Self {
        let nodes = read_nodes(reader);
        let cpus: Vec<Cpu> = online
            .iter()
            .map(|cpu| read_cpu(reader, cpu, &nodes))
            .collect();
        Self {
            cores: distinct(cpus.iter().map(|cpu| cpu.siblings.clone())),
            clusters: distinct(cpus.iter().filter_map(|cpu| cpu.cluster.clone())),
            llcs: distinct(cpus.iter().filter_map(|cpu| cpu.llc.clone())),
            speeds: speeds(&cpus),
            nodes,
            cpus,
        }
    }

    /// Whether any core has more than one CPU online.
    pub fn has_smt(&self) -> bool {
        self.cores.iter().any(|core| core.len() > 1)
    }
}

fn read_cpu(reader: &mut Reader<'_>, id: u32, nodes: &[Node]) -> Cpu {
    let siblings = read_siblings(reader, id);
    let cluster = reader.cpu(
        id,
        "topology/cluster_cpus_list",
        Need::Optional,
        CpuSet::parse,
    );
    // Negative where the firmware does not say.
    let package: Option<i64> = reader.cpu(
        id,
        "topology/physical_package_id",
        Need::Expected,
        parse_number,
    );
    Cpu {
        id,
        package: package.and_then(|id| u32::try_from(id).ok()),
        cluster: cluster.filter(|cluster| cluster.len() > siblings.len()),
        siblings,
        llc: read_llc(reader, id),
        node: nodes
            .iter()
            .find(|node| node.cpus.contains(id))
            .map(|node| node.id),
        capacity: reader.cpu(id, "cpu_capacity", Need::Optional, parse_number),
        max_frequency_khz: reader.cpu(id, "cpufreq/cpuinfo_max_freq", Need::Optional, parse_number),
    }
}

/// Where nothing usable says who shares the core, the CPU is taken for a core of its own.
fn read_siblings(reader: &mut Reader<'_>, cpu: u32) -> CpuSet {
    // The newer name, since 5.4; the older one is there on every kernel.
    const NEWER: &str = "topology/core_cpus_list";
    const OLDER: &str = "topology/thread_siblings_list";
    let with_itself = |text: &str| match CpuSet::parse(text)? {
        siblings if siblings.contains(cpu) => Ok(siblings),
        siblings => Err(format!("`{siblings}` does not hold the CPU itself")),
    };
    reader
        .cpu(cpu, NEWER, Need::Optional, with_itself)
        .or_else(|| reader.cpu(cpu, OLDER, Need::Expected, with_itself))
        .unwrap_or_else(|| CpuSet::from_iter([cpu]))
}

fn read_llc(reader: &mut Reader<'_>, cpu: u32) -> Option<LastLevelCache> {
    let folder = format!("devices/system/cpu/cpu{cpu}/cache");
    let indices = reader.numbered(&folder, "index", Need::Optional);
    let mut last: Option<(u32, u32)> = None;
    for index in indices {
        let kind = reader.cpu(
            cpu,
            &format!("cache/index{index}/type"),
            Need::Optional,
            trimmed,
        );
        if kind.as_deref() == Some("Instruction") {
            continue;
        }
        let entry = format!("cache/index{index}/level");
        let level: Option<u32> = reader.cpu(cpu, &entry, Need::Expected, parse_number);
        last = last.max(level.map(|level| (level, index)));
    }
    let Some((level, index)) = last else {
        reader.note(
            "sys/devices/system/cpu/cpu*/cache",
            Some(cpu),
            "names no cache",
        );
        return None;
    };
    let entry = format!("cache/index{index}/shared_cpu_list");
    let cpus = reader.cpu(cpu, &entry, Need::Expected, CpuSet::parse)?;
    let size = reader.cpu(
        cpu,
        &format!("cache/index{index}/size"),
        Need::Optional,
        trimmed,
    );
    Some(LastLevelCache { cpus, level, size })
}

fn read_nodes(reader: &mut Reader<'_>) -> Vec<Node> {
    const FOLDER: &str = "devices/system/node";
    let ids = reader.numbered(FOLDER, "node", Need::Expected);
    let mut nodes = Vec::new();
    for id in ids {
        let entry = format!("{FOLDER}/node{id}/cpulist");
        if let Some(cpus) = reader.sysfs(&entry, Need::Expected, CpuSet::parse) {
            nodes.push(Node { id, cpus });
        }
    }
    nodes
}

fn speeds(cpus: &[Cpu]) -> Vec<Speed> {
    let mut groups: BTreeMap<(Option<u32>, Option<u64>), CpuSet> = BTreeMap::new();
    for cpu in cpus {
        groups
            .entry((cpu.capacity, cpu.max_frequency_khz))
            .or_default()
            .insert(cpu.id);
    }
    groups.remove(&(None, None));
    let mut speeds: Vec<Speed> = groups
        .into_iter()
        .map(|((capacity, max_frequency_khz), cpus)| Speed {
            cpus,
            capacity,
            max_frequency_khz,
        })
        .collect();
    speeds.sort_by_key(|speed| speed.cpus.first());
    speeds
}

/// Each value once, in the order of first appearance.
pub(crate) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

pub(crate) fn trimmed(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}
