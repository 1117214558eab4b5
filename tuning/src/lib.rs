//! Where shards, interrupts and everything else of a host should run.
//!
//! In the order in which a host is read:
//!
//! - [`cpu_set`]: sets of CPUs as the kernel writes them.
//! - [`host`]: the roots of sysfs and proc, and what could not be read there.
//! - [`topology`]: sockets, cores, caches, memory nodes and how fast each CPU is.
//! - [`cgroup`]: how many CPUs, and which, the control group leaves us.
//! - [`nic`]: network cards, their queues and interrupts.
//! - [`ability`]: what the kernel allows this process.
//! - [`hindrance`]: which of that is in the way, and the remedy.
//! - [`inspection`]: all of it together, for `ringgate-tune inspect`.
//! - [`table`]: the same for people.
//!
//! And what follows from it:
//!
//! - [`layout`]: who lives on which CPU, and `layout.toml`.
//! - [`plan`]: an inspection to a layout, and the reasons.
//! - [`explain`]: a layout as a picture in text.
//! - [`autotune`]: whether another layout is better here, proven by load.
//! - [`simulation`]: what follows on hosts that are bigger than one can measure.
//!
//! And what brings a layout to the host, and the host back:
//!
//! - [`knob`]: what can be turned, and when two of its values are the same.
//! - [`kernel`]: reads and turns knobs.
//! - [`journal`]: what every knob was before.
//! - [`undo`]: back to that, but for what somebody else changed.
//! - [`apply`], [`confirm`], [`verify`], [`revert`]: the commands.
//! - [`dropin`]: the layout for systemd.
//!
//! What they stand on: [`random`] and [`units`].
#![deny(unsafe_code)]

pub mod ability;
pub mod apply;
pub mod autotune;
pub mod cgroup;
pub mod confirm;
pub mod cpu_set;
pub mod dropin;
pub mod explain;
pub mod hindrance;
pub mod host;
pub mod inspection;
pub mod journal;
pub mod kernel;
pub mod knob;
pub mod layout;
pub mod nic;
pub mod plan;
pub mod random;
pub mod revert;
pub mod simulation;
pub mod table;
pub mod topology;
pub mod undo;
pub mod units;
pub mod verify;
