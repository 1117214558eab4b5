//! `apply`, `verify`, `revert` and `confirm`: on a made-up host, with faults, killed anywhere, and
//! on real knobs.

mod command;
mod confirm;
mod crash;
mod faults;
mod fixture;
mod hosts;
mod profiles;
