//! A server in a process of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs; killed when dropped.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts `command` on `cpu` and waits until it listens on `address`. What it says goes to `log`.
    pub fn start(
        name: String,
        command: &mut Command,
        address: SocketAddr,
        cpu: CoreId,
        log: &Path,
    ) -> Result<Self, String> {
        let file = fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let error_file = file.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(error_file);
        // What a thread starts runs where the thread may run.
        let child = thread::scope(|scope| {
            let spawn = || {
                core_affinity::set_for_current(cpu);
                command.spawn()
            };
            scope.spawn(spawn).join().expect("a thread that ends")
        });
        let child = child.map_err(|error| format!("{name}: {error}"))?;
        let mut server = Self {
            name,
            address,
            child,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = !matches!(server.child.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{} does not listen:\n{said}", server.name));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// With its children, if it has any.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Politely, so that those with workers end them, too.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One of loopback that nobody listens at.
pub fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0");
    listener
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

/// Every metric of the process whose admin interface is at `admin`.
pub fn scrape(admin: SocketAddr) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(admin)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error: std::io::Error| format!("{admin}: {error}"))?;
    match answer.ends_with("# EOF\n") {
        true => Ok(answer),
        false => Err(format!("{admin}: no metrics, but {answer:?}")),
    }
}
