//! What `ringgate-tune` reads of made-up machines, and what it plans for them.

mod command;
mod fixture;
mod limits;
mod machines;
mod network;
mod oddities;
mod plan;
mod properties;
mod snapshots;
mod topology;
