//! `ringgate-tune autotune`: its judgement on made-up measurements, and its handling of programs.

mod candidates;
mod command;
mod fake;
mod process;
mod replay;
mod tournament;
