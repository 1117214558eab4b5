//! Knobs: what `apply` may turn, where each lives, and when two of its values are the same.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cpu_set::{CPU_ID_MAX, CpuSet};
use crate::host::Host;
use crate::layout::Layout;
use crate::nic::queue_in_name;

/// One setting of the kernel. Interrupts go by name: their numbers are others after a restart, or
/// after the count of queues changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "knob", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Knob {
    /// `ethtool -L`.
    Queues { nic: String },
    /// `ethtool -C`.
    Coalesce { nic: String, setting: String },
    /// `/proc/irq/N/smp_affinity_list`.
    Irq { name: String },
    /// `/sys/class/net/NIC/queues/rx-N/rps_cpus`.
    Rps { nic: String, queue: u32 },
    /// `/sys/class/net/NIC/queues/tx-N/xps_cpus`.
    Xps { nic: String, queue: u32 },
    /// `/sys/class/net/NIC/napi_defer_hard_irqs`.
    DeferHardIrqs { nic: String },
    /// `/sys/class/net/NIC/gro_flush_timeout`.
    GroFlushTimeout { nic: String },
    /// Below `/proc/sys`, by its dotted name.
    Sysctl { name: String },
}

/// A knob, and what a layout wants of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Want {
    pub knob: Knob,
    /// As it is written; for [`Knob::Queues`] the number alone.
    pub value: String,
    /// The network card that the knob comes and goes with.
    pub nic: Option<String>,
    /// It belongs to a queue past the count that the layout sets, and may be gone with it.
    pub past: bool,
}

impl Want {
    /// What `layout` wants, in the order in which it is applied: counts of queues first, since they
    /// make and unmake interrupts and queues.
    pub fn all(layout: &Layout) -> Vec<Self> {
        let nics = &layout.nics;
        let of = |nic: &str, knob, value| Self {
            knob,
            value,
            nic: Some(nic.to_owned()),
            past: false,
        };
        let mut wants: Vec<Self> = Vec::new();
        for nic in nics {
            let (name, knob) = (
                &nic.name,
                Knob::Queues {
                    nic: nic.name.clone(),
                },
            );
            wants.extend(nic.queues.map(|count| of(name, knob, count.to_string())));
        }
        for nic in nics {
            let name = &nic.name;
            for (setting, value) in &nic.coalesce {
                let (nic, setting) = (name.clone(), setting.clone());
                wants.push(of(name, Knob::Coalesce { nic, setting }, value.to_string()));
            }
            for (irq, cpus) in &nic.irqs {
                let knob = Knob::Irq { name: irq.clone() };
                let past = nic.is_past(queue_in_name(irq));
                let want = of(name, knob, cpus.to_string());
                wants.push(Self { past, ..want });
            }
            let mut of_queue = |queue, knob, cpus| {
                let past = nic.is_past(Some(queue));
                let want = of(name, knob, mask(cpus));
                wants.push(Self { past, ..want });
            };
            for &(queue, ref cpus) in &nic.rps {
                let nic = name.clone();
                of_queue(queue, Knob::Rps { nic, queue }, cpus);
            }
            for &(queue, ref cpus) in &nic.xps {
                let nic = name.clone();
                of_queue(queue, Knob::Xps { nic, queue }, cpus);
            }
            let knob = Knob::DeferHardIrqs { nic: name.clone() };
            let count = nic.napi_defer_hard_irqs;
            wants.extend(count.map(|count| of(name, knob, count.to_string())));
            let knob = Knob::GroFlushTimeout { nic: name.clone() };
            let timeout = nic.gro_flush_timeout_ns;
            wants.extend(timeout.map(|timeout| of(name, knob, timeout.to_string())));
        }
        wants.extend(layout.sysctls.iter().map(|sysctl| Self {
            knob: Knob::Sysctl {
                name: sysctl.name.clone(),
            },
            value: sysctl.value.clone(),
            nic: None,
            past: false,
        }));
        wants
    }
}

impl Knob {
    /// Whether it is a count of queues, with which other knobs come and go.
    pub fn is_queues(&self) -> bool {
        matches!(self, Self::Queues { .. })
    }

    /// Whether a driver may set it anew when counts of queues change.
    pub fn comes_with_queues(&self) -> bool {
        !matches!(self, Self::Queues { .. } | Self::Sysctl { .. })
    }

    /// Its file, where it has one whose path its name tells. An interrupt's depends on its number.
    pub fn file(&self, host: &Host) -> Option<PathBuf> {
        let net = |nic: &str| host.sysfs.join("class/net").join(nic);
        Some(match self {
            Self::Queues { .. } | Self::Coalesce { .. } | Self::Irq { .. } => return None,
            Self::Rps { nic, queue } => net(nic).join(format!("queues/rx-{queue}/rps_cpus")),
            Self::Xps { nic, queue } => net(nic).join(format!("queues/tx-{queue}/xps_cpus")),
            Self::DeferHardIrqs { nic } => net(nic).join("napi_defer_hard_irqs"),
            Self::GroFlushTimeout { nic } => net(nic).join("gro_flush_timeout"),
            Self::Sysctl { name } => host.proc.join("sys").join(name.replace('.', "/")),
        })
    }

    /// Whether the kernel means the same by both values.
    pub fn same(&self, one: &str, other: &str) -> bool {
        fn both<T: PartialEq>(one: &str, other: &str, read: fn(&str) -> Option<T>) -> bool {
            read(one).is_some_and(|value| read(other) == Some(value))
        }
        let (one, other) = (one.trim(), other.trim());
        one == other
            || match self {
                Self::Irq { .. } => both(one, other, |text| CpuSet::parse(text).ok()),
                Self::Rps { .. } | Self::Xps { .. } => both(one, other, mask_cpus),
                Self::Coalesce { .. }
                | Self::DeferHardIrqs { .. }
                | Self::GroFlushTimeout { .. } => both(one, other, |text| text.parse::<u64>().ok()),
                Self::Queues { .. } | Self::Sysctl { .. } => {
                    one.split_whitespace().eq(other.split_whitespace())
                }
            }
    }

    /// Whether every name in it can be part of a path and of a command, as a layout's names can: a
    /// journal says what is written as root. An interrupt's name is only compared.
    pub fn is_sound(&self) -> bool {
        let names = match self {
            Self::Irq { name } => return !name.is_empty(),
            Self::Coalesce { nic, setting } => vec![nic, setting],
            Self::Sysctl { name } => vec![name],
            Self::Queues { nic }
            | Self::Rps { nic, .. }
            | Self::Xps { nic, .. }
            | Self::DeferHardIrqs { nic }
            | Self::GroFlushTimeout { nic } => vec![nic],
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
        names.into_iter().all(|name| {
            !name.starts_with('-')
                && name.bytes().all(plain)
                && name.split('.').all(|part| !part.is_empty())
        })
    }
}

impl fmt::Display for Knob {
    /// What it is called for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues { nic } => write!(f, "{nic}: queues"),
            Self::Coalesce { nic, setting } => write!(f, "{nic}: coalescing {setting}"),
            // On one line, whatever a driver or a layout calls it.
            Self::Irq { name } => write!(f, "interrupt {}", name.escape_debug()),
            Self::Rps { nic, queue } => write!(f, "{nic}: rps_cpus of rx-{queue}"),
            Self::Xps { nic, queue } => write!(f, "{nic}: xps_cpus of tx-{queue}"),
            Self::DeferHardIrqs { nic } => write!(f, "{nic}: napi_defer_hard_irqs"),
            Self::GroFlushTimeout { nic } => write!(f, "{nic}: gro_flush_timeout"),
            Self::Sysctl { name } => f.write_str(name),
        }
    }
}

/// A mask as the kernel reads it: hexadecimal groups of 32 CPUs, the highest first.
fn mask(cpus: &CpuSet) -> String {
    let groups = cpus.iter().last().map_or(0, |last| last / 32) + 1;
    let group = |group: u32| {
        let bits = cpus.iter().filter(|cpu| cpu / 32 == group);
        bits.fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32))
    };
    let first = format!("{:x}", group(groups - 1));
    let rest = (0..groups - 1)
        .rev()
        .map(|at| format!(",{:08x}", group(at)));
    std::iter::once(first).chain(rest).collect()
}

/// The CPUs of a mask; `None` where the text is none.
fn mask_cpus(text: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::default();
    for (group, digits) in (0_u32..).zip(text.rsplit(',')) {
        let bits = u32::from_str_radix(digits, 16).ok()?;
        for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
            let cpu = group.checked_mul(32)?.checked_add(bit)?;
            cpus.insert(Some(cpu).filter(|&cpu| cpu <= CPU_ID_MAX)?);
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_groups_of_32_cpus_the_highest_first() {
        for (cpus, written) in [
            ("", "0"),
            ("0", "1"),
            ("0-7", "ff"),
            ("31", "80000000"),
            ("32", "1,00000000"),
            ("1,33-34,95", "80000000,00000006,00000002"),
        ] {
            let cpus = CpuSet::parse(cpus).unwrap();
            assert_eq!(mask(&cpus), written);
            assert_eq!(mask_cpus(written), Some(cpus));
        }
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        let nic = || "eth0".to_owned();
        let rps = Knob::Rps {
            nic: nic(),
            queue: 0,
        };
        let irq = Knob::Irq { name: nic() };
        let number = Knob::DeferHardIrqs { nic: nic() };
        let words = Knob::Sysctl { name: "a.b".into() };
        for (knob, one, other, same) in [
            (&rps, "00000000,000000ff", "ff", true),
            (&rps, "0", "00000000,00000000", true),
            (&rps, "1,00000000", "1", false),
            (&rps, "x", "0", false),
            (&rps, "x", "y", false),
            (&rps, "123456789", "23456789", false),
            (&irq, "0-2", "0,1,2", true),
            (&irq, "0-2", "0,2", false),
            (&irq, "?", "!", false),
            (&number, "010", "10", true),
            (&number, "10", "1", false),
            (&words, "1024\t65535", "1024 65535", true),
            (&words, "1024 65535", "102465535", false),
        ] {
            assert_eq!(knob.same(one, other), same, "{knob}: {one} and {other}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_not_sound() {
        for (name, sound) in [
            ("net.core.somaxconn", true),
            ("eth0-TxRx-0", true),
            ("..", false),
            ("a..b", false),
            ("a/b", false),
            ("-L", false),
            ("", false),
            ("a b", false),
        ] {
            let knob = Knob::Sysctl { name: name.into() };
            assert_eq!(knob.is_sound(), sound, "{name}");
        }
    }
}
