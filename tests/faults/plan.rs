//! How a scenario has its server started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::gate::{FRONT, Gate, echo, folder};
use crate::scratch::Scratch;

/// A configuration, and what the program is started with.
pub struct Plan {
    pub scratch: Scratch,
    /// Of `upstream =`; an echo unless given.
    pub upstream: Option<String>,
    pub address: &'static str,
    /// Lines of the listener.
    pub listener: String,
    /// Text of a layout file, which then says where shards run.
    pub layout: Option<&'static str>,
    pub shards: usize,
    /// Lines of `[limits]`.
    pub limits: &'static str,
    /// Tables of their own, behind the listener.
    pub more: String,
    /// A program that becomes or starts the one it is given, with its arguments.
    pub through: Vec<String>,
    pub program: PathBuf,
}

impl Plan {
    pub fn new() -> Self {
        Self {
            scratch: folder(),
            upstream: None,
            address: "127.0.0.1:0",
            listener: String::new(),
            layout: None,
            shards: 2,
            limits: "connections = 256",
            more: String::new(),
            through: Vec::new(),
            program: env!("CARGO_BIN_EXE_ringgate").into(),
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
        let shards = match self.layout {
            Some(_) => String::new(),
            None => format!("[shards]\ncount = {shards}\n"),
        };
        let text = format!(
            "{front}{listener}\n{more}\n{shards}[limits]\n{limits}\n\
             [log]\nformat = \"json\"\naccess = true\n"
        );
        self.scratch.write("ringgate.toml", text);
        let words = self.through.iter().map(PathBuf::from);
        let mut words = words.chain([self.program.clone()]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command
            .args(words)
            .args(["run", "-c"])
            .arg(self.scratch.path("ringgate.toml"));
        if let Some(layout) = self.layout {
            self.scratch.write("layout.toml", layout);
            command
                .arg("--layout")
                .arg(self.scratch.path("layout.toml"));
        }
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
