//! An inspection for people.

use std::fmt::{self, Display, Formatter};

use crate::inspection::Inspection;
use crate::topology::Cpu;

/// Shows an inspection as text: sets, groups, one line per CPU, and what could not be read.
#[derive(Debug)]
pub struct Table<'a>(pub &'a Inspection);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.sets(f)?;
        self.limits(f)?;
        self.groups(f)?;
        self.cpus(f)?;
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
        writeln!(
            f,
            "\n{:>4}  {:>7}  {:<12} {:<14} {:>4}  {:>8}  {:>6}  usable",
            "CPU", "package", "siblings", "LLC", "node", "capacity", "MHz"
        )?;
        for cpu in &self.0.topology.cpus {
            self.cpu(f, cpu)?;
        }
        Ok(())
    }

    fn cpu(&self, f: &mut Formatter<'_>, cpu: &Cpu) -> fmt::Result {
        let llc = cpu
            .llc
            .as_ref()
            .map(|llc| format!("L{} {}", llc.level, llc.cpus));
        writeln!(
            f,
            "{:>4}  {:>7}  {:<12} {:<14} {:>4}  {:>8}  {:>6}  {}",
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

    fn notes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.notes.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nNot as expected")?;
        for note in &self.0.notes {
            write!(f, "  {}: {}", note.entry, note.problem)?;
            match note.cpus.is_empty() {
                true => writeln!(f)?,
                false => writeln!(f, " (CPUs {})", note.cpus)?,
            }
        }
        Ok(())
    }
}

fn or<T: Display>(value: &Option<T>, otherwise: &str) -> String {
    value
        .as_ref()
        .map_or_else(|| otherwise.to_owned(), ToString::to_string)
}
