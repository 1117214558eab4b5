//! From an interrupt's name to its number.

use super::Knobs;

/// The number of the interrupt that bears a name.
///
/// # Errors
///
/// There is none, or there are several.
pub(super) fn number(knobs: &Knobs<'_>, name: &str) -> Result<u32, String> {
    let numbers = match listed(knobs) {
        Some(numbers) => numbers
            .into_iter()
            .filter(|number| {
                let file = format!("kernel/irq/{number}/actions");
                let actions = knobs.access.read(&knobs.host.sysfs.join(file));
                actions.is_ok_and(|actions| actions.trim().split(',').any(|it| it == name))
            })
            .collect(),
        // A kernel without CONFIG_SPARSE_IRQ.
        None => {
            let file = knobs.host.proc.join("interrupts");
            let table = knobs.access.read(&file);
            let table = table.map_err(|error| format!("{}: {error}", file.display()))?;
            table
                .lines()
                .filter_map(|line| bears(line, name))
                .collect::<Vec<_>>()
        }
    };
    match numbers[..] {
        [number] => Ok(number),
        [] => Err(format!("there is no interrupt `{name}`")),
        _ => {
            let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
            Err(format!(
                "interrupts {} are all called `{name}`",
                numbers.join(", ")
            ))
        }
    }
}

/// The numbers that `/sys/kernel/irq` has, ascending; `None` without it.
fn listed(knobs: &Knobs<'_>) -> Option<Vec<u32>> {
    let entries = std::fs::read_dir(knobs.host.sysfs.join("kernel/irq")).ok()?;
    let entries = entries.flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Some(numbers)
}

/// The number in a line of `/proc/interrupts` that ends with the name, or has it among the names of
/// those that share the line: ` 24:  1  0  IO-APIC  5-edge  eth0, eth1`.
fn bears(line: &str, name: &str) -> Option<u32> {
    let (number, rest) = line.split_once(':')?;
    let number = number.trim().parse().ok()?;
    let mut names = rest.split(", ");
    let first = names.next()?.split_whitespace().next_back();
    let mut names = first.into_iter().chain(names.map(str::trim));
    names.any(|it| it == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_bears_the_names_at_its_end() {
        let line = " 24:    1    0  IO-APIC   5-edge      eth0, eth1";
        assert_eq!(bears(line, "eth0"), Some(24));
        assert_eq!(bears(line, "eth1"), Some(24));
        for absent in ["eth", "5-edge", "IO-APIC", "1"] {
            assert_eq!(bears(line, absent), None, "{absent}");
        }
        assert_eq!(
            bears("NMI:   2   1  Non-maskable interrupts", "interrupts"),
            None
        );
    }
}
