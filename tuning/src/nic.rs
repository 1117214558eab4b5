//! Network cards, their queues and their interrupts (Linux ABI documents `sysfs-class-net`,
//! `sysfs-class-net-queues` and `sysfs-kernel-irq`).

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cgroup::parse_number;
use crate::cpu_set::CpuSet;
use crate::host::{Need, Reader};
use crate::topology::trimmed;

const FOLDER: &str = "class/net";

/// What there is of the network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    pub nics: Vec<Nic>,
    pub bonds: Vec<Bond>,
}

/// Interfaces that act as one; the members are what is tuned.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Bond {
    pub name: String,
    pub members: Vec<String>,
}

/// A network card, physical or paravirtual.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Nic {
    pub name: String,
    /// The memory node that it hangs on, where that is known.
    pub node: Option<u32>,
    /// `up`, `down`, `unknown` and others of RFC 2863, section 3.1.14.
    pub state: Option<String>,
    pub rx: Vec<Queue>,
    pub tx: Vec<Queue>,
    pub irqs: Vec<Irq>,
}

/// A receive or a transmit queue.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Queue {
    pub index: u32,
    /// RPS of a receive queue, XPS of a transmit queue; `None` where the queue has none.
    pub cpus: Option<CpuSet>,
}

/// An interrupt of a card.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Irq {
    pub number: u32,
    pub name: Option<String>,
    /// The queue whose interrupt it is, counted from 0 by the number in the name; `None` for those
    /// that tell of configuration and errors.
    pub queue: Option<u32>,
    /// Where it may go; `None` where it cannot be told to go elsewhere.
    pub affinity: Option<CpuSet>,
    /// Where it goes.
    pub effective: Option<CpuSet>,
    /// Placed by the kernel, which refuses to move it.
    pub managed: bool,
}

impl Nic {
    /// Packets may arrive; a paravirtual card may not know.
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_deref(), Some("up" | "unknown") | None)
    }

    /// Queues that bring packets: receive queues, or where they are not told, those of the
    /// interrupts.
    pub fn queues(&self) -> usize {
        match self.rx.len() {
            0 => self.interrupt_queues(),
            queues => queues,
        }
    }

    /// Queues that have an interrupt.
    pub fn interrupt_queues(&self) -> usize {
        let queues = self.irqs.iter().filter_map(|irq| irq.queue);
        queues.collect::<BTreeSet<_>>().len()
    }
}

impl Network {
    /// Reads cards and bonds, and those in `named` whatever they are.
    pub fn read(reader: &mut Reader<'_>, named: &[String]) -> Self {
        let names = reader.names(FOLDER, Need::Optional);
        let mut bonds = Vec::new();
        for name in &names {
            let entry = format!("{FOLDER}/{name}/bonding/slaves");
            let members = reader.sysfs(&entry, Need::Optional, |text| {
                Ok(text.split_whitespace().map(str::to_owned).collect())
            });
            bonds.extend(members.map(|members| Bond {
                name: name.clone(),
                members,
            }));
        }
        let is_wanted = |reader: &Reader<'_>, name: &String| {
            let is_bond = bonds.iter().any(|bond| bond.name == *name);
            let is_member = bonds.iter().any(|bond| bond.members.contains(name));
            let is_card = reader.has(&format!("{FOLDER}/{name}/device"));
            !is_bond && (is_card || is_member || named.contains(name))
        };
        let wanted: Vec<&String> = names
            .iter()
            .filter(|name| is_wanted(reader, name))
            .collect();
        let nics = wanted.into_iter().map(|name| read_nic(reader, name));
        Self {
            nics: nics.collect(),
            bonds,
        }
    }
}

fn read_nic(reader: &mut Reader<'_>, name: &str) -> Nic {
    let folder = format!("{FOLDER}/{name}");
    Nic {
        name: name.to_owned(),
        node: read_node(reader, &folder),
        state: reader.sysfs(&format!("{folder}/operstate"), Need::Optional, trimmed),
        rx: read_queues(reader, &folder, "rx-", "rps_cpus"),
        tx: read_queues(reader, &folder, "tx-", "xps_cpus"),
        irqs: read_irqs(reader, name, &folder),
    }
}

/// The devices that may know: the card itself, and for virtio the PCI device it sits on. Any other
/// card's parent is a bridge, whose interrupts are not the card's.
fn devices(reader: &mut Reader<'_>, folder: &str) -> Vec<String> {
    let device = format!("{folder}/device");
    let kind = reader.sysfs(&format!("{device}/modalias"), Need::Hint, trimmed);
    if kind.is_some_and(|kind| kind.starts_with("virtio:")) {
        let parent = format!("{device}/..");
        vec![device, parent]
    } else {
        vec![device]
    }
}

fn read_node(reader: &mut Reader<'_>, folder: &str) -> Option<u32> {
    // Negative where the firmware does not say.
    let nodes = devices(reader, folder);
    let node: Option<i64> = nodes.iter().find_map(|device| {
        reader.sysfs(&format!("{device}/numa_node"), Need::Optional, parse_number)
    });
    node.and_then(|node| u32::try_from(node).ok())
}

fn read_queues(reader: &mut Reader<'_>, folder: &str, prefix: &str, file: &str) -> Vec<Queue> {
    let queues = format!("{folder}/queues");
    let indices = reader.numbered(&queues, prefix, Need::Optional);
    let read = |index| Queue {
        index,
        // A card with one transmit queue has the file and refuses to read it.
        cpus: reader.sysfs(
            &format!("{queues}/{prefix}{index}/{file}"),
            Need::Hint,
            CpuSet::parse_mask,
        ),
    };
    indices.into_iter().map(read).collect()
}

fn read_irqs(reader: &mut Reader<'_>, name: &str, folder: &str) -> Vec<Irq> {
    let mut numbers = Vec::new();
    for device in devices(reader, folder) {
        numbers.extend(reader.numbered(&format!("{device}/msi_irqs"), "", Need::Optional));
        if numbers.is_empty() {
            let entry = format!("{device}/irq");
            let line: Option<u32> = reader.sysfs(&entry, Need::Hint, parse_number);
            // 0 stands for none.
            numbers.extend(line.filter(|&line| line > 0));
        }
    }
    let mut interrupts = None;
    let mut irqs: Vec<Irq> = numbers
        .into_iter()
        .map(|number| read_irq(reader, number, &mut interrupts))
        .collect();
    // Vectors that no driver asked for.
    irqs.retain(|irq| irq.name.is_some());
    let only = irqs.len() == 1;
    let told: Vec<Option<u32>> = irqs
        .iter()
        .map(|irq| match irq.name.as_deref() {
            Some(own) if only && own == name => Some(0),
            own => own.and_then(queue_in_name),
        })
        .collect();
    // Some drivers count from 1.
    let order: BTreeSet<u32> = told.iter().flatten().copied().collect();
    for (irq, told) in irqs.iter_mut().zip(told) {
        let rank = told.and_then(|told| order.iter().position(|&queue| queue == told));
        irq.queue = rank.and_then(|rank| u32::try_from(rank).ok());
    }
    irqs.sort_by_key(|irq| (irq.queue.is_none(), irq.queue, irq.number));
    irqs
}

/// `interrupts` is the table of them, which is long: read once, and only where sysfs has no name.
fn read_irq(reader: &mut Reader<'_>, number: u32, interrupts: &mut Option<String>) -> Irq {
    let folder = format!("irq/{number}");
    let actions = format!("kernel/irq/{number}/actions");
    let name = match reader.sysfs(&actions, Need::Hint, trimmed) {
        Some(name) => Some(name).filter(|name| !name.is_empty()),
        None => {
            let table = interrupts.get_or_insert_with(|| {
                let text = reader.proc("interrupts", Need::Hint, |text| Ok(text.to_owned()));
                text.unwrap_or_default()
            });
            name_in_interrupts(table, number)
        }
    };
    Irq {
        number,
        name,
        queue: None,
        affinity: reader.proc(
            &format!("{folder}/smp_affinity_list"),
            Need::Optional,
            CpuSet::parse,
        ),
        effective: reader.proc(
            &format!("{folder}/effective_affinity_list"),
            Need::Hint,
            CpuSet::parse,
        ),
        managed: reader
            .sysfs(
                &format!("kernel/debug/irq/irqs/{number}"),
                Need::Hint,
                |text| Ok(text.contains("IRQD_AFFINITY_MANAGED")),
            )
            .unwrap_or(false),
    }
}

/// The last column of ` 38:  0  5600  PCI-MSIX-0000:00:03.0  1-edge  virtio2-input.0`.
fn name_in_interrupts(text: &str, number: u32) -> Option<String> {
    let number = number.to_string();
    let line = text.lines().find_map(|line| {
        let (head, rest) = line.split_once(':')?;
        (head.trim() == number).then_some(rest)
    })?;
    let name = line.split_whitespace().last()?;
    let is_name = name.contains(|byte: char| byte.is_ascii_alphabetic());
    is_name.then(|| name.to_owned())
}

/// The number of the queue that an interrupt's name says it is of. Drivers agree on little:
/// `eth0-TxRx-3`, `mlx5_comp3@pci:0000:3b:00.0`, `virtio2-input.3`, `virtio3-rx`.
pub fn queue_in_name(name: &str) -> Option<u32> {
    const NONE_OF_QUEUES: [&str; 13] = [
        "admin", "async", "cmd", "config", "control", "ctrl", "err", "error", "event", "fdir",
        "hwc", "mgmnt", "misc",
    ];
    const OF_QUEUES: [&str; 10] = [
        "blk", "comp", "fp", "input", "output", "q", "rx", "rxtx", "tx", "txrx",
    ];
    let (name, _) = name.split_once('@').unwrap_or((name, ""));
    let name = name.to_ascii_lowercase().replace("tx-rx", "txrx");
    let parts: Vec<&str> = name
        .split(|byte: char| !byte.is_ascii_alphanumeric())
        .collect();
    let words: Vec<&str> = parts
        .iter()
        .map(|part| part.trim_end_matches(|byte: char| byte.is_ascii_digit()))
        .collect();
    if words.iter().any(|word| NONE_OF_QUEUES.contains(word)) {
        return None;
    }
    let (last, word) = (*parts.last()?, *words.last()?);
    match last[word.len()..].parse() {
        // A number of its own, or one that ends a word for a queue.
        Ok(number) if parts.len() > 1 && (word.is_empty() || OF_QUEUES.contains(&word)) => {
            Some(number)
        }
        Err(_) if OF_QUEUES.contains(&word) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queue_interrupts_tell_their_queue() {
        for (name, queue) in [
            ("eth0-TxRx-7", Some(7)),
            ("eth0-Tx-Rx-0", Some(0)),
            ("i40e-ens1f0-TxRx-12", Some(12)),
            ("ice-eth1-TxRx-3", Some(3)),
            ("mlx5_comp5@pci:0000:3b:00.0", Some(5)),
            ("virtio2-input.1", Some(1)),
            ("virtio2-output.0", Some(0)),
            ("virtio3-rx", Some(0)),
            ("virtio3-tx", Some(0)),
            ("eth0-rx-2", Some(2)),
            ("eth0-txrx-1", Some(1)),
            ("gve-ntfy-blk4@pci:0000:00:04.0", Some(4)),
            ("mana_q3@pci:7870:00:00.0", Some(3)),
            ("eth0-5", Some(5)),
            ("virtio2-config", None),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("i40e-0000:02:00.0:misc", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("eth0-event-2", None),
            ("eth0", None),
            ("enp1s0", None),
            ("", None),
            ("eth0-TxRx-99999999999", None),
        ] {
            assert_eq!(queue_in_name(name), queue, "{name}");
        }
    }

    #[test]
    fn a_name_is_the_last_column_of_interrupts() {
        let text = "           CPU0       CPU1\n 37:          0          0 PCI-MSIX-0000:00:03.0   \
                    0-edge      virtio2-config\n 38: 1 2\nNMI: 0 0 Non-maskable interrupts\n";
        assert_eq!(
            name_in_interrupts(text, 37).as_deref(),
            Some("virtio2-config")
        );
        assert_eq!(name_in_interrupts(text, 38), None);
        assert_eq!(name_in_interrupts(text, 3), None);
    }
}
