//! Sets of CPUs as the kernel writes them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

/// No Linux build knows more CPUs (`NR_CPUS` ends at 8192 on x86-64); a larger number is an error,
/// so that a range cannot fill memory.
pub const CPU_ID_MAX: u32 = 65_535;

/// Numbers of CPUs, in ascending order.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Reads the kernel's list format (cpuset(7), "List format"); blank text is the empty set.
    ///
    /// # Errors
    ///
    /// Names the part that is neither a number nor a range, or lies past [`CPU_ID_MAX`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (cpu_id(first, part)?, cpu_id(last, part)?);
            if first > last {
                return Err(format!("`{part}` is a range that runs backwards"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }

    /// Reads the kernel's mask format (cpuset(7), "Mask format"): `00000003,ffffffff`.
    ///
    /// # Errors
    ///
    /// Names the word that is not one of up to eight hexadecimal digits.
    pub fn parse_mask(text: &str) -> Result<Self, String> {
        let mut cpus = BTreeSet::new();
        for (word, first) in text.trim().rsplit(',').zip((0..=CPU_ID_MAX).step_by(32)) {
            let bits = match u32::from_str_radix(word, 16) {
                Ok(bits) if word.len() <= 8 && !word.starts_with('+') => bits,
                _ => return Err(format!("`{word}` is not a word of a mask of CPUs")),
            };
            cpus.extend(
                (0..32)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| first + bit),
            );
        }
        Ok(Self(cpus))
    }

    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    pub fn intersection(&self, other: &Self) -> Self {
        self.0.intersection(&other.0).copied().collect()
    }

    /// The CPUs of this set that `other` does not hold.
    pub fn difference(&self, other: &Self) -> Self {
        self.0.difference(&other.0).copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    /// The kernel's list format; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if cpu - *last == 1 => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let parts: Vec<String> = ranges
            .into_iter()
            .map(|(first, last)| match last - first {
                0 => first.to_string(),
                _ => format!("{first}-{last}"),
            })
            .collect();
        // `pad`, so that tables can give a width.
        if parts.is_empty() {
            f.pad("none")
        } else {
            f.pad(&parts.join(","))
        }
    }
}

fn cpu_id(text: &str, part: &str) -> Result<u32, String> {
    match text.trim().parse() {
        Ok(cpu) if cpu <= CPU_ID_MAX => Ok(cpu),
        Ok(cpu) => Err(format!(
            "CPU {cpu} is past the highest possible, {CPU_ID_MAX}"
        )),
        Err(_) => Err(format!("`{part}` is neither a CPU nor a range of CPUs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_and_writes_the_same() {
        for (text, cpus, written) in [
            ("0-3,8\n", vec![0, 1, 2, 3, 8], "0-3,8"),
            ("5", vec![5], "5"),
            ("0,1,2", vec![0, 1, 2], "0-2"),
            ("\n", vec![], "none"),
        ] {
            let set = CpuSet::parse(text).unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
            assert_eq!(set.to_string(), written);
        }
    }

    #[test]
    fn a_mask_has_its_lowest_cpus_in_the_last_word() {
        for (text, written) in [
            ("0\n", "none"),
            ("3", "0-1"),
            ("00000003,80000001", "0,31-33"),
            ("00000001,00000000,00000000", "64"),
        ] {
            assert_eq!(CpuSet::parse_mask(text).unwrap().to_string(), written);
        }
        for text in ["", "x", "1,", "123456789", "+1", "-1"] {
            assert!(CpuSet::parse_mask(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_an_error_that_names_the_part() {
        for (text, named) in [
            ("0-", "`0-`"),
            ("x", "`x`"),
            ("3-1", "`3-1`"),
            ("0,,2", "``"),
            ("-1", "`-1`"),
            ("0-31:2/4", "`0-31:2/4`"),
            ("0-4294967295", "CPU 4294967295"),
            ("0-99999999999", "`0-99999999999`"),
        ] {
            let error = CpuSet::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
