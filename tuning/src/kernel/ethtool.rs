//! What the `ethtool` program prints.

/// The counts of queues that `ethtool -l` shows, in the words of `ethtool -L`: `combined 4`, or
/// `rx 4 tx 4` where the driver has no combined queues. `None` where it shows neither.
pub(super) fn channels(text: &str) -> Option<String> {
    let (_, current) = text.split_once("Current hardware settings")?;
    let count = |name: &str| -> Option<u32> {
        let line = current.lines().find_map(|line| line.strip_prefix(name));
        let count = line?.trim().parse().ok()?;
        Some(count).filter(|&count| count > 0)
    };
    match (count("Combined:"), count("RX:"), count("TX:")) {
        (Some(combined), _, _) => Some(format!("combined {combined}")),
        (None, Some(rx), Some(tx)) => Some(format!("rx {rx} tx {tx}")),
        _ => None,
    }
}

/// A count of queues in the words that this driver has, `present` being what [`channels`] says.
pub(crate) fn channels_wanted(present: &str, count: &str) -> String {
    if present.starts_with("combined") {
        format!("combined {count}")
    } else {
        format!("rx {count} tx {count}")
    }
}

/// The value of a setting that `ethtool -c` shows; `None` where the driver does not have it.
pub(super) fn coalesce(text: &str, setting: &str) -> Option<String> {
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == setting).then_some(value.trim())
    });
    // A driver that does not have it shows "n/a".
    line.filter(|value| value.parse::<u32>().is_ok())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rx: &str, tx: &str, combined: &str) -> String {
        format!(
            "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\t16\nTX:\t\t16\nOther:\t\tn/a\n\
             Combined:\t16\nCurrent hardware settings:\nRX:\t\t{rx}\nTX:\t\t{tx}\n\
             Other:\t\tn/a\nCombined:\t{combined}\n"
        )
    }

    #[test]
    fn counts_of_queues_are_those_of_now() {
        for (text, counts) in [
            (shown("n/a", "n/a", "4"), Some("combined 4")),
            (shown("0", "0", "63"), Some("combined 63")),
            (shown("4", "2", "n/a"), Some("rx 4 tx 2")),
            (shown("4", "2", "0"), Some("rx 4 tx 2")),
            (shown("n/a", "n/a", "n/a"), None),
            (String::new(), None),
        ] {
            assert_eq!(channels(&text).as_deref(), counts, "{text}");
        }
        assert_eq!(channels_wanted("combined 4", "2"), "combined 2");
        assert_eq!(channels_wanted("rx 4 tx 2", "3"), "rx 3 tx 3");
    }

    #[test]
    fn a_setting_is_a_number_or_not_there() {
        let text = "Coalesce parameters for eth0:\nAdaptive RX: off  TX: off\n\
                    stats-block-usecs:\tn/a\n\nrx-usecs:\t8\nrx-usecs-irq:\tn/a\n";
        assert_eq!(coalesce(text, "rx-usecs").as_deref(), Some("8"));
        for absent in [
            "rx-usecs-irq",
            "stats-block-usecs",
            "tx-usecs",
            "Adaptive RX",
        ] {
            assert_eq!(coalesce(text, absent), None, "{absent}");
        }
    }
}
