//! A layout for systemd: a drop-in of the terminator's unit.

use crate::cpu_set::CpuSet;
use crate::layout::{Layout, Shards};

/// Descriptors: two for a connection, and as many connections as a host may want.
const NOFILE: u32 = 1_048_576;

/// The drop-in: which CPUs the unit may use, and what its shards need of memory and descriptors.
pub fn dropin(layout: &Layout) -> String {
    let mut text = "# Printed by `ringgate-tune dropin`; print it anew when the layout changes.\n\
                    [Service]\n"
        .to_owned();
    let housekeeping = &layout.housekeeping;
    match &layout.shards {
        Shards::Pinned(_) if !housekeeping.is_empty() => {
            let shards = layout.shard_cpus();
            let cpus = shards.iter().chain(housekeeping.iter()).collect();
            text += &allowed(&shards, housekeeping, &cpus);
        }
        Shards::Pinned(_) => {
            text +=
                "# No AllowedCPUs=: the layout leaves everything but shards to the scheduler.\n";
        }
        Shards::Unpinned(_) => {
            text += "# No AllowedCPUs=: shards are not pinned, the quota is what limits them.\n";
        }
    }
    text += "# Rings and their buffers are locked memory; kernels that charge them refuse large \
             ones otherwise.\nLimitMEMLOCK=infinity\n";
    text += "# A connection has two descriptors, the client's and the upstream's.\n";
    text += &format!("LimitNOFILE={NOFILE}\n");
    text
}

fn allowed(shards: &CpuSet, housekeeping: &CpuSet, cpus: &CpuSet) -> String {
    format!(
        "# Shards on {shards}, the control plane on {housekeeping}: the unit needs both, and no \
         other.\nAllowedCPUs={cpus}\n"
    )
}
