//! What this host has to give, and what was taken from it: descriptors, ports, stolen time, memory.

use std::fs;

/// Time of all CPUs at one moment, in ticks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CpuTicks {
    pub all: u64,
    /// Wanted here and given to other machines by the hypervisor.
    pub stolen: u64,
}

impl CpuTicks {
    /// Now; zeros where `/proc/stat` cannot be read.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    /// The line `cpu` of proc_stat(5): user nice system idle iowait irq softirq steal; the guests'
    /// times that follow are part of user and nice.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_ascii_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            all: ticks.iter().sum(),
            stolen: *ticks.get(7)?,
        })
    }

    /// The share of CPU time that was stolen since `earlier`, 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    pub fn stolen_since(&self, earlier: &Self) -> f64 {
        /// Ticks below which a share would be chance: the accounts go by hundredths of a second.
        const ALL_MIN: u64 = 100;
        let all = self.all.saturating_sub(earlier.all);
        if all < ALL_MIN {
            return 0.0;
        }
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

/// Ephemeral ports of one address.
pub fn ephemeral_ports() -> usize {
    const USUAL: usize = 28_232;
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    parse_ports(&text).unwrap_or(USUAL)
}

fn parse_ports(text: &str) -> Option<usize> {
    let mut ends = text.split_ascii_whitespace();
    let (first, last): (usize, usize) = (ends.next()?.parse().ok()?, ends.next()?.parse().ok()?);
    (last + 1).checked_sub(first)
}

/// Descriptors that this process may have; `None` is unlimited.
pub fn descriptors() -> Option<usize> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Why `connections` at a time cannot be had, if they cannot; what helps is in it.
pub fn lacks_descriptors(connections: usize, limit: Option<usize>) -> Option<String> {
    /// For rings, files of results and what the libraries open.
    const SPARE: usize = 64;
    let limit = limit?;
    (connections + SPARE > limit).then(|| {
        format!(
            "{connections} connections need {} descriptors and this process may have {limit}: \
             lower -c, or raise `ulimit -Hn` (in systemd LimitNOFILE=, in containers --ulimit nofile=)",
            connections + SPARE
        )
    })
}

/// Bytes of memory that processes hold, shared pages counted once each.
pub fn resident_bytes(pids: &[u32]) -> Option<u64> {
    pids.iter()
        .map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
            let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some(kib << 10)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let first = CpuTicks::parse("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1").unwrap();
        assert_eq!((first.all, first.stolen), (1_000, 100));
        let second = CpuTicks {
            all: 2_000,
            stolen: 150,
        };
        assert!((second.stolen_since(&first) - 0.05).abs() < 1e-9);
        assert!(first.stolen_since(&first) < 1e-9);
        let soon = CpuTicks {
            all: 1_050,
            stolen: 140,
        };
        assert!(soon.stolen_since(&first) < 1e-9, "too soon to say");
        assert_eq!(CpuTicks::parse("cpu 1 2"), None);
        assert!(CpuTicks::now().all > 0);
    }

    #[test]
    fn what_this_process_may_have_is_read() {
        assert_eq!(parse_ports("32768\t60999\n"), Some(28_232));
        assert_eq!(parse_ports("9 1"), None);
        assert!(ephemeral_ports() > 0);
        let _ = descriptors();
        assert!(resident_bytes(&[std::process::id()]).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(&[u32::MAX]), None);
    }

    #[test]
    fn too_few_descriptors_are_told_with_the_remedy() {
        let told = lacks_descriptors(100_000, Some(20_000)).unwrap();
        assert!(
            told.contains("ulimit -Hn") && told.contains("20000"),
            "{told}"
        );
        assert_eq!(lacks_descriptors(100_000, None), None);
        assert_eq!(lacks_descriptors(10, Some(1_024)), None);
    }
}
