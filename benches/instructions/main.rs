//! Instructions of the data path's pieces of work, counted by callgrind: a change of one percent
//! shows on a machine that is too noisy to time it.
//!
//! `cargo bench --bench instructions` compares with `benches/instructions/table.txt` and fails where
//! something takes 3 % more or less. `-- --accept` writes what was counted into the table: do so in
//! the commit that means the change. `-- --spread N` counts N times and shows how far the counts lie
//! apart.
//!
//! Eight counts of one build lay 0.05 % apart for handshakes, whose keys and nonces are random, less
//! than 1 % for verdicts and tickets, whose tables are hashed with a random seed, and not at all for
//! the rest.
//!
//! Valgrind shows a program the same processor wherever it runs, one with AES-NI and AVX2 and
//! without AVX-512, SHA and ADX, so that libraries choose the same code on every x86-64 machine that
//! has AVX2. What it counts is therefore not what runs without it, and a change that only newer
//! processors feel does not show here. Another compiler or another version of a library may change
//! counts: that is a change to accept like any other.

#[path = "../common/believe.rs"]
mod believe;
#[path = "../common/judging.rs"]
mod judging;
#[path = "../common/meter.rs"]
mod meter;
#[path = "../../tests/common/pki.rs"]
mod pki;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/relayed.rs"]
mod relayed;
#[path = "../common/site.rs"]
mod site;

mod table;
mod works;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

use self::table::Table;
use self::works::{WORKS, Work};

/// As the programs have it; the system's takes another number of instructions on each system.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: cargo bench --bench instructions -- [--accept | --spread N]";

fn main() -> ExitCode {
    // Cargo adds one of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|each| each != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--work", name] => return run(name),
        [] => check(),
        ["--accept"] => accept(),
        ["--spread", times] => times.parse().map_err(|_| USAGE.to_owned()).and_then(spread),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Does one piece of work, for the callgrind around this process.
fn run(name: &str) -> ExitCode {
    let Some(work) = WORKS.iter().find(|work| work.name == name) else {
        return ExitCode::FAILURE;
    };
    (work.run)(work.repetitions);
    ExitCode::SUCCESS
}

fn check() -> Result<(), String> {
    if let Err(why) = can_count() {
        println!("skipped: {why}");
        return Ok(());
    }
    let table = Table::read()?;
    let counted = count_all()?;
    table.compare(&counted)
}

fn accept() -> Result<(), String> {
    count_all()?.write()
}

fn spread(times: u32) -> Result<(), String> {
    let counts = (0..times)
        .map(|_| count_all())
        .collect::<Result<Vec<_>, _>>()?;
    for work in WORKS {
        let of_work = || counts.iter().filter_map(|counted| counted.get(work.name));
        let (Some(least), Some(most)) = (of_work().min(), of_work().max()) else {
            return Err(USAGE.to_owned());
        };
        let apart = table::percent(most, least);
        println!(
            "{:<38} {least:>10} to {most:>10}  {apart:>5.2} %",
            work.name
        );
    }
    Ok(())
}

/// Whether valgrind shows a program here the processor that the table is for.
fn can_count() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return Ok(());
    }
    Err("the table of instructions is for x86-64 with AVX2".to_owned())
}

fn count_all() -> Result<Table, String> {
    can_count()?;
    // Instructions are the same however many count beside each other.
    let next = AtomicUsize::new(0);
    let counts = || {
        let mut counts = Vec::new();
        while let Some(work) = WORKS.get(next.fetch_add(1, Ordering::Relaxed)) {
            counts.push((work.name, count(work)?));
        }
        Ok::<_, String>(counts)
    };
    let mut counted = Table::default();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(counts)).collect();
        for thread in threads {
            let counts = thread.join().map_err(|_| "counting failed".to_owned())?;
            for (name, count) in counts? {
                counted.set(name, count);
            }
        }
        Ok(counted)
    })
}

/// Instructions of one repetition.
fn count(work: &Work) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let place = WORKS.iter().position(|other| other.name == work.name);
    let name = format!(
        "callgrind-{}-{}.out",
        std::process::id(),
        place.unwrap_or_default()
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_region*")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--work", work.name])
        .output()
        .map_err(|error| format!("valgrind: {error}; install it (apt-get install valgrind)"))?;
    let counted = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    let total = counted
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse::<u64>().ok());
    match total {
        Some(total @ 1..) if output.status.success() => Ok(total / work.repetitions as u64),
        _ => Err(format!(
            "callgrind counted nothing for \"{}\" ({}): is the region's function there by its name?\n{}",
            work.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
