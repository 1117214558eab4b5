//! Which cache lines of 64 bytes one shard writes and another one touches: none, or a second shard
//! would slow the first one down.
//!
//! `cargo bench --bench sharing` has valgrind's lackey write down every memory access of a program in
//! which two threads do the data path's work in turn, each as a shard does: handshakes in full, with a
//! verdict that is remembered and resumed, and requests that are relayed. Both work from what
//! `Acceptor::for_shard` makes of one configuration. It fails where a line that one of them wrote was
//! read or written by the other. So that it is seen to find what it looks for, the same is done once
//! with one configuration for both, which must find some.
//!
//! The event loop and the ring are not in it (valgrind runs no ring of ours): a shard's loop owns
//! what it writes, its counters stand in cache lines of their own (`src/shard/counters.rs`), and the
//! mailbox is written when the control plane sends something or a connection is reported.

#[path = "../common/believe.rs"]
mod believe;
#[path = "../common/meter.rs"]
mod meter;
#[path = "../../tests/common/pki.rs"]
mod pki;
#[path = "../common/relayed.rs"]
mod relayed;
#[path = "../common/site.rs"]
mod site;

mod work;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

/// The programs' allocator: where memory of one thread lies beside another's is its doing.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LINE_LEN: u64 = 64;

/// Lines that are named.
const NAMED_MAX: usize = 12;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let work = arguments.iter().position(|argument| argument == "--work");
    if let Some(at) = work {
        work::run(arguments.get(at + 1).is_some_and(|how| how == "shared"));
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind is not here (apt-get install valgrind)");
        return ExitCode::SUCCESS;
    }
    let found = trace("own").and_then(|own| Ok((own, trace("shared")?)));
    match found {
        Ok((own, shared)) => judge(&own, &shared),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn judge(own: &Touched, shared: &Touched) -> ExitCode {
    let conflicts = own.conflicts();
    let control = shared.conflicts().len();
    println!(
        "each shard with a configuration of its own: {} and {} lines written, {} of them touched by \
         the other",
        own.written_by(0),
        own.written_by(1),
        conflicts.len()
    );
    println!("one configuration for both: {control} lines written by one and touched by the other");
    for conflict in conflicts.iter().take(NAMED_MAX) {
        println!("  {conflict}");
    }
    if conflicts.is_empty() && control > 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("a line is shared, or the check is blind");
    ExitCode::FAILURE
}

/// Who touched which line, and from where in the program: by line, one entry for each thread.
#[derive(Default)]
struct Touched(HashMap<u64, [Access; 2]>);

#[derive(Clone, Copy, Default)]
struct Access {
    read: bool,
    written: bool,
    /// The last instruction, and the address it touched.
    at: (u64, u64),
}

impl Touched {
    fn note(&mut self, thread: usize, kind: u8, instruction: u64, address: u64, len: u64) {
        let last = (address + len.max(1) - 1) / LINE_LEN;
        for line in address / LINE_LEN..=last {
            let access = &mut self.0.entry(line).or_default()[thread];
            // Lackey's letters: load, store, and modify.
            access.read |= kind != b'S';
            access.written |= kind != b'L';
            access.at = (instruction, address);
        }
    }

    fn written_by(&self, thread: usize) -> usize {
        let lines = self.0.values();
        lines.filter(|access| access[thread].written).count()
    }

    /// Lines that one wrote and the other touched, as text.
    fn conflicts(&self) -> Vec<String> {
        let touched = |access: &Access| access.read || access.written;
        let mut lines: Vec<_> = self
            .0
            .iter()
            .filter(|(_, [a, b])| touched(a) && touched(b) && (a.written || b.written))
            .collect();
        lines.sort_by_key(|(line, _)| **line);
        let how = |access: &Access| {
            let verb = if access.written { "wrote" } else { "read" };
            format!("{verb} {:#x} at {:#x}", access.at.1, access.at.0)
        };
        let text = lines.into_iter().map(|(line, [a, b])| {
            format!(
                "line {:#x}: one {}, the other {}",
                line * LINE_LEN,
                how(a),
                how(b)
            )
        });
        text.collect()
    }
}

/// Runs the work under lackey.
fn trace(how: &str) -> Result<Touched, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--basic-counts=no"])
        .arg(program)
        .args(["--work", how])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind: {error}"))?;
    let (Some(go), Some(said), Some(log)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("valgrind: no pipes".to_owned());
    };
    let marks = Arc::new(OnceLock::new());
    let told = Arc::clone(&marks);
    // The trace is read meanwhile, or valgrind would wait for a reader.
    let greeting = thread::spawn(move || await_marks(said, go, &told));
    let touched = follow(BufReader::with_capacity(1 << 20, log), &marks);
    let status = child.wait().map_err(|error| format!("valgrind: {error}"))?;
    if !status.success() {
        return Err(format!("the work under valgrind failed: {status}"));
    }
    let greeted = greeting.join().map_err(|_| "reading the marks failed");
    greeted??;
    let touched = touched.map_err(|error| format!("valgrind's trace: {error}"))?;
    if (0..2).any(|thread| touched.written_by(thread) == 0) {
        return Err("the trace holds no work: does valgrind's lackey write it as ever?".to_owned());
    }
    Ok(touched)
}

/// Reads where each thread marks the beginning and the end of its work, and has the work begin.
fn await_marks(
    said: impl Read,
    mut go: impl Write,
    told: &OnceLock<[u64; 2]>,
) -> Result<(), String> {
    let mut line = String::new();
    let read = BufReader::new(said).read_line(&mut line);
    read.map_err(|error| error.to_string())?;
    let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
    let (Some(first), Some(second)) = (numbers.next().flatten(), numbers.next().flatten()) else {
        return Err(format!("the work under valgrind did not begin: {line:?}"));
    };
    told.get_or_init(|| [first, second]);
    writeln!(go).map_err(|error| format!("the work under valgrind ended early: {error}"))
}

/// Reads lackey's lines: ` S 1ffeffe7e0,8`, and `I  04016b43,3` for instructions. A write to a mark
/// turns the thread's work on, the next one off.
fn follow(log: impl BufRead, marks: &OnceLock<[u64; 2]>) -> std::io::Result<Touched> {
    let mut touched = Touched::default();
    let (mut working, mut instruction) = (None, 0);
    for line in log.split(b'\n') {
        let line = line?;
        let Some((kind, address, len)) = parse(&line) else {
            continue;
        };
        if kind == b'I' {
            instruction = address;
            continue;
        }
        let Some(marks) = marks.get() else {
            continue;
        };
        match marks.iter().position(|&mark| mark == address) {
            Some(thread) if kind == b'S' => {
                working = if working == Some(thread) {
                    None
                } else {
                    Some(thread)
                };
            }
            Some(_) => {}
            None => {
                if let Some(thread) = working {
                    touched.note(thread, kind, instruction, address, len);
                }
            }
        }
    }
    Ok(touched)
}

fn parse(line: &[u8]) -> Option<(u8, u64, u64)> {
    let (kind, rest) = match line {
        [b'I', b' ', b' ', rest @ ..] => (b'I', rest),
        [b' ', kind @ (b'L' | b'S' | b'M'), b' ', rest @ ..] => (*kind, rest),
        _ => return None,
    };
    let text = std::str::from_utf8(rest).ok()?;
    let (address, len) = text.split_once(',')?;
    Some((
        kind,
        u64::from_str_radix(address, 16).ok()?,
        len.trim().parse().ok()?,
    ))
}
