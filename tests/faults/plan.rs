//! How a scenario has its server started.

use std::net::SocketAddr;
use std::process::Command;

use crate::FRONT;
use crate::gate::{Gate, echo, folder};
use crate::scratch::Scratch;

/// A configuration, and what the program is started with.
pub struct Plan {
    pub scratch: Scratch,
    /// Of `upstream =`; an echo unless given.
    pub upstream: Option<String>,
    pub address: &'static str,
    /// Lines of the listener.
    pub listener: String,
    pub shards: usize,
    /// Lines of `[limits]`.
    pub limits: &'static str,
    /// Tables of their own.
    pub more: &'static str,
    /// A program that becomes or starts the one it is given, with its arguments.
    pub through: Vec<String>,
    pub program: String,
    pub arguments: Vec<String>,
}

impl Plan {
    pub fn new() -> Self {
        Self {
            scratch: folder(),
            upstream: None,
            address: "127.0.0.1:0",
            listener: String::new(),
            shards: 2,
            limits: "connections = 256",
            more: "",
            through: Vec::new(),
            program: env!("CARGO_BIN_EXE_ringgate").to_owned(),
            arguments: Vec::new(),
        }
    }

    /// With these lines of the listener.
    pub fn with(listener: &str) -> Self {
        Self {
            listener: listener.to_owned(),
            ..Self::new()
        }
    }

    /// The command that runs it, its configuration written.
    pub fn command(&self) -> Command {
        self.written(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn written(&self, echo: SocketAddr) -> Command {
        let upstream = match &self.upstream {
            Some(upstream) => upstream.clone(),
            None => format!("\"{echo}\""),
        };
        let front = FRONT
            .replace("\"127.0.0.1:8080\"", &upstream)
            .replace("127.0.0.1:0", self.address);
        let Self {
            listener,
            shards,
            limits,
            more,
            ..
        } = self;
        let text = format!(
            "{front}{listener}\n[shards]\ncount = {shards}\n[limits]\n{limits}\n\
             [log]\nformat = \"json\"\naccess = true\n{more}\n"
        );
        self.scratch.write("ringgate.toml", text);
        let mut words = self.through.iter().chain([&self.program]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command
            .args(words)
            .args(["run", "-c"])
            .arg(self.scratch.path("ringgate.toml"))
            .args(&self.arguments);
        command
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Gate {
        let upstream = echo();
        let mut command = self.written(upstream);
        Gate::launch(self.scratch, upstream, &mut command)
    }
}
