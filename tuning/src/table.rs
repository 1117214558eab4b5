//! An inspection for people.

use std::fmt::{self, Display, Formatter};

use crate::ability::{Range, Seccomp};
use crate::inspection::Inspection;
use crate::nic::{Nic, Queue};
use crate::topology::Cpu;

/// Columns of a last-level cache; where caches have many CPUs, more.
const LLC_WIDTH: usize = 14;

/// Shows an inspection as text: sets, groups, one line per CPU, and what could not be read.
#[derive(Debug)]
pub struct Table<'a>(pub &'a Inspection);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.sets(f)?;
        self.limits(f)?;
        self.groups(f)?;
        self.cpus(f)?;
        self.nics(f)?;
        self.abilities(f)?;
        self.hindrances(f)?;
        self.notes(f)
    }
}

impl Table<'_> {
    fn sets(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let host = self.0;
        writeln!(f, "CPUs")?;
        writeln!(f, "  possible  {}", host.possible)?;
        writeln!(f, "  online    {}", host.online)?;
        writeln!(f, "  affinity  {}", or(&host.affinity, "unknown"))?;
        writeln!(f, "  cpuset    {}", or(&host.cgroup.cpuset, "not limited"))?;
        writeln!(f, "  usable    {}  ({})", host.usable, host.usable.len())
    }

    fn limits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let limits = &self.0.cgroup;
        let version = limits.version.map(|version| format!("v{version}"));
        writeln!(f, "\nControl group ({})", or(&version, "none found"))?;
        match &limits.quota {
            Some(quota) => writeln!(
                f,
                "  quota     {:.2} CPUs: {} us in every {} us, {}",
                quota.cpus, quota.quota_us, quota.period_us, quota.entry
            ),
            None => writeln!(f, "  quota     not limited"),
        }
    }

    fn groups(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let topology = &self.0.topology;
        let smt = if topology.has_smt() {
            "with SMT siblings"
        } else {
            "without SMT"
        };
        writeln!(f, "\nGroups")?;
        writeln!(f, "  cores     {}, {smt}", topology.cores.len())?;
        for cluster in &topology.clusters {
            writeln!(f, "  cluster   {cluster}")?;
        }
        for llc in &topology.llcs {
            writeln!(
                f,
                "  LLC       {}  L{} {}",
                llc.cpus,
                llc.level,
                or(&llc.size, "")
            )?;
        }
        for node in &topology.nodes {
            writeln!(f, "  node {:<4} {}", node.id, node.cpus)?;
        }
        if !self.0.efficient.is_empty() {
            writeln!(f, "  efficient {}", self.0.efficient)?;
        }
        for speed in &topology.speeds {
            let capacity = speed
                .capacity
                .map(|capacity| format!("capacity {capacity}"));
            let mhz = speed
                .max_frequency_khz
                .map(|khz| format!("{} MHz", khz / 1000));
            let parts: Vec<String> = [capacity, mhz].into_iter().flatten().collect();
            writeln!(f, "  speed     {}  {}", speed.cpus, parts.join(", "))?;
        }
        Ok(())
    }

    fn cpus(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cpus = &self.0.topology.cpus;
        let widths = cpus.iter().filter_map(llc_of).map(|llc| llc.len());
        let width = widths.max().unwrap_or(0).max(LLC_WIDTH);
        writeln!(
            f,
            "\n{:>4}  {:>7}  {:<12} {:<width$} {:>4}  {:>8}  {:>6}  usable",
            "CPU", "package", "siblings", "LLC", "node", "capacity", "MHz"
        )?;
        for cpu in cpus {
            self.cpu(f, cpu, width)?;
        }
        Ok(())
    }

    fn cpu(&self, f: &mut Formatter<'_>, cpu: &Cpu, width: usize) -> fmt::Result {
        let llc = llc_of(cpu);
        writeln!(
            f,
            "{:>4}  {:>7}  {:<12} {:<width$} {:>4}  {:>8}  {:>6}  {}",
            cpu.id,
            or(&cpu.package, "-"),
            cpu.siblings,
            or(&llc, "-"),
            or(&cpu.node, "-"),
            or(&cpu.capacity, "-"),
            or(&cpu.max_frequency_khz.map(|khz| khz / 1000), "-"),
            if self.0.usable.contains(cpu.id) {
                "yes"
            } else {
                "no"
            }
        )
    }

    fn nics(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nNetwork cards")?;
        if self.0.nics.is_empty() {
            writeln!(f, "  none: nothing in sys/class/net has a device")?;
        }
        for bond in &self.0.bonds {
            writeln!(f, "  {}  bond of {}", bond.name, bond.members.join(", "))?;
        }
        self.0.nics.iter().try_for_each(|nic| show_nic(f, nic))
    }

    fn abilities(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let abilities = &self.0.abilities;
        let io_uring = match abilities.io_uring_disabled {
            None => "no such setting".to_owned(),
            Some(0) => "0: everyone may have rings".to_owned(),
            Some(1) => "1: members of kernel.io_uring_group may have rings".to_owned(),
            Some(level) => format!("{level}: no one may have a ring"),
        };
        let seccomp = abilities.seccomp.map(|mode| match mode {
            Seccomp::Off => "off",
            Seccomp::Strict => "strict",
            Seccomp::Filter => "a filter",
        });
        let no_new_privs = abilities.no_new_privs.map(|on| match on {
            true => "no new privileges",
            false => "new privileges allowed",
        });
        writeln!(f, "\nKernel and limits")?;
        writeln!(
            f,
            "  release            {}",
            or(&abilities.kernel, "unknown")
        )?;
        writeln!(f, "  io_uring_disabled  {io_uring}")?;
        writeln!(
            f,
            "  locked memory      {}",
            show_range(abilities.locked_memory, "bytes")
        )?;
        writeln!(
            f,
            "  descriptors        {}",
            show_range(abilities.descriptors, "")
        )?;
        writeln!(
            f,
            "  seccomp            {}, {}",
            or(&seccomp, "unknown"),
            or(&no_new_privs, "privileges unknown")
        )?;
        writeln!(f, "  SMT control        {}", or(&abilities.smt, "unknown"))?;
        writeln!(f, "  isolated           {}", abilities.isolated)?;
        writeln!(f, "  nohz_full          {}", abilities.nohz_full)?;
        for setting in &abilities.sysctls {
            writeln!(
                f,
                "  {:<34} {}",
                setting.name,
                or(&setting.value, "unknown")
            )?;
        }
        Ok(())
    }

    fn hindrances(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.hindrances.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nIn the way")?;
        for hindrance in &self.0.hindrances {
            writeln!(f, "  {}", hindrance.problem)?;
            writeln!(f, "    systemd     {}", hindrance.systemd)?;
            writeln!(f, "    Docker      {}", hindrance.docker)?;
            writeln!(f, "    Kubernetes  {}", hindrance.kubernetes)?;
        }
        Ok(())
    }

    fn notes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.notes.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nNot as expected")?;
        for note in &self.0.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

fn llc_of(cpu: &Cpu) -> Option<String> {
    let llc = cpu.llc.as_ref()?;
    Some(format!("L{} {}", llc.level, llc.cpus))
}

fn show_nic(f: &mut Formatter<'_>, nic: &Nic) -> fmt::Result {
    let node = nic.node.map(|node| format!("node {node}"));
    writeln!(
        f,
        "  {}  {}, {}, queues: {} receive, {} transmit",
        nic.name,
        or(&nic.state, "state unknown"),
        or(&node, "node unknown"),
        nic.rx.len(),
        nic.tx.len()
    )?;
    for (kind, prefix, queues) in [("RPS", "rx", &nic.rx), ("XPS", "tx", &nic.tx)] {
        let is_on = |queue: &&Queue| queue.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty());
        for queue in queues.iter().filter(is_on) {
            let name = format!("{prefix}-{}", queue.index);
            writeln!(f, "    {kind}  {name:<8} CPUs {}", or(&queue.cpus, "-"))?;
        }
    }
    if nic.irqs.is_empty() {
        return writeln!(f, "    no interrupts are told");
    }
    let names = nic.irqs.iter().map(|irq| or(&irq.name, "-").len());
    let width = names.max().unwrap_or(0);
    writeln!(
        f,
        "    {:>5}  {:<width$}  queue  {:<12} goes to",
        "IRQ", "name", "may go to"
    )?;
    for irq in &nic.irqs {
        writeln!(
            f,
            "    {:>5}  {:<width$}  {:>5}  {:<12} {}{}",
            irq.number,
            or(&irq.name, "-"),
            or(&irq.queue, "-"),
            or(&irq.affinity, "not told"),
            or(&irq.effective, "-"),
            if irq.managed {
                "  (managed by the kernel)"
            } else {
                ""
            }
        )?;
    }
    Ok(())
}

fn show_range(range: Option<Range>, unit: &str) -> String {
    let Some(Range { soft, hard }) = range else {
        return "unknown".to_owned();
    };
    let [soft, hard] = [soft, hard].map(|limit| or(&limit, "unlimited"));
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    match soft == hard {
        true => format!("{soft}{unit}"),
        false => format!("{soft}{unit}, may be raised to {hard}"),
    }
}

fn or<T: Display>(value: &Option<T>, otherwise: &str) -> String {
    value
        .as_ref()
        .map_or_else(|| otherwise.to_owned(), ToString::to_string)
}
