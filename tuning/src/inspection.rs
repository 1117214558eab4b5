//! What is here: everything that `ringgate-tune inspect` shows.

use serde::Serialize;

use crate::ability::Abilities;
use crate::cgroup::Limits;
use crate::cpu_set::CpuSet;
use crate::hindrance::{self, Hindrance};
use crate::host::{Host, Need, Note, Reader};
use crate::nic::{Bond, Network, Nic};
use crate::topology::Topology;

/// One host as it was read; serialises to the JSON of `inspect --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// CPUs that this kernel can ever have.
    pub possible: CpuSet,
    /// Where sysfs does not say: the possible ones, or those of the affinity mask.
    pub online: CpuSet,
    /// The affinity mask of the process; `None` where nothing says.
    pub affinity: Option<CpuSet>,
    /// Online, in the affinity mask and in the cgroup's cpuset.
    pub usable: CpuSet,
    pub cgroup: Limits,
    pub topology: Topology,
    /// The efficient cores of a hybrid x86-64; empty elsewhere.
    pub efficient: CpuSet,
    /// The network cards, and what else was asked for by name.
    pub nics: Vec<Nic>,
    pub bonds: Vec<Bond>,
    pub abilities: Abilities,
    /// What holds the terminator back here, each with its remedy.
    pub hindrances: Vec<Hindrance>,
    /// What could not be read; the rest is right all the same.
    pub notes: Vec<Note>,
}

impl Inspection {
    /// Reads `host`. `affinity` is the process's mask where it is known; without it the mask is
    /// what `proc/self/status` below the host's root says.
    pub fn read(host: &Host, affinity: Option<CpuSet>) -> Self {
        Self::read_with(host, affinity, &[])
    }

    /// As [`Inspection::read`]; network interfaces in `named` are read though they be no cards.
    pub fn read_with(host: &Host, affinity: Option<CpuSet>, named: &[String]) -> Self {
        let mut reader = Reader::new(host);
        let possible = read_possible(&mut reader);
        let affinity =
            affinity.or_else(|| reader.proc("self/status", Need::Expected, parse_allowed_cpus));
        let online = read_online(&mut reader, &possible, affinity.as_ref());
        let cgroup = Limits::read(&mut reader);
        let topology = Topology::read(&mut reader, &online);
        let usable = [&affinity, &cgroup.cpuset]
            .into_iter()
            .flatten()
            .fold(online.clone(), |usable, allowed| {
                usable.intersection(allowed)
            });
        if usable.is_empty() {
            reader.note("sys/devices/system/cpu", None, "no CPU is usable");
        }
        let efficient = read_efficient(&mut reader, &online);
        let Network { nics, bonds } = Network::read(&mut reader, named);
        let abilities = Abilities::read(&mut reader);
        let hindrances = hindrance::find(&online, &usable, affinity.as_ref(), &cgroup, &abilities);
        let notes = reader.into_notes();
        Self {
            possible,
            online,
            affinity,
            usable,
            cgroup,
            topology,
            efficient,
            nics,
            bonds,
            abilities,
            hindrances,
            notes,
        }
    }
}

fn read_possible(reader: &mut Reader<'_>) -> CpuSet {
    const FOLDER: &str = "devices/system/cpu";
    reader
        .sysfs(&format!("{FOLDER}/possible"), Need::Expected, not_empty)
        .unwrap_or_else(|| {
            reader
                .numbered(FOLDER, "cpu", Need::Expected)
                .into_iter()
                .collect()
        })
}

/// Where sysfs is not mounted, what is known are the CPUs that the process may run on.
fn read_online(reader: &mut Reader<'_>, possible: &CpuSet, affinity: Option<&CpuSet>) -> CpuSet {
    const ENTRY: &str = "devices/system/cpu/online";
    reader
        .sysfs(ENTRY, Need::Expected, not_empty)
        .unwrap_or_else(|| {
            let (who, cpus) = match affinity {
                Some(affinity) if possible.is_empty() => {
                    ("every CPU of the affinity mask", affinity)
                }
                _ => ("every possible CPU", possible),
            };
            let problem = format!("{who} is taken to be online: {cpus}");
            reader.note(&format!("sys/{ENTRY}"), None, problem);
            cpus.clone()
        })
}

/// A hybrid x86-64 has a folder for each kind of core. There may be a third kind, slower still, so
/// whoever is not among the fast ones counts.
fn read_efficient(reader: &mut Reader<'_>, online: &CpuSet) -> CpuSet {
    let fast = reader.sysfs("devices/cpu_core/cpus", Need::Optional, not_empty);
    let efficient = reader.sysfs("devices/cpu_atom/cpus", Need::Optional, CpuSet::parse);
    match fast {
        Some(fast) => online.difference(&fast),
        None => efficient.unwrap_or_default().intersection(online),
    }
}

fn not_empty(text: &str) -> Result<CpuSet, String> {
    match CpuSet::parse(text)? {
        cpus if cpus.is_empty() => Err("names no CPU".to_owned()),
        cpus => Ok(cpus),
    }
}

/// `Cpus_allowed_list` of proc_pid_status(5).
fn parse_allowed_cpus(status: &str) -> Result<CpuSet, String> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    CpuSet::parse(list.ok_or("has no line `Cpus_allowed_list`")?)
}
