//! A [`Layout`] as TOML, with its reasons as comments.

use std::fmt::{Display, Write};

use super::document::VERSION;
use super::why::{NicWhy, Why};
use super::{Layout, Memory, Nic, Shards, Steering};
use crate::cpu_set::CpuSet;

/// Columns of a comment that stands by itself.
const WIDTH: usize = 96;

pub(super) fn write(layout: &Layout, why: &Why) -> String {
    let mut text = Text::default();
    text.value("version", VERSION);
    text.head("[host]");
    text.comment(&why.host);
    text.value("online", quoted_cpus(&layout.host.online));
    text.value("cores", layout.host.cores);
    text.value("nodes", layout.host.nodes);
    text.shards(layout, why);
    text.ring(layout, why);
    if !why.no_nic.is_empty() {
        text.line("");
        text.comment(&why.no_nic);
    }
    let nowhy = NicWhy::default();
    for (at, nic) in layout.nics.iter().enumerate() {
        text.nic(nic, why.nics.get(at).unwrap_or(&nowhy));
    }
    if !layout.sysctls.is_empty() {
        text.head("[sysctl]");
    }
    for (at, sysctl) in layout.sysctls.iter().enumerate() {
        text.comment(reason(&why.sysctls, at));
        let number = sysctl.value.parse::<i64>().ok();
        match number.filter(|number| number.to_string() == sysctl.value) {
            Some(number) => text.value(&quoted(&sysctl.name), number),
            None => text.value(&quoted(&sysctl.name), quoted(&sysctl.value)),
        }
    }
    if !why.advice.is_empty() {
        text.line("");
        text.comment("Boot parameters and firmware, which this program never changes:");
    }
    for advice in &why.advice {
        text.comment(advice);
    }
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }

    fn head(&mut self, head: &str) {
        self.line("");
        self.line(head);
    }

    fn value(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("{name} = {value}"));
    }

    /// On lines of its own, broken at blanks.
    fn comment(&mut self, comment: &str) {
        let mut line = String::new();
        for word in comment.split_whitespace() {
            if !line.is_empty() && line.len() + word.len() + 3 > WIDTH {
                self.line(format_args!("#{line}"));
                line.clear();
            }
            line.push(' ');
            line += &plain(word);
        }
        if !line.is_empty() {
            self.line(format_args!("#{line}"));
        }
    }

    /// A list with an item and its reason on each line.
    fn list(&mut self, name: &str, items: &[String], why: &[String]) {
        self.line(format_args!("{name} = ["));
        let width = items.iter().map(String::len).max().unwrap_or(0) + 1;
        for (at, item) in items.iter().enumerate() {
            let item = format!("{item},");
            match reason(why, at) {
                "" => self.line(format_args!("  {item}")),
                why => self.line(format_args!("  {item:<width$}  # {}", plain(why))),
            }
        }
        self.line("]");
    }

    fn shards(&mut self, layout: &Layout, why: &Why) {
        self.head("[shards]");
        self.comment(&why.shards_rule);
        match &layout.shards {
            Shards::Pinned(shards) => {
                let items = shards.iter().map(|shard| {
                    let mut item = format!("{{ cpu = {}", shard.cpu);
                    if let Some(node) = shard.node {
                        item += &format!(", node = {node}");
                    }
                    if !shard.serves.is_empty() {
                        item += &format!(", serves = {}", quoted_cpus(&shard.serves));
                    }
                    if let Some(listeners) = &shard.listeners {
                        let names: Vec<String> =
                            listeners.iter().map(|name| quoted(name)).collect();
                        item += &format!(", listeners = [{}]", names.join(", "));
                    }
                    item + " }"
                });
                self.list("list", &items.collect::<Vec<_>>(), &why.shards);
            }
            Shards::Unpinned(count) => {
                self.comment(reason(&why.shards, 0));
                self.value("count", count);
            }
        }
        self.comment(&why.housekeeping);
        self.value("housekeeping", quoted_cpus(&layout.housekeeping));
        self.comment(&why.memory);
        let memory = match layout.memory {
            Memory::Bind => "bind",
            Memory::Local => "local",
        };
        self.value("memory", quoted(memory));
        self.comment(&why.steering);
        let steering = match layout.steering {
            Steering::Cpu => "cpu",
            Steering::Hash => "hash",
        };
        self.value("steering", quoted(steering));
    }

    fn ring(&mut self, layout: &Layout, why: &Why) {
        self.head("[ring]");
        self.comment(&why.ring);
        let ring = &layout.ring;
        for (name, value) in [
            ("entries", ring.entries),
            ("sqpoll_ms", ring.sqpoll_ms),
            ("busy_poll_us", ring.busy_poll_us),
        ] {
            value.into_iter().for_each(|value| self.value(name, value));
        }
    }

    fn nic(&mut self, nic: &Nic, why: &NicWhy) {
        self.head("[[nic]]");
        self.comment(&why.name);
        self.value("name", quoted(&nic.name));
        self.comment(&why.queues);
        if let Some(queues) = nic.queues {
            self.value("queues", queues);
        }
        if !nic.irqs.is_empty() {
            let items = nic.irqs.iter().map(|(name, cpus)| {
                format!(
                    "{{ name = {}, cpus = {} }}",
                    quoted(name),
                    quoted_cpus(cpus)
                )
            });
            self.list("irqs", &items.collect::<Vec<_>>(), &why.irqs);
        }
        for (name, queues, why) in [("rps", &nic.rps, &why.rps), ("xps", &nic.xps, &why.xps)] {
            if !queues.is_empty() {
                let items = queues.iter().map(|(queue, cpus)| {
                    format!("{{ queue = {queue}, cpus = {} }}", quoted_cpus(cpus))
                });
                self.list(name, &items.collect::<Vec<_>>(), why);
            }
        }
        for left in &why.left {
            self.comment(left);
        }
        if !nic.coalesce.is_empty() {
            let settings = nic.coalesce.iter();
            let settings: Vec<String> = settings
                .map(|(name, value)| format!("{} = {value}", quoted(name)))
                .collect();
            self.value("coalesce", format_args!("{{ {} }}", settings.join(", ")));
        }
        if let Some(polls) = nic.napi_defer_hard_irqs {
            self.value("napi_defer_hard_irqs", polls);
        }
        if let Some(nanoseconds) = nic.gro_flush_timeout_ns {
            self.value("gro_flush_timeout_ns", nanoseconds);
        }
    }
}

fn reason(why: &[String], at: usize) -> &str {
    why.get(at).map_or("", String::as_str)
}

/// Names that a host told us may hold what ends a comment.
fn plain(text: &str) -> String {
    let is_plain = |byte: char| !byte.is_control();
    text.chars()
        .map(|byte| if is_plain(byte) { byte } else { '?' })
        .collect()
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.chars() {
        match byte {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(byte);
            }
            byte if byte.is_control() => quoted += &format!("\\u{:04X}", u32::from(byte)),
            byte => quoted.push(byte),
        }
    }
    quoted + "\""
}

fn quoted_cpus(cpus: &CpuSet) -> String {
    match cpus.is_empty() {
        true => "\"\"".to_owned(),
        false => format!("\"{cpus}\""),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::layout::{HostShape, Ring, Shard, Sysctl};

    fn layout() -> Layout {
        let cpus = |text: &str| CpuSet::parse(text).unwrap();
        Layout {
            host: HostShape {
                online: cpus("0-3"),
                cores: 2,
                nodes: 1,
            },
            shards: Shards::Pinned(vec![Shard {
                cpu: 1,
                node: Some(0),
                serves: cpus("0-3"),
                listeners: Some(vec!["fr\"o\\nt\n".to_owned(), "\u{e9}\u{7f}".to_owned()]),
            }]),
            housekeeping: cpus("0"),
            memory: Memory::Bind,
            steering: Steering::Cpu,
            ring: Ring {
                entries: Some(4096),
                sqpoll_ms: Some(2),
                busy_poll_us: Some(50),
            },
            nics: vec![Nic {
                name: "eth0".to_owned(),
                queues: Some(2),
                irqs: vec![("mlx5_comp0@pci:0000:3b:00.0".to_owned(), cpus("1"))],
                rps: vec![(0, CpuSet::default())],
                xps: vec![(1, cpus("0-1"))],
                coalesce: vec![("adaptive-rx".to_owned(), 0), ("rx-usecs".to_owned(), 8)],
                napi_defer_hard_irqs: Some(2),
                gro_flush_timeout_ns: Some(200_000),
            }],
            sysctls: [("a.b", "007"), ("c.d", "-1"), ("e.f", "1 2"), ("g.h", "")]
                .map(|(name, value)| Sysctl {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
                .to_vec(),
        }
    }

    #[test]
    fn everything_that_a_layout_can_say_reads_back() {
        let text = write(&layout(), &Why::default());
        assert_eq!(Layout::parse(Path::new("l"), &text), Ok(layout()), "{text}");
    }

    #[test]
    fn a_reason_never_becomes_a_value() {
        let evil = "a\r\n]\nsteering = \"hash\"\u{0}\n[ring]\n".to_owned();
        let list = vec![evil.clone(); 4];
        let why = Why {
            host: evil.clone(),
            shards_rule: evil.clone(),
            shards: list.clone(),
            housekeeping: evil.clone(),
            memory: evil.clone(),
            steering: evil.clone(),
            ring: evil.clone(),
            no_nic: evil.clone(),
            nics: vec![NicWhy {
                name: evil.clone(),
                queues: evil,
                irqs: list.clone(),
                rps: list.clone(),
                xps: list.clone(),
                left: list.clone(),
            }],
            sysctls: list.clone(),
            advice: list,
        };
        let text = write(&layout(), &why);
        assert_eq!(Layout::parse(Path::new("l"), &text), Ok(layout()), "{text}");
    }
}
