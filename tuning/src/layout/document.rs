//! `layout.toml` as it is written: TOML to a [`Layout`], or every error with its line and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::{HostShape, Layout, LayoutError, Memory, Nic, Ring, Shard, Shards, Steering, Sysctl};
use crate::cpu_set::CpuSet;

/// The form of the file; another one is refused.
pub(super) const VERSION: u32 = 1;

/// As many as the terminator takes.
pub(crate) const SHARDS_MAX: usize = 1024;

const RING_ENTRIES: std::ops::RangeInclusive<u32> = 64..=32768;
const SQPOLL_MS_MAX: u32 = 10_000;
const BUSY_POLL_US_MAX: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: Spanned<u32>,
    host: HostTable,
    shards: ShardsTable,
    #[serde(default)]
    ring: RingTable,
    #[serde(default)]
    nic: Vec<NicTable>,
    #[serde(default)]
    sysctl: BTreeMap<Spanned<String>, SysctlValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTable {
    online: Spanned<String>,
    cores: usize,
    nodes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardsTable {
    count: Option<Spanned<usize>>,
    list: Option<Spanned<Vec<ShardTable>>>,
    housekeeping: Option<Spanned<String>>,
    #[serde(default)]
    memory: MemoryName,
    #[serde(default)]
    steering: SteeringName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardTable {
    cpu: Spanned<u32>,
    node: Option<u32>,
    serves: Option<Spanned<String>>,
    listeners: Option<Spanned<Vec<String>>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MemoryName {
    Bind,
    #[default]
    Local,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SteeringName {
    Cpu,
    #[default]
    Hash,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingTable {
    entries: Option<Spanned<u32>>,
    sqpoll_ms: Option<Spanned<u32>>,
    busy_poll_us: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NicTable {
    name: Spanned<String>,
    queues: Option<u32>,
    #[serde(default)]
    irqs: Vec<IrqTable>,
    #[serde(default)]
    rps: Vec<QueueTable>,
    #[serde(default)]
    xps: Vec<QueueTable>,
    #[serde(default)]
    coalesce: BTreeMap<Spanned<String>, u32>,
    napi_defer_hard_irqs: Option<u32>,
    gro_flush_timeout_ns: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IrqTable {
    name: Spanned<String>,
    cpus: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueTable {
    queue: u32,
    cpus: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SysctlValue {
    Number(i64),
    Text(String),
}

pub(super) fn parse(file: &Path, text: &str) -> Result<Layout, Vec<LayoutError>> {
    let mut reading = Reading {
        file,
        text,
        errors: Vec::new(),
    };
    let document: Document = match toml::from_str(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map(|span| span.start);
            let problem = error.message().lines().collect::<Vec<_>>().join(", ");
            reading.report(
                at,
                problem,
                "see `ringgate-tune plan` for how a layout looks",
            );
            return Err(reading.errors);
        }
    };
    let layout = reading.layout(document);
    if reading.errors.is_empty() {
        Ok(layout)
    } else {
        Err(reading.errors)
    }
}

/// Turns the document into a layout, and keeps every error on the way.
struct Reading<'t> {
    file: &'t Path,
    text: &'t str,
    errors: Vec<LayoutError>,
}

impl Reading<'_> {
    fn report(&mut self, at: Option<usize>, problem: impl Into<String>, remedy: &str) {
        let line = at.map(|at| {
            let before = &self.text.as_bytes()[..at.min(self.text.len())];
            before.iter().filter(|&&byte| byte == b'\n').count() + 1
        });
        self.errors.push(LayoutError {
            file: self.file.to_owned(),
            line,
            problem: problem.into(),
            remedy: remedy.to_owned(),
        });
    }

    fn layout(&mut self, document: Document) -> Layout {
        if *document.version.get_ref() != VERSION {
            let problem = format!("version = {}", document.version.get_ref());
            let remedy = format!("this program reads version {VERSION}: plan anew");
            self.report(Some(document.version.span().start), problem, &remedy);
        }
        let host = HostShape {
            online: self.cpus(&document.host.online),
            cores: document.host.cores,
            nodes: document.host.nodes,
        };
        let housekeeping = document.shards.housekeeping.as_ref();
        let housekeeping = housekeeping.map_or_else(CpuSet::default, |cpus| self.cpus(cpus));
        let ring = self.ring(&document.ring);
        let nics: Vec<Nic> = document.nic.iter().map(|nic| self.nic(nic)).collect();
        for (at, nic) in nics.iter().enumerate() {
            if nics[..at].iter().any(|other| other.name == nic.name) {
                let span = document.nic[at].name.span();
                let problem = format!("[[nic]] `{}` is there twice", nic.name);
                self.report(Some(span.start), problem, "keep one");
            }
        }
        Layout {
            host,
            memory: match document.shards.memory {
                MemoryName::Bind => Memory::Bind,
                MemoryName::Local => Memory::Local,
            },
            steering: match document.shards.steering {
                SteeringName::Cpu => Steering::Cpu,
                SteeringName::Hash => Steering::Hash,
            },
            shards: self.shards(document.shards),
            housekeeping,
            ring,
            nics,
            sysctls: self.sysctls(document.sysctl),
        }
    }

    fn shards(&mut self, table: ShardsTable) -> Shards {
        match (table.count, table.list) {
            (Some(count), None) => {
                if !(1..=SHARDS_MAX).contains(count.get_ref()) {
                    let problem = format!("count = {}", count.get_ref());
                    let remedy = format!("give 1 to {SHARDS_MAX}");
                    self.report(Some(count.span().start), problem, &remedy);
                }
                if matches!(table.steering, SteeringName::Cpu) {
                    self.report(
                        Some(count.span().start),
                        "steering = \"cpu\" with shards that are not pinned",
                        "give `list` in place of `count`, or steer by \"hash\"",
                    );
                }
                Shards::Unpinned(count.into_inner())
            }
            (None, Some(list)) => self.pinned(&list),
            (Some(both), Some(_)) => {
                let remedy = "keep `list` to pin shards, `count` to leave them to the scheduler";
                let at = Some(both.span().start);
                self.report(at, "`count` and `list` exclude each other", remedy);
                Shards::Unpinned(1)
            }
            (None, None) => {
                let problem = "[shards] has neither `list` nor `count`";
                self.report(None, problem, "list = [{ cpu = 0 }] is one shard");
                Shards::Unpinned(1)
            }
        }
    }

    fn pinned(&mut self, list: &Spanned<Vec<ShardTable>>) -> Shards {
        let tables = list.get_ref();
        if !(1..=SHARDS_MAX).contains(&tables.len()) {
            let problem = format!("list has {} shards", tables.len());
            let remedy = format!("give 1 to {SHARDS_MAX}");
            self.report(Some(list.span().start), problem, &remedy);
        }
        let (mut taken, mut served) = (CpuSet::default(), CpuSet::default());
        let mut shards = Vec::new();
        for table in tables {
            let (cpu, span) = (*table.cpu.get_ref(), table.cpu.span());
            if cpu > crate::cpu_set::CPU_ID_MAX {
                self.report(
                    Some(span.start),
                    format!("CPU {cpu}"),
                    "no kernel knows so many CPUs",
                );
            }
            if taken.contains(cpu) {
                let problem = format!("CPU {cpu} has a shard already");
                self.report(Some(span.start), problem, "give each CPU one shard");
            }
            taken.insert(cpu);
            let serves = table.serves.as_ref();
            let cpus = serves.map_or_else(CpuSet::default, |cpus| self.cpus(cpus));
            for twice in cpus.intersection(&served).iter() {
                let at = serves.map(|cpus| cpus.span().start);
                let problem = format!("CPU {twice} is served by a shard before this one");
                self.report(at, problem, "steer each CPU to one shard");
            }
            cpus.iter().for_each(|cpu| served.insert(cpu));
            if let Some(listeners) = table
                .listeners
                .as_ref()
                .filter(|it| it.get_ref().is_empty())
            {
                let at = Some(listeners.span().start);
                self.report(at, "listeners = []", "leave it out to serve every listener");
            }
            shards.push(Shard {
                cpu,
                node: table.node,
                serves: cpus,
                listeners: table
                    .listeners
                    .as_ref()
                    .map(|names| names.get_ref().clone()),
            });
        }
        Shards::Pinned(shards)
    }

    fn ring(&mut self, table: &RingTable) -> Ring {
        if let Some(entries) = &table.entries {
            let value = *entries.get_ref();
            if !RING_ENTRIES.contains(&value) || !value.is_power_of_two() {
                let remedy = format!(
                    "give a power of two from {} to {}",
                    RING_ENTRIES.start(),
                    RING_ENTRIES.end()
                );
                self.report(
                    Some(entries.span().start),
                    format!("entries = {value}"),
                    &remedy,
                );
            }
        }
        for (name, value, max) in [
            ("sqpoll_ms", &table.sqpoll_ms, SQPOLL_MS_MAX),
            ("busy_poll_us", &table.busy_poll_us, BUSY_POLL_US_MAX),
        ] {
            if let Some(value) = value
                .as_ref()
                .filter(|it| !(1..=max).contains(it.get_ref()))
            {
                let problem = format!("{name} = {}", value.get_ref());
                let remedy = format!("give 1 to {max}, or leave it out to have it off");
                self.report(Some(value.span().start), problem, &remedy);
            }
        }
        let plain = |value: &Option<Spanned<u32>>| value.as_ref().map(|value| *value.get_ref());
        Ring {
            entries: plain(&table.entries),
            sqpoll_ms: plain(&table.sqpoll_ms),
            busy_poll_us: plain(&table.busy_poll_us),
        }
    }

    fn nic(&mut self, table: &NicTable) -> Nic {
        if table.queues == Some(0) {
            let at = Some(table.name.span().start);
            self.report(at, "queues = 0", "give 1 or more, or leave it out");
        }
        let irqs = table.irqs.iter().map(|irq| irq.name.get_ref());
        self.once(irqs, |at| table.irqs[at].name.span().start, "interrupt");
        for (what, queues) in [("rps of queue", &table.rps), ("xps of queue", &table.xps)] {
            let numbers = queues.iter().map(|it| it.queue);
            self.once(numbers, |at| queues[at].cpus.span().start, what);
        }
        Nic {
            name: self.file_name(&table.name),
            queues: table.queues,
            irqs: table
                .irqs
                .iter()
                .map(|irq| (irq.name.get_ref().clone(), self.some_cpus(&irq.cpus)))
                .collect(),
            rps: self.by_queue(&table.rps),
            xps: self.by_queue(&table.xps),
            coalesce: table
                .coalesce
                .iter()
                .map(|(name, value)| (self.file_name(name), *value))
                .collect(),
            napi_defer_hard_irqs: table.napi_defer_hard_irqs,
            gro_flush_timeout_ns: table.gro_flush_timeout_ns,
        }
    }

    /// Reports what is there twice: `apply` could set only one of both, and would take the other
    /// for somebody else's.
    fn once<T: Display + Ord>(
        &mut self,
        items: impl Iterator<Item = T>,
        start: impl Fn(usize) -> usize,
        what: &str,
    ) {
        let mut seen = BTreeSet::new();
        for (at, item) in items.enumerate() {
            let name = item.to_string();
            let problem = format!("{what} `{}` is there twice", name.escape_debug());
            if !seen.insert(item) {
                self.report(Some(start(at)), problem, "keep one");
            }
        }
    }

    fn by_queue(&mut self, tables: &[QueueTable]) -> Vec<(u32, CpuSet)> {
        let queues = tables.iter();
        queues
            .map(|table| (table.queue, self.cpus(&table.cpus)))
            .collect()
    }

    fn sysctls(&mut self, table: BTreeMap<Spanned<String>, SysctlValue>) -> Vec<Sysctl> {
        let mut sysctls: Vec<_> = table.into_iter().collect();
        sysctls.sort_by_key(|(name, _)| name.span().start);
        let sysctls = sysctls.into_iter().map(|(name, value)| Sysctl {
            name: self.file_name(&name),
            value: match value {
                SysctlValue::Number(number) => number.to_string(),
                SysctlValue::Text(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            },
        });
        sysctls.collect()
    }

    fn cpus(&mut self, text: &Spanned<String>) -> CpuSet {
        CpuSet::parse(text.get_ref()).unwrap_or_else(|problem| {
            let remedy = "CPUs are written as in \"0-3,8\"";
            self.report(Some(text.span().start), problem, remedy);
            CpuSet::default()
        })
    }

    fn some_cpus(&mut self, text: &Spanned<String>) -> CpuSet {
        let cpus = self.cpus(text);
        if text.get_ref().trim().is_empty() {
            let at = Some(text.span().start);
            self.report(at, "an interrupt on no CPU", "name at least one CPU");
        }
        cpus
    }

    /// A name that becomes part of a path: it must not lead elsewhere.
    fn file_name(&mut self, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        if !is_name(text) {
            let problem = format!("`{}` is not a name", text.escape_debug());
            let remedy = "names have letters, digits, and `.`, `_`, `-`, `@`, `:` between them";
            self.report(Some(name.span().start), problem, remedy);
        }
        text.clone()
    }
}

/// Whether a name may stand in a layout.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
    text.bytes().all(plain) && !text.split('.').any(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "version = 1\n[host]\nonline = \"0-1\"\ncores = 2\nnodes = 1\n";

    fn parsed(rest: &str) -> Result<Layout, String> {
        parse(Path::new("layout.toml"), &format!("{LEAST}{rest}")).map_err(|errors| {
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let layout = parsed(
            "[shards]\nlist = [\n  { cpu = 1, node = 0, serves = \"0-1\", listeners = [\"front\"] },\n]\n\
             housekeeping = \"0\"\nmemory = \"bind\"\nsteering = \"cpu\"\n\
             [ring]\nentries = 4096\nsqpoll_ms = 2\nbusy_poll_us = 50\n\
             [[nic]]\nname = \"eth0\"\nqueues = 2\nirqs = [{ name = \"eth0-TxRx-0\", cpus = \"1\" }]\n\
             rps = [{ queue = 0, cpus = \"\" }]\nxps = [{ queue = 1, cpus = \"0-1\" }]\n\
             coalesce = { rx-usecs = 8 }\nnapi_defer_hard_irqs = 2\ngro_flush_timeout_ns = 200000\n\
             [sysctl]\n\"net.core.somaxconn\" = 4096\n\"net.ipv4.ip_local_port_range\" = \"1024  65535\"\n",
        );
        let cpus = |text: &str| CpuSet::parse(text).unwrap();
        let sysctl = |name: &str, value: &str| Sysctl {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let expected = Layout {
            host: HostShape {
                online: cpus("0-1"),
                cores: 2,
                nodes: 1,
            },
            shards: Shards::Pinned(vec![Shard {
                cpu: 1,
                node: Some(0),
                serves: cpus("0-1"),
                listeners: Some(vec!["front".to_owned()]),
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
                irqs: vec![("eth0-TxRx-0".to_owned(), cpus("1"))],
                rps: vec![(0, CpuSet::default())],
                xps: vec![(1, cpus("0-1"))],
                coalesce: vec![("rx-usecs".to_owned(), 8)],
                napi_defer_hard_irqs: Some(2),
                gro_flush_timeout_ns: Some(200_000),
            }],
            sysctls: vec![
                sysctl("net.core.somaxconn", "4096"),
                sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
            ],
        };
        assert_eq!(layout, Ok(expected));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_line() {
        for (rest, named) in [
            ("[shards]\ncount = 0", "layout.toml:7: count = 0; "),
            ("[shards]\ncount = 1\nsteering = \"cpu\"", ":7: steering"),
            ("[shards]\ncount = 1\nlist = []", ":7: `count` and `list`"),
            ("[shards]\n", "neither `list` nor `count`"),
            ("[shards]\nlist = []", ":7: list has 0 shards"),
            (
                "[shards]\nlist = [\n{ cpu = 1 },\n{ cpu = 1 }]",
                ":9: CPU 1 has a shard",
            ),
            (
                "[shards]\nlist = [{ cpu = 0, serves = \"0\" },\n{ cpu = 1, serves = \"0-1\" }]",
                ":8: CPU 0 is served",
            ),
            ("[shards]\nlist = [{ cpu = 99999 }]", ":7: CPU 99999"),
            ("[shards]\nlist = [{ cpu = -1 }]", ":7: "),
            (
                "[shards]\nlist = [{ cpu = 0, listeners = [] }]",
                ":7: listeners = []",
            ),
            ("[shards]\ncount = 1\nhousekeeping = \"0-x\"", ":8: `0-x`"),
            (
                "[shards]\ncount = 1\ncolour = \"red\"",
                ":8: unknown field `colour`",
            ),
            (
                "[shards]\ncount = 1\nsteering = \"luck\"",
                ":8: unknown variant `luck`",
            ),
            (
                "[shards]\ncount = 1\n[ring]\nentries = 100",
                ":9: entries = 100",
            ),
            (
                "[shards]\ncount = 1\n[ring]\nsqpoll_ms = 0",
                ":9: sqpoll_ms = 0",
            ),
            (
                "[shards]\ncount = 1\n[sysctl]\n\"net/../x\" = 1",
                ":9: `net/../x` is not a name",
            ),
            (
                "[shards]\ncount = 1\n[sysctl]\n\"net..x\" = 1",
                ":9: `net..x` is not a name",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"../etc\"",
                ":9: `../etc` is not a name",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"a\"\nirqs = [{ name = \"x\", cpus = \"\" }]",
                ":10: an interrupt on no CPU",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"a\"\n[[nic]]\nname = \"a\"",
                ":11: [[nic]] `a` is there twice",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"a\"\nqueues = 0",
                ":9: queues = 0",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"a\"\nirqs = [\n{ name = \"x\", cpus = \"0\" },\n\
                 { name = \"x\", cpus = \"1\" }]",
                ":12: interrupt `x` is there twice",
            ),
            (
                "[shards]\ncount = 1\n[[nic]]\nname = \"a\"\nxps = [\n{ queue = 3, cpus = \"0\" },\n\
                 { queue = 3, cpus = \"1\" }]",
                ":12: xps of queue `3` is there twice",
            ),
            ("[shards", ":6: "),
        ] {
            let error = parsed(rest).unwrap_err();
            assert!(error.contains(named), "{rest}: {error}");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let text = format!("{LEAST}[shards]\ncount = 1").replace("version = 1", "version = 2");
        let errors = parse(Path::new("l"), &text).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].line, Some(1));
    }
}
