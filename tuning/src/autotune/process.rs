//! A block by programs: the server on the candidate's layout, and load on it.
//!
//! Every program is the head of a process group of its own. So Ctrl-C on a terminal reaches this
//! process alone, which then ends them in order, and what a wrapper script started ends with it.
//! Nothing is left behind however this ends, except by SIGKILL on this process itself, which nobody
//! hears of.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;

use super::{Block, Failure, Measure};

/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What is kept of what a program says.
const LINE_LEN_MAX: u64 = 2048;
const LINES_KEPT: usize = 3;

/// How long what a program said last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Bytes of a result of the load generator.
const RESULT_LEN_MAX: u64 = 64 << 20;

/// Exit codes of the load generator, as its `--help` has them.
const HELD: i32 = 0;
const USAGE: i32 = 1;
const GENERATOR_LIMIT: i32 = 3;
const THRESHOLD_MISSED: i32 = 99;

/// What is run.
#[derive(Clone, Debug)]
pub struct Programs {
    pub ringgate: PathBuf,
    pub loadgen: PathBuf,
    /// Of the server.
    pub config: PathBuf,
    /// Arguments of `ringgate-loadgen run`, beyond those that belong to a block.
    pub load: Vec<String>,
    /// Measured time.
    pub block: Duration,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// The server, until it listens.
    pub listen: Duration,
    /// The load, beyond the measured time: its warm-up, and answers that are late.
    pub load: Duration,
    /// The server, from SIGTERM to its end.
    pub end: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            listen: Duration::from_secs(20),
            load: Duration::from_secs(60),
            end: Duration::from_secs(20),
        }
    }
}

/// Measures by programs.
#[derive(Debug)]
pub struct Bench {
    programs: Programs,
    deadlines: Deadlines,
    /// `layout.toml` of every candidate.
    layouts: Vec<String>,
    folder: Folder,
    /// Set from outside: ends the block, and all of it.
    stop: Arc<AtomicBool>,
    /// What was odd and yet gave a block, each once.
    pub notes: Vec<String>,
}

impl Bench {
    /// # Errors
    ///
    /// Where no folder for temporary files can be made.
    pub fn new(
        programs: Programs,
        deadlines: Deadlines,
        layouts: Vec<String>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        Ok(Self {
            programs,
            deadlines,
            layouts,
            folder: Folder::new()?,
            stop,
            notes: Vec::new(),
        })
    }

    fn serve(&self, candidate: usize) -> Result<Running, Failure> {
        let layout = self.folder.0.join("layout.toml");
        fs::write(&layout, &self.layouts[candidate])
            .map_err(|error| Failure::Stop(format!("{}: {error}", layout.display())))?;
        let mut command = Command::new(&self.programs.ringgate);
        command.arg("run").arg("-c").arg(&self.programs.config);
        command.arg("--layout").arg(&layout);
        let server = Running::start(command, "--ringgate").map_err(Failure::Stop)?;
        let deadline = Instant::now() + self.deadlines.listen;
        while !server.listens.load(Ordering::Acquire) {
            self.go_on()?;
            if server.has_ended() {
                return Err(Failure::Candidate(format!(
                    "the server did not start{}",
                    server.end().last_words()
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::Candidate(format!(
                    "the server did not say within {:?} that it listens, which takes a log level \
                     of info{}",
                    self.deadlines.listen,
                    server.end().last_words()
                )));
            }
            thread::sleep(LOOK);
        }
        Ok(server)
    }

    fn load(&self, server: &Running) -> Result<Block, Failure> {
        let result = self.folder.0.join("result.json");
        // That of the block before must not pass for this one's.
        let _ = fs::remove_file(&result);
        let mut command = Command::new(&self.programs.loadgen);
        command.arg("run").args(&self.programs.load).arg("--quiet");
        let duration = format!("{}ms", self.programs.block.as_millis().max(1));
        command.arg("--duration").arg(duration);
        command
            .arg("--server-pid")
            .arg(server.child.id().to_string());
        command.arg("--json").arg(&result);
        let load = Running::start(command, "--loadgen").map_err(Failure::Stop)?;
        let allowed = self.programs.block + self.deadlines.load;
        let deadline = Instant::now() + allowed;
        while !load.has_ended() {
            self.go_on()?;
            if server.has_ended() {
                return Err(Failure::Candidate(format!(
                    "the server ended under load{}",
                    server.last_words()
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::Candidate(format!(
                    "the load did not end within {allowed:?}"
                )));
            }
            thread::sleep(LOOK);
        }
        // Ctrl-C may have come between, and be the reason for the end.
        self.go_on()?;
        let ended = load.end();
        let words = ended.last_words();
        let code = ended.status.and_then(|status| status.code());
        match code {
            Some(HELD) => read_block(&result, true),
            Some(THRESHOLD_MISSED) => read_block(&result, false),
            Some(GENERATOR_LIMIT) => Ok(Block {
                confirmed_per_s: 0.0,
                p99_us: None,
                server_cpu_us_per_unit: None,
                held: false,
                limited: true,
            }),
            Some(USAGE) => Err(Failure::Stop(format!("the load cannot be run{words}"))),
            _ => Err(Failure::Candidate(format!("the load failed{words}"))),
        }
    }

    /// Ends the server as an operator would; one that does not end is killed.
    fn end(&mut self, candidate: usize, server: Running) {
        server.signal(Signal::TERM);
        let deadline = Instant::now() + self.deadlines.end;
        while !server.has_ended() {
            if Instant::now() > deadline {
                let after = self.deadlines.end;
                let note = format!(
                    "candidate {candidate}: the server did not end within {after:?} after SIGTERM, \
                     and was killed"
                );
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                break;
            }
            thread::sleep(LOOK);
        }
        drop(server.end());
    }

    fn go_on(&self) -> Result<(), Failure> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Failure::Stop("interrupted".to_owned())),
            false => Ok(()),
        }
    }
}

impl Measure for Bench {
    fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
        self.go_on()?;
        let server = self.serve(candidate)?;
        let block = self.load(&server);
        self.end(candidate, server);
        block
    }
}

/// The parts of a result that a block needs.
fn read_block(file: &Path, held: bool) -> Result<Block, Failure> {
    #[derive(Deserialize)]
    struct Result {
        schema: String,
        phases: Vec<Phase>,
    }
    #[derive(Deserialize)]
    struct Phase {
        confirmed_per_s: f64,
        p99_us: Option<f64>,
        server_cpu_us_per_unit: Option<f64>,
    }
    const SCHEMA: &str = "ringgate-loadgen/1";
    let named = |problem: String| {
        Failure::Stop(format!(
            "the load generator's result: {problem}; are both programs of one version?"
        ))
    };
    let mut text = String::new();
    File::open(file)
        .and_then(|it| it.take(RESULT_LEN_MAX).read_to_string(&mut text))
        .map_err(|error| named(error.to_string()))?;
    let result: Result = serde_json::from_str(&text).map_err(|error| named(error.to_string()))?;
    if result.schema != SCHEMA {
        return Err(named(format!(
            "its schema is `{}`, not `{SCHEMA}`",
            result.schema
        )));
    }
    // The first phase is the whole; others are the kinds in it.
    let phase = result.phases.first();
    let phase = phase.ok_or_else(|| named("it has no phase".to_owned()))?;
    Ok(Block {
        confirmed_per_s: phase.confirmed_per_s,
        p99_us: phase.p99_us,
        server_cpu_us_per_unit: phase.server_cpu_us_per_unit,
        held,
        limited: false,
    })
}

/// A program that runs, with its process group; ends with this value.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Whether it said that it listens.
    listens: Arc<AtomicBool>,
    said: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Running {
    /// `option` is the one that names the program.
    fn start(mut command: Command, option: &str) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).process_group(0);
        let program = Path::new(command.get_program()).display().to_string();
        let mut child = command
            .spawn()
            .map_err(|error| format!("{program}: {error}; name the program with {option}"))?;
        let stderr = child.stderr.take();
        let mut running = Self {
            child,
            listens: Arc::default(),
            said: Arc::default(),
            reader: None,
            status: None,
        };
        if let Some(stderr) = stderr {
            let (listens, said) = (running.listens.clone(), running.said.clone());
            // Ends when the program has, so that a full pipe never stops it.
            let reader = thread::Builder::new().spawn(move || listen(stderr, &listens, &said));
            running.reader = Some(reader.map_err(|error| format!("a thread: {error}"))?);
        }
        Ok(running)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Leaves it waiting to be reaped: until then nobody else can get its number.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid()), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // It may have ended meanwhile.
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Ends whatever is left of the group.
    fn end(mut self) -> Self {
        self.reap();
        self
    }

    fn reap(&mut self) {
        if self.status.is_none() {
            // Before it is reaped, while the group's number is surely ours.
            self.signal(Signal::KILL);
            self.status = self.child.wait().ok();
        }
    }

    /// How it ended, if it has, and what it said last, as the end of a sentence.
    fn last_words(&self) -> String {
        let deadline = Instant::now() + LAST_WORDS;
        let silent = |reader: &JoinHandle<()>| reader.is_finished();
        while !self.reader.as_ref().is_none_or(silent) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        match said.is_empty() {
            true => ", and said nothing".to_owned(),
            false => format!(": {}", said.join(" | ")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Reads what a program says until it ends.
fn listen(stderr: ChildStderr, listens: &AtomicBool, said: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr
            .by_ref()
            .take(LINE_LEN_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let text = String::from_utf8_lossy(&line);
        // For people, and as JSON.
        if text.contains(" listening address=") || text.contains("\"message\":\"listening\"") {
            listens.store(true, Ordering::Release);
        }
        if !text.trim().is_empty() {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == LINES_KEPT {
                said.pop_front();
            }
            said.push_back(text.trim().escape_debug().to_string());
        }
    }
}

/// A folder for temporary files; gone when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, String> {
        const ATTEMPTS: u32 = 100;
        let parent = std::env::temp_dir();
        let mut problem = String::new();
        for attempt in 0..ATTEMPTS {
            let name = format!("ringgate-autotune-{}-{attempt}", std::process::id());
            let path = parent.join(name);
            // One that is there already is somebody else's.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) => problem = format!("{}: {error}", path.display()),
            }
        }
        Err(format!(
            "{problem}; TMPDIR names the folder for temporary files"
        ))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
