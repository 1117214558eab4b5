//! Other programs: whether they are here, and running them without ever waiting for good.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long something that must happen may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Where a program is, in the search path or where Debian keeps those of administrators. Tells on
/// standard error, past the test harness's capture, when a test is skipped for the lack of it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Says that the test that runs is skipped, and why.
pub fn skip(why: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    // Unlike `eprintln!`, this is shown for a test that passes, too.
    let _ = writeln!(io::stderr(), "skipped: {why} ({test})");
}

/// A folder of the test that runs; gone when dropped, unless the test failed.
pub struct Scratch(PathBuf);

impl Scratch {
    /// `name` tells apart the folders of one test.
    pub fn named(name: &str) -> Self {
        let test = thread::current()
            .name()
            .unwrap_or("main")
            .replace("::", "-");
        let folder = format!("interop-{}-{test}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// An address on which nothing listens: each has a loopback address of its own, so neither other
/// tests nor the ports of outgoing connections get in the way.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Other processes of these tests at the same time get another second byte, most likely.
    let process = u8::try_from(std::process::id() % 250).unwrap() + 2;
    SocketAddr::from((Ipv4Addr::new(127, process, high, low), 8443))
}

/// A program that serves until it is dropped.
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command` with its output in the file `log`, and waits until it listens on `address`.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path, address: SocketAddr) -> Self {
        let file = fs::File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut service = Self {
            child,
            log: log.to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = service.child.try_wait().unwrap();
            let fate = match ended {
                Some(status) => status.to_string(),
                None => "does not listen".to_owned(),
            };
            let waits = ended.is_none() && Instant::now() < deadline;
            assert!(waits, "{command:?}: {fate}\n{}", service.log());
            thread::sleep(LOOK_AGAIN);
        }
        service
    }

    #[allow(dead_code, reason = "a bench asks for it")]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end and waits until it has, without a fault of its own.
    #[allow(dead_code, reason = "only some targets restart a program")]
    #[track_caller]
    pub fn terminate(mut self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", "TERM", &id])
            .status()
            .unwrap();
        assert!(sent.success(), "kill: {sent}");
        let status = until("the end of a program", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// What `look` finds, looked for again until it is there.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// What a client that relays its standard input and output did.
#[derive(Debug)]
pub struct Exchange {
    /// What came back, up to as many bytes as were sent.
    pub received: Vec<u8>,
    /// What it said for people.
    pub said: String,
}

/// Runs a client, feeds it `payload`, and reads as much back. Its input stays open until then, so
/// it need not know when the answer is complete; with nothing to send, until it ends by itself.
pub fn exchange(command: &mut Command, payload: Arc<[u8]>) -> Exchange {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut errors = child.stderr.take().unwrap();
    let expected = if payload.is_empty() {
        u64::MAX
    } else {
        payload.len() as u64
    };
    let writer = thread::spawn(move || {
        // A client that is refused goes away while it is written to.
        let _ = input.write_all(&payload).and_then(|()| input.flush());
        input
    });
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        let _ = output.by_ref().take(expected).read_to_end(&mut received);
        (received, output)
    });
    let listener = thread::spawn(move || {
        let mut said = Vec::new();
        let _ = errors.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let deadline = Instant::now() + PATIENCE;
    wait(&mut child, deadline, command, || reader.is_finished());
    let (received, output) = reader.join().unwrap();
    drop(writer.join().unwrap());
    wait(&mut child, deadline, command, || false);
    drop(output);
    Exchange {
        received,
        said: listener.join().unwrap(),
    }
}

/// Until the child has ended or `enough`; a child that is late is killed.
fn wait(child: &mut Child, deadline: Instant, command: &Command, enough: impl Fn() -> bool) {
    while !enough() && child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end in {PATIENCE:?}");
        }
        thread::sleep(LOOK_AGAIN);
    }
}
