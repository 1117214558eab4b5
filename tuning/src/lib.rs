//! Where shards, interrupts and everything else of a host should run.
//!
//! In the order in which a host is read:
//!
//! - [`cpu_set`]: sets of CPUs as the kernel writes them.
//! - [`host`]: the roots of sysfs and proc, and what could not be read there.
//! - [`topology`]: sockets, cores, caches, memory nodes and how fast each CPU is.
//! - [`cgroup`]: how many CPUs, and which, the control group leaves us.
//! - [`inspection`]: all of it together, for `ringgate-tune inspect`.
//! - [`table`]: the same for people.
//!
//! And what follows from it:
//!
//! - [`layout`]: who lives on which CPU, and `layout.toml`.
//! - [`plan`]: an inspection to a layout.
//!
//! And what brings a layout to the host, and the host back:
//!
//! - [`knob`]: what can be turned, and when two of its values are the same.
//! - [`kernel`]: reads and turns knobs.
//! - [`journal`]: what every knob was before.
//! - [`undo`]: back to that, but for what somebody else changed.
//! - [`apply`], [`confirm`], [`verify`], [`revert`]: the commands.
//! - [`dropin`]: the layout for systemd.
#![deny(unsafe_code)]

pub mod apply;
pub mod cgroup;
pub mod confirm;
pub mod cpu_set;
pub mod dropin;
pub mod host;
pub mod inspection;
pub mod journal;
pub mod kernel;
pub mod knob;
pub mod layout;
pub mod plan;
pub mod revert;
pub mod table;
pub mod topology;
pub mod undo;
pub mod verify;
