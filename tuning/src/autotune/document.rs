//! A candidate as the `layout.toml` that the server reads: everything a layout says, without the
//! remarks that `plan` gives.

use std::fmt::{self, Display, Formatter};

use crate::cpu_set::CpuSet;
use crate::layout::{Layout, Memory, Nic, Shard, Shards, Steering};

/// Shows a layout as TOML; [`Layout::parse`] reads the same layout back.
#[derive(Debug)]
pub struct Document<'a>(pub &'a Layout);

impl Display for Document<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let layout = self.0;
        writeln!(
            f,
            "version = 1\n\n[host]\nonline = {}",
            cpus(&layout.host.online)
        )?;
        writeln!(
            f,
            "cores = {}\nnodes = {}",
            layout.host.cores, layout.host.nodes
        )?;
        writeln!(f, "\n[shards]")?;
        match &layout.shards {
            Shards::Unpinned(count) => writeln!(f, "count = {count}")?,
            Shards::Pinned(shards) => {
                writeln!(f, "list = [")?;
                for each in shards {
                    shard(f, each)?;
                }
                writeln!(f, "]")?;
            }
        }
        if !layout.housekeeping.is_empty() {
            writeln!(f, "housekeeping = {}", cpus(&layout.housekeeping))?;
        }
        let memory = match layout.memory {
            Memory::Bind => "bind",
            Memory::Local => "local",
        };
        let steering = match layout.steering {
            Steering::Cpu => "cpu",
            Steering::Hash => "hash",
        };
        writeln!(f, "memory = \"{memory}\"\nsteering = \"{steering}\"")?;
        let ring = [
            ("entries", layout.ring.entries),
            ("sqpoll_ms", layout.ring.sqpoll_ms),
            ("busy_poll_us", layout.ring.busy_poll_us),
        ];
        if ring.iter().any(|(_, value)| value.is_some()) {
            writeln!(f, "\n[ring]")?;
        }
        for (name, value) in ring {
            optional(f, name, value)?;
        }
        for each in &layout.nics {
            nic(f, each)?;
        }
        if !layout.sysctls.is_empty() {
            writeln!(f, "\n[sysctl]")?;
        }
        for sysctl in &layout.sysctls {
            writeln!(f, "{} = {}", quoted(&sysctl.name), quoted(&sysctl.value))?;
        }
        Ok(())
    }
}

fn shard(f: &mut Formatter<'_>, shard: &Shard) -> fmt::Result {
    write!(f, "  {{ cpu = {}", shard.cpu)?;
    if let Some(node) = shard.node {
        write!(f, ", node = {node}")?;
    }
    if !shard.serves.is_empty() {
        write!(f, ", serves = {}", cpus(&shard.serves))?;
    }
    if let Some(listeners) = &shard.listeners {
        let names: Vec<String> = listeners.iter().map(|name| quoted(name)).collect();
        write!(f, ", listeners = [{}]", names.join(", "))?;
    }
    writeln!(f, " }},")
}

fn nic(f: &mut Formatter<'_>, nic: &Nic) -> fmt::Result {
    writeln!(f, "\n[[nic]]\nname = {}", quoted(&nic.name))?;
    optional(f, "queues", nic.queues)?;
    let irqs = nic.irqs.iter();
    let irqs = irqs.map(|(name, on)| format!("{{ name = {}, cpus = {} }}", quoted(name), cpus(on)));
    list(f, "irqs", irqs.collect())?;
    for (name, queues) in [("rps", &nic.rps), ("xps", &nic.xps)] {
        let queues = queues.iter();
        let queues =
            queues.map(|(queue, on)| format!("{{ queue = {queue}, cpus = {} }}", cpus(on)));
        list(f, name, queues.collect())?;
    }
    let coalesce = nic.coalesce.iter();
    let coalesce: Vec<String> = coalesce
        .map(|(name, value)| format!("{} = {value}", quoted(name)))
        .collect();
    if !coalesce.is_empty() {
        writeln!(f, "coalesce = {{ {} }}", coalesce.join(", "))?;
    }
    optional(f, "napi_defer_hard_irqs", nic.napi_defer_hard_irqs)?;
    optional(f, "gro_flush_timeout_ns", nic.gro_flush_timeout_ns)
}

fn optional(f: &mut Formatter<'_>, name: &str, value: Option<impl Display>) -> fmt::Result {
    match value {
        Some(value) => writeln!(f, "{name} = {value}"),
        None => Ok(()),
    }
}

fn list(f: &mut Formatter<'_>, name: &str, items: Vec<String>) -> fmt::Result {
    match items.is_empty() {
        true => Ok(()),
        false => writeln!(f, "{name} = [{}]", items.join(", ")),
    }
}

fn cpus(cpus: &CpuSet) -> String {
    match cpus.is_empty() {
        true => "\"\"".to_owned(),
        false => format!("\"{cpus}\""),
    }
}

/// A basic string of TOML; JSON escapes what it must not hold, all but the one named here.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::layout::{HostShape, Ring, Sysctl};

    fn reads_back(layout: &Layout) {
        let text = Document(layout).to_string();
        let read = Layout::parse(Path::new("layout.toml"), &text);
        assert_eq!(read.as_ref(), Ok(layout), "{text}");
    }

    #[test]
    fn everything_a_layout_says_reads_back() {
        let cpus = |text: &str| CpuSet::parse(text).unwrap();
        let mut layout = Layout {
            host: HostShape {
                online: cpus("0-3"),
                cores: 4,
                nodes: 2,
            },
            shards: Shards::Pinned(vec![
                Shard {
                    cpu: 1,
                    node: Some(0),
                    serves: cpus("0-1"),
                    listeners: Some(vec!["front \"door\" \u{7f}\n".to_owned(), "ä".to_owned()]),
                },
                Shard {
                    cpu: 3,
                    node: None,
                    serves: CpuSet::default(),
                    listeners: None,
                },
            ]),
            housekeeping: cpus("0"),
            memory: Memory::Bind,
            steering: Steering::Cpu,
            ring: Ring {
                entries: Some(4096),
                sqpoll_ms: Some(2),
                busy_poll_us: Some(50),
            },
            nics: vec![
                Nic {
                    name: "eth0".to_owned(),
                    queues: Some(2),
                    irqs: vec![("eth0-TxRx-0".to_owned(), cpus("1"))],
                    rps: vec![(0, CpuSet::default())],
                    xps: vec![(1, cpus("0-1"))],
                    coalesce: vec![("rx-usecs".to_owned(), 8), ("tx-usecs".to_owned(), 9)],
                    napi_defer_hard_irqs: Some(2),
                    gro_flush_timeout_ns: Some(200_000),
                },
                Nic {
                    name: "eth1".to_owned(),
                    ..Nic::default()
                },
            ],
            sysctls: vec![Sysctl {
                name: "net.ipv4.ip_local_port_range".to_owned(),
                value: "1024 65535".to_owned(),
            }],
        };
        reads_back(&layout);
        layout.shards = Shards::Unpinned(3);
        layout.steering = Steering::Hash;
        layout.housekeeping = CpuSet::default();
        layout.ring = Ring::default();
        layout.nics.clear();
        layout.sysctls.clear();
        reads_back(&layout);
    }
}
