//! What the kernel allows this process, and what is set already.

use serde::Serialize;

use crate::cgroup::parse_number;
use crate::cpu_set::CpuSet;
use crate::host::{Need, Reader};
use crate::topology::trimmed;

/// The kernel settings that a plan may name.
pub const SYSCTLS: [&str; 5] = [
    "net.core.somaxconn",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.ip_local_port_range",
    "net.core.netdev_max_backlog",
    "kernel.numa_balancing",
];

/// Each `None` where nothing says.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Abilities {
    /// The release, as `uname -r` shows it.
    pub kernel: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for everyone, 1 for members of a group, 2 for no one; kernels
    /// before 6.6 do not have it.
    pub io_uring_disabled: Option<u32>,
    /// Bytes (RLIMIT_MEMLOCK).
    pub locked_memory: Option<Range>,
    /// RLIMIT_NOFILE.
    pub descriptors: Option<Range>,
    pub seccomp: Option<Seccomp>,
    pub no_new_privs: Option<bool>,
    /// `on`, `off`, `forceoff`, `notsupported` or `notimplemented`.
    pub smt: Option<String>,
    /// CPUs that the scheduler leaves alone (`isolcpus=`).
    pub isolated: CpuSet,
    /// CPUs whose timer tick stops while one thread runs there (`nohz_full=`).
    pub nohz_full: CpuSet,
    /// What [`SYSCTLS`] are now, in their order.
    pub sysctls: Vec<Setting>,
}

/// A limit that a process may raise itself up to `hard`; `None` is no limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Range {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// `Seccomp` of proc_pid_status(5).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    Off,
    Strict,
    /// System calls are judged by a filter, which cannot be read.
    Filter,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Setting {
    pub name: String,
    /// As it is written; several numbers are separated by one blank.
    pub value: Option<String>,
}

impl Abilities {
    pub fn read(reader: &mut Reader<'_>) -> Self {
        const CPU: &str = "devices/system/cpu";
        let limits = reader.proc("self/limits", Need::Optional, |text| Ok(text.to_owned()));
        let limits = limits.unwrap_or_default();
        let status = reader.proc("self/status", Need::Optional, |text| Ok(text.to_owned()));
        let status = status.unwrap_or_default();
        let setting = |name: &&str| Setting {
            name: (*name).to_owned(),
            value: reader.proc(&sysctl_entry(name), Need::Hint, one_blank),
        };
        let sysctls = SYSCTLS.iter().map(setting).collect();
        Self {
            kernel: reader.proc("sys/kernel/osrelease", Need::Optional, trimmed),
            io_uring_disabled: reader.proc(
                "sys/kernel/io_uring_disabled",
                Need::Hint,
                parse_number,
            ),
            locked_memory: range(&limits, "Max locked memory"),
            descriptors: range(&limits, "Max open files"),
            seccomp: field(&status, "Seccomp:").and_then(|mode| match mode {
                "0" => Some(Seccomp::Off),
                "1" => Some(Seccomp::Strict),
                "2" => Some(Seccomp::Filter),
                _ => None,
            }),
            no_new_privs: field(&status, "NoNewPrivs:").map(|flag| flag != "0"),
            smt: reader.sysfs(&format!("{CPU}/smt/control"), Need::Optional, trimmed),
            isolated: cpus(reader, &format!("{CPU}/isolated")),
            nohz_full: cpus(reader, &format!("{CPU}/nohz_full")),
            sysctls,
        }
    }

    /// What a kernel setting is now.
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        let setting = self.sysctls.iter().find(|setting| setting.name == name)?;
        setting.value.as_deref()
    }

    /// Major and minor of the release.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self
            .kernel
            .as_deref()?
            .split(|byte: char| !byte.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Where proc has the kernel setting of a dotted name.
fn sysctl_entry(name: &str) -> String {
    format!("sys/{}", name.replace('.', "/"))
}

fn one_blank(text: &str) -> Result<String, String> {
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn cpus(reader: &mut Reader<'_>, entry: &str) -> CpuSet {
    let list = |text: &str| match text.trim() {
        // What kernels say that were not told.
        "(null)" => Ok(CpuSet::default()),
        text => CpuSet::parse(text),
    };
    reader
        .sysfs(entry, Need::Optional, list)
        .unwrap_or_default()
}

fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map(str::trim)
}

/// A line of `proc/self/limits`: name, soft limit, hard limit, units.
fn range(limits: &str, name: &str) -> Option<Range> {
    let mut columns = field(limits, name)?.split_whitespace();
    let mut limit = || match columns.next()? {
        "unlimited" => Some(None),
        number => Some(Some(number.parse().ok()?)),
    };
    Some(Range {
        soft: limit()?,
        hard: limit()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_two_columns_of_numbers_or_unlimited() {
        let text = "Max open files            1024                 524288               files\n\
                    Max locked memory         unlimited            unlimited            bytes\n\
                    Max odd                   x                    1                    bytes\n";
        assert_eq!(
            range(text, "Max open files"),
            Some(Range {
                soft: Some(1024),
                hard: Some(524_288)
            })
        );
        let unlimited = Range {
            soft: None,
            hard: None,
        };
        assert_eq!(range(text, "Max locked memory"), Some(unlimited));
        assert_eq!(range(text, "Max odd"), None);
        assert_eq!(range(text, "Max stack size"), None);
    }

    #[test]
    fn a_release_begins_with_two_numbers() {
        for (release, version) in [
            ("6.12.9-amd64", Some((6, 12))),
            ("5.15", Some((5, 15))),
            ("six", None),
        ] {
            let abilities = Abilities {
                kernel: Some(release.to_owned()),
                ..Abilities::default()
            };
            assert_eq!(abilities.kernel_version(), version);
        }
    }
}
