//! A layout as a picture in text: sockets, memory nodes, caches, cores, and who lives on each CPU.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use crate::cpu_set::CpuSet;
use crate::inspection::Inspection;
use crate::layout::{Layout, Memory, Nic, Shards, Steering};
use crate::nic::queue_in_name;
use crate::plan::slow_cpus;
use crate::topology::Cpu;
use crate::units::counted;

/// Cores in a row with nobody of a name on them that are shown as one line, so that a wide host
/// stays readable.
const FOLDED_FROM: usize = 3;

/// Groups of queues that are shown one by one.
const QUEUE_GROUPS_MAX: usize = 4;

/// Names that one line lists.
const NAMES_MAX: usize = 4;

/// Shows `layout` on the host `here`.
#[derive(Debug)]
pub struct Picture<'a> {
    pub layout: &'a Layout,
    pub here: &'a Inspection,
}

/// One line of the picture: a core, or several that are alike.
struct Row {
    cores: Vec<CpuSet>,
    labels: Vec<String>,
    /// Nobody here has a number.
    folds: bool,
}

impl Display for Picture<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.misfits(f)?;
        self.summary(f)?;
        self.cores(f)?;
        self.choices(f)?;
        self.layout
            .nics
            .iter()
            .try_for_each(|nic| show_nic(f, nic))?;
        self.sysctls(f)
    }
}

impl Picture<'_> {
    fn misfits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut misfits = self.layout.misfits(self.here);
        for nic in &self.layout.nics {
            let Some(card) = self.here.nics.iter().find(|card| card.name == nic.name) else {
                misfits.push(format!(
                    "no network card is called {} here: its settings go nowhere",
                    nic.name
                ));
                continue;
            };
            let has = |name: &str| {
                card.irqs
                    .iter()
                    .any(|irq| irq.name.as_deref() == Some(name))
            };
            let may_be_gone = |name: &str| nic.is_past(queue_in_name(name));
            let missing = nic
                .irqs
                .iter()
                .filter(|(name, _)| !has(name) && !may_be_gone(name));
            let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
            if !missing.is_empty() {
                let more = match missing.len().saturating_sub(NAMES_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                misfits.push(format!(
                    "{} has no interrupts called {}{more}: they cannot be placed",
                    nic.name,
                    missing[..missing.len().min(NAMES_MAX)].join(", ")
                ));
            }
        }
        if misfits.is_empty() {
            return Ok(());
        }
        writeln!(f, "This layout does not fit this host")?;
        for misfit in misfits {
            writeln!(f, "  {misfit}")?;
        }
        writeln!(f)
    }

    fn summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.layout.shard_count();
        let shards = counted(count, "shard");
        match &self.layout.shards {
            Shards::Pinned(_) if count == 1 => writeln!(f, "{shards}, pinned to its CPU")?,
            Shards::Pinned(_) => writeln!(f, "{shards}, each pinned to its CPU")?,
            Shards::Unpinned(_) => writeln!(
                f,
                "{shards}, not pinned: the scheduler moves them among CPUs {}",
                self.here.usable
            )?,
        }
        match self.layout.housekeeping.is_empty() {
            true => writeln!(f, "Housekeeping where the scheduler likes"),
            false => writeln!(f, "Housekeeping on CPUs {}", self.layout.housekeeping),
        }
    }

    fn cores(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let living = self.living();
        let (slow, _) = slow_cpus(self.here);
        let topology = &self.here.topology;
        let mut cores: Vec<&Cpu> = topology
            .cpus
            .iter()
            .filter(|cpu| cpu.siblings.intersection(&self.here.online).first() == Some(cpu.id))
            .collect();
        let place = |cpu: &Cpu| {
            let llc = cpu.llc.as_ref();
            (cpu.package, cpu.node, llc.and_then(|llc| llc.cpus.first()))
        };
        cores.sort_by_key(|cpu| (place(cpu), cpu.id));
        let mut rows: Vec<(&Cpu, Row)> = Vec::new();
        for cpu in cores {
            let online = cpu.siblings.intersection(&self.here.online);
            let labels: Vec<(String, bool)> = online
                .iter()
                .map(|id| self.label(id, &living, &slow))
                .collect();
            let folds = labels.iter().all(|(_, named)| !named);
            let labels: Vec<String> = labels.into_iter().map(|(label, _)| label).collect();
            match rows.last_mut() {
                Some((first, row))
                    if folds && row.folds && row.labels == labels && place(first) == place(cpu) =>
                {
                    row.cores.push(online);
                }
                _ => rows.push((
                    cpu,
                    Row {
                        cores: vec![online],
                        labels,
                        folds,
                    },
                )),
            }
        }
        let widths = rows.iter().flat_map(|(_, row)| &row.cores);
        let name_width = widths.map(|core| core.to_string().len()).max().unwrap_or(0);
        let labels = rows.iter().flat_map(|(_, row)| &row.labels);
        let label_width = labels.map(String::len).max().unwrap_or(0);
        let mut before: Option<&Cpu> = None;
        for (cpu, row) in &rows {
            self.heads(f, before, cpu)?;
            row.show(f, name_width, label_width)?;
            before = Some(cpu);
        }
        let offline = self.here.possible.difference(&self.here.online);
        if !offline.is_empty() {
            writeln!(f, "\nOffline: CPUs {offline}")?;
        }
        Ok(())
    }

    fn heads(&self, f: &mut Formatter<'_>, before: Option<&Cpu>, cpu: &Cpu) -> fmt::Result {
        let known = |id: Option<u32>| id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        let other = |same: &dyn Fn(&Cpu) -> bool| !before.is_some_and(same);
        let other_package = other(&|before| before.package == cpu.package);
        if other_package {
            writeln!(f, "\nSocket {}", known(cpu.package))?;
        }
        let other_node = other_package || other(&|before| before.node == cpu.node);
        if other_node {
            writeln!(f, "  Node {}", known(cpu.node))?;
        }
        if other_node || other(&|before| before.llc == cpu.llc) {
            match &cpu.llc {
                Some(llc) => {
                    let size = llc.size.as_deref().unwrap_or("size unknown");
                    writeln!(f, "    L{} {}  {size}", llc.level, llc.cpus)?;
                }
                None => writeln!(f, "    last-level cache unknown")?,
            }
        }
        Ok(())
    }

    /// Who lives on each CPU by the layout.
    fn living(&self) -> BTreeMap<u32, Vec<String>> {
        let mut living: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        if let Shards::Pinned(shards) = &self.layout.shards {
            for (index, shard) in shards.iter().enumerate() {
                let listeners = shard.listeners.as_ref();
                let only = listeners.map(|names| format!(" for {}", names.join(" ")));
                let label = format!("shard {index}{}", only.unwrap_or_default());
                living.entry(shard.cpu).or_default().push(label);
            }
        }
        for nic in &self.layout.nics {
            let mut queues: BTreeMap<u32, (CpuSet, Vec<&str>)> = BTreeMap::new();
            let numbers = queue_numbers(nic);
            for ((name, cpus), queue) in nic.irqs.iter().zip(numbers) {
                for cpu in cpus.iter() {
                    let (numbers, names) = queues.entry(cpu).or_default();
                    match queue {
                        Some(queue) => numbers.insert(queue),
                        None => names.push(name),
                    }
                }
            }
            for (cpu, (numbers, names)) in queues {
                let plural = if numbers.len() == 1 { "" } else { "s" };
                let entry = living.entry(cpu).or_default();
                if !numbers.is_empty() {
                    entry.push(format!("{} queue{plural} {numbers}", nic.name));
                }
                entry.extend(names.iter().map(|name| format!("interrupt {name}")));
            }
        }
        living
    }

    /// A CPU's label, and whether someone with a number lives there.
    fn label(
        &self,
        cpu: u32,
        living: &BTreeMap<u32, Vec<String>>,
        slow: &CpuSet,
    ) -> (String, bool) {
        let mut parts = living.get(&cpu).cloned().unwrap_or_default();
        let named = !parts.is_empty();
        if self.layout.housekeeping.contains(cpu) {
            parts.push("housekeeping".to_owned());
        }
        let usable = self.here.usable.contains(cpu);
        if parts.is_empty() && usable {
            parts.push(match self.layout.shards {
                Shards::Pinned(_) => "idle".to_owned(),
                Shards::Unpinned(_) => "any shard".to_owned(),
            });
        }
        if !usable {
            parts.push("not usable".to_owned());
        }
        if slow.contains(cpu) {
            parts.push("slow".to_owned());
        }
        (parts.join(", "), named)
    }

    fn choices(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let layout = self.layout;
        let steering = match layout.steering {
            Steering::Cpu => "to the shard that serves the CPU which took the interrupt",
            Steering::Hash => "to a shard by a hash of addresses and ports",
        };
        let memory = match layout.memory {
            Memory::Bind => "from the shard's node alone",
            Memory::Local => "from the shard's node while there is some",
        };
        writeln!(f, "\nConnections  {steering}")?;
        if layout.steering == Steering::Cpu
            && let Shards::Pinned(shards) = &layout.shards
        {
            for (index, shard) in shards.iter().enumerate() {
                match shard.serves.is_empty() {
                    true => writeln!(f, "             shard {index} serves its CPU {}", shard.cpu)?,
                    false => {
                        writeln!(f, "             shard {index} serves CPUs {}", shard.serves)?
                    }
                }
            }
        }
        writeln!(f, "Memory       {memory}")?;
        let ring = &layout.ring;
        let parts = [
            ring.entries.map(|entries| format!("{entries} entries")),
            ring.sqpoll_ms.map(|ms| format!("SQPOLL for {ms} ms")),
            ring.busy_poll_us
                .map(|us| format!("busy polling for {us} us")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => writeln!(f, "Ring         as it comes, no polling"),
            false => writeln!(f, "Ring         {}", parts.join(", ")),
        }
    }

    fn sysctls(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.layout.sysctls.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nKernel settings")?;
        for sysctl in &self.layout.sysctls {
            write!(f, "  {:<30} {}", sysctl.name, sysctl.value)?;
            match self.here.abilities.sysctl(&sysctl.name) {
                Some(now) if now == sysctl.value => writeln!(f, ", as it is now")?,
                Some(now) => writeln!(f, ", now {now}")?,
                None => writeln!(f, ", what it is now is not known")?,
            }
        }
        Ok(())
    }
}

impl Row {
    fn show(&self, f: &mut Formatter<'_>, name_width: usize, label_width: usize) -> fmt::Result {
        if self.cores.len() >= FOLDED_FROM {
            let cpus: CpuSet = self.cores.iter().flat_map(CpuSet::iter).collect();
            let labels: BTreeSet<&str> = self.labels.iter().map(String::as_str).collect();
            let labels: Vec<&str> = labels.into_iter().collect();
            return writeln!(
                f,
                "      {} cores, CPUs {cpus}: {}",
                self.cores.len(),
                labels.join(" and ")
            );
        }
        for core in &self.cores {
            let mut line = format!("      core {core:<name_width$}");
            for (cpu, label) in core.iter().zip(&self.labels) {
                line += &format!("  {cpu:>3} {label:<label_width$}");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The queue of each interrupt, counted from 0; `None` where the name does not tell.
fn queue_numbers(nic: &Nic) -> Vec<Option<u32>> {
    let told: Vec<Option<u32>> = nic
        .irqs
        .iter()
        .map(|(name, _)| queue_in_name(name))
        .collect();
    let order: BTreeSet<u32> = told.iter().flatten().copied().collect();
    let rank = |told: u32| order.iter().position(|&queue| queue == told);
    told.into_iter()
        .map(|told| rank(told?).and_then(|rank| u32::try_from(rank).ok()))
        .collect()
}

fn show_nic(f: &mut Formatter<'_>, nic: &Nic) -> fmt::Result {
    writeln!(f, "\nNetwork card {}", nic.name)?;
    let placed = nic.irqs.len();
    let settings = [
        nic.queues.map(|queues| format!("combined queues {queues}")),
        (placed > 0).then(|| format!("interrupts placed {placed}")),
        nic.napi_defer_hard_irqs
            .map(|polls| format!("empty polls before interrupts {polls}")),
        nic.gro_flush_timeout_ns
            .map(|ns| format!("polls every {ns} ns")),
    ];
    for setting in settings.iter().flatten() {
        writeln!(f, "  {setting}")?;
    }
    for (name, value) in &nic.coalesce {
        writeln!(f, "  coalescing {name} {value}")?;
    }
    for (what, kind, queues) in [("receive", "RPS", &nic.rps), ("transmit", "XPS", &nic.xps)] {
        let mut groups: BTreeMap<&CpuSet, CpuSet> = BTreeMap::new();
        for (queue, cpus) in queues {
            groups.entry(cpus).or_default().insert(*queue);
        }
        if groups.len() > QUEUE_GROUPS_MAX {
            let all: CpuSet = queues.iter().map(|(queue, _)| *queue).collect();
            let cpus: CpuSet = queues.iter().flat_map(|(_, cpus)| cpus.iter()).collect();
            writeln!(
                f,
                "  {what} queues {all}: CPUs {cpus}, some for each ({kind})"
            )?;
            continue;
        }
        let mut groups: Vec<(&CpuSet, CpuSet)> = groups.into_iter().collect();
        groups.sort_by_key(|(_, queues)| queues.first());
        for (cpus, queues) in groups {
            let plural = if queues.len() == 1 { "" } else { "s" };
            match cpus.is_empty() {
                true => writeln!(f, "  {what} queue{plural} {queues}: {kind} off")?,
                false => writeln!(f, "  {what} queue{plural} {queues}: CPUs {cpus} ({kind})")?,
            }
        }
    }
    Ok(())
}
