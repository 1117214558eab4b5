//! How many CPUs, and which, our control group leaves us (cgroup v2, and v1 where that is mounted).
//!
//! A limit holds for a group and everything below it, so the tightest from our own group up to the
//! root is the one that counts. In a container the path in `proc/self/cgroup` may be the host's
//! while only the container's own group is mounted; the way up ends at the same mount then, and
//! finds it.

use serde::Serialize;

use crate::cpu_set::CpuSet;
use crate::host::{Need, Reader};

const MOUNT: &str = "fs/cgroup";

/// What the control groups allow.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// 1 or 2; `None` where no hierarchy was found.
    pub version: Option<u8>,
    /// CPU time; `None` where it is not limited.
    pub quota: Option<Quota>,
    /// CPUs that we may run on; `None` where no group says so.
    pub cpuset: Option<CpuSet>,
}

/// CPU time that a group may use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quota {
    /// `quota_us / period_us`: CPUs' worth of time.
    pub cpus: f64,
    pub quota_us: u64,
    pub period_us: u64,
    /// The file that says so.
    pub entry: String,
}

impl Limits {
    /// The quota, where it is less than what `cpus` CPUs can take.
    #[expect(clippy::cast_precision_loss, reason = "CPUs fit 52 bits")]
    pub fn quota_below(&self, cpus: usize) -> Option<&Quota> {
        self.quota.as_ref().filter(|quota| quota.cpus < cpus as f64)
    }

    pub fn read(reader: &mut Reader<'_>) -> Self {
        let groups = reader.proc("self/cgroup", Need::Expected, |text| Ok(text.to_owned()));
        let groups = groups.unwrap_or_default();
        if reader.has(&format!("{MOUNT}/cgroup.controllers")) {
            return Self::read_v2(reader, &groups);
        }
        if let (Some(cpu), cpuset) = (v1_folder(reader, "cpu"), v1_folder(reader, "cpuset")) {
            return Self::read_v1(reader, &groups, &cpu, cpuset.as_deref());
        }
        reader.note(
            &format!("sys/{MOUNT}"),
            None,
            "holds no cgroup hierarchy; no limit is known",
        );
        Self::default()
    }

    fn read_v2(reader: &mut Reader<'_>, groups: &str) -> Self {
        let folders = way_up(MOUNT, own_group(reader, groups, ""));
        let quotas = folders.iter().filter_map(|folder| {
            let entry = format!("{folder}/cpu.max");
            let limit = reader.sysfs(&entry, Need::Optional, parse_cpu_max)?;
            limit.map(|(quota_us, period_us)| Quota::new(quota_us, period_us, entry))
        });
        let quota = tightest(quotas.collect());
        let cpuset = folders.iter().find_map(|folder| {
            let entry = format!("{folder}/cpuset.cpus.effective");
            reader.sysfs(&entry, Need::Optional, CpuSet::parse)
        });
        Self {
            version: Some(2),
            quota,
            cpuset,
        }
    }

    fn read_v1(reader: &mut Reader<'_>, groups: &str, cpu: &str, cpuset: Option<&str>) -> Self {
        let folders = way_up(cpu, own_group(reader, groups, "cpu"));
        let quotas = folders.iter().filter_map(|folder| {
            let entry = format!("{folder}/cpu.cfs_quota_us");
            // -1 stands for "no limit".
            let quota_us: i64 = reader.sysfs(&entry, Need::Optional, parse_number)?;
            let quota_us = u64::try_from(quota_us).ok()?;
            let period = format!("{folder}/cpu.cfs_period_us");
            let period_us = reader.sysfs(&period, Need::Expected, parse_period)?;
            Some(Quota::new(quota_us, period_us, entry))
        });
        let quota = tightest(quotas.collect());
        let folders = cpuset.map(|root| way_up(root, own_group(reader, groups, "cpuset")));
        let cpuset = folders.unwrap_or_default().iter().find_map(|folder| {
            ["cpuset.effective_cpus", "cpuset.cpus"]
                .iter()
                .find_map(|file| {
                    reader.sysfs(&format!("{folder}/{file}"), Need::Optional, CpuSet::parse)
                })
        });
        Self {
            version: Some(1),
            quota,
            cpuset,
        }
    }
}

impl Quota {
    fn new(quota_us: u64, period_us: u64, entry: String) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a quota fit 52 bits"
        )]
        let cpus = quota_us as f64 / period_us as f64;
        Self {
            cpus,
            quota_us,
            period_us,
            entry: format!("sys/{entry}"),
        }
    }
}

fn tightest(quotas: Vec<Quota>) -> Option<Quota> {
    quotas.into_iter().min_by(|a, b| a.cpus.total_cmp(&b.cpus))
}

/// The folder in which a v1 controller is mounted.
fn v1_folder(reader: &Reader<'_>, controller: &str) -> Option<String> {
    let joined = match controller {
        "cpu" => &["cpu", "cpu,cpuacct", "cpuacct,cpu"][..],
        _ => &["cpuset"][..],
    };
    joined
        .iter()
        .map(|name| format!("{MOUNT}/{name}"))
        .find(|folder| reader.has(folder))
}

/// Our group's path below the mount of `controller`; the empty name is v2.
fn own_group<'g>(reader: &mut Reader<'_>, groups: &'g str, controller: &str) -> &'g str {
    let own = groups.lines().find_map(|line| {
        // "7:cpu,cpuacct:/path"; the path may hold colons.
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    });
    let problem = match own {
        Some(path) if path.split('/').any(|part| part == "..") => {
            "our group lies outside what is mounted here; its limits are unknown"
        }
        Some(path) => return path,
        None if controller.is_empty() => "names no cgroup v2 group",
        None => "names no group of the controllers `cpu` and `cpuset`",
    };
    reader.note("proc/self/cgroup", None, problem);
    "/"
}

/// The group's folder and each above it, up to the mount.
fn way_up(mount: &str, group: &str) -> Vec<String> {
    let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
    (0..=parts.len())
        .rev()
        .map(|depth| {
            std::iter::once(mount)
                .chain(parts[..depth].iter().copied())
                .collect::<Vec<_>>()
                .join("/")
        })
        .collect()
}

/// `max 100000` or `250000 100000` (cgroup-v2.rst, "cpu.max").
fn parse_cpu_max(text: &str) -> Result<Option<(u64, u64)>, String> {
    let odd = || format!("`{}` is not of the form `QUOTA PERIOD`", text.trim());
    let (quota, period) = text.trim().split_once(' ').ok_or_else(odd)?;
    let period = parse_period(period)?;
    match quota {
        "max" => Ok(None),
        _ => Ok(Some((quota.parse().map_err(|_| odd())?, period))),
    }
}

fn parse_period(text: &str) -> Result<u64, String> {
    match parse_number(text)? {
        0 => Err("a period of 0 cannot be".to_owned()),
        period => Ok(period),
    }
}

/// The whole text as a number.
pub(crate) fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let text = text.trim();
    text.parse()
        .map_err(|_| format!("`{text}` is not the number that is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_is_a_quota_or_none() {
        assert_eq!(
            parse_cpu_max("250000 100000\n"),
            Ok(Some((250_000, 100_000)))
        );
        assert_eq!(parse_cpu_max("max 100000\n"), Ok(None));
        for odd in ["", "max", "1", "x 100000", "1 0", "-1 100000"] {
            assert!(parse_cpu_max(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_way_up_ends_at_the_mount() {
        assert_eq!(way_up("m", "/a/b"), ["m/a/b", "m/a", "m"]);
        assert_eq!(way_up("m", "/"), ["m"]);
    }
}
