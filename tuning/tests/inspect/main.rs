//! What `ringgate-tune inspect` reads of made-up machines.

mod command;
mod fixture;
mod limits;
mod oddities;
mod topology;
