//! Thin: arguments in, text out.

mod command;

use std::process::ExitCode;

use clap::Parser;

/// Plans and proves per-host core layouts.
#[derive(Parser)]
#[command(name = "ringgate-tune", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    Arguments::parse().command.run()
}
