//! The roots of sysfs and proc, and what could not be read there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cpu_set::CpuSet;

/// Bytes that are read of one file. The longest is `proc/interrupts`, with a column for each CPU.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Where a host's sysfs and proc are; another machine's may lie in a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    pub sysfs: PathBuf,
    pub proc: PathBuf,
}

impl Default for Host {
    /// The host that this process runs on.
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            proc: "/proc".into(),
        }
    }
}

/// Something that could not be read, or said something that cannot be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Note {
    /// Where: a path below the root, with `cpu*` for an entry that each CPU has.
    pub entry: String,
    /// The CPUs whose entry it is; empty for an entry that is no CPU's own.
    pub cpus: CpuSet,
    pub problem: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.problem)?;
        match self.cpus.is_empty() {
            true => Ok(()),
            false => write!(f, " (CPUs {})", self.cpus),
        }
    }
}

/// Whether an entry that is missing is worth a note.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    Expected,
    Optional,
    /// Also where this user may not read it, or the device cannot tell.
    Hint,
}

/// Reads entries and collects a note for each that is missing or odd; never fails as a whole.
#[derive(Debug)]
pub struct Reader<'a> {
    host: &'a Host,
    /// By entry and problem, so that what many CPUs lack is one note.
    notes: BTreeMap<(String, String), CpuSet>,
}

impl<'a> Reader<'a> {
    pub fn new(host: &'a Host) -> Self {
        Self {
            host,
            notes: BTreeMap::new(),
        }
    }

    /// The entry below the root of sysfs, as `parse` reads its text.
    pub fn sysfs<T>(
        &mut self,
        entry: &str,
        need: Need,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let outcome = read(&self.host.sysfs.join(entry), parse);
        self.settle(&format!("sys/{entry}"), None, need, outcome)
    }

    /// The entry below the root of proc.
    pub fn proc<T>(
        &mut self,
        entry: &str,
        need: Need,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let outcome = read(&self.host.proc.join(entry), parse);
        self.settle(&format!("proc/{entry}"), None, need, outcome)
    }

    /// The entry below one CPU's folder in sysfs.
    pub fn cpu<T>(
        &mut self,
        cpu: u32,
        entry: &str,
        need: Need,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let path = self
            .host
            .sysfs
            .join(format!("devices/system/cpu/cpu{cpu}/{entry}"));
        let outcome = read(&path, parse);
        self.settle(
            &format!("sys/devices/system/cpu/cpu*/{entry}"),
            Some(cpu),
            need,
            outcome,
        )
    }

    /// The numbers N of the entries `prefix`N in a folder of sysfs, ascending.
    pub fn numbered(&mut self, folder: &str, prefix: &str, need: Need) -> Vec<u32> {
        let names = self.names(folder, need);
        let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The names in a folder of sysfs, ascending.
    pub fn names(&mut self, folder: &str, need: Need) -> Vec<String> {
        match fs::read_dir(self.host.sysfs.join(folder)) {
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                let mut names: Vec<String> =
                    names.filter_map(|name| name.into_string().ok()).collect();
                names.sort_unstable();
                names
            }
            Err(error) => {
                if need == Need::Expected || error.kind() != io::ErrorKind::NotFound {
                    self.note(&format!("sys/{folder}"), None, plain(&error));
                }
                Vec::new()
            }
        }
    }

    /// Whether the entry below the root of sysfs exists.
    pub fn has(&self, entry: &str) -> bool {
        self.host.sysfs.join(entry).exists()
    }

    pub fn note(&mut self, entry: &str, cpu: Option<u32>, problem: impl Into<String>) {
        let cpus = self
            .notes
            .entry((entry.to_owned(), problem.into()))
            .or_default();
        if let Some(cpu) = cpu {
            cpus.insert(cpu);
        }
    }

    pub fn into_notes(self) -> Vec<Note> {
        self.notes
            .into_iter()
            .map(|((entry, problem), cpus)| Note {
                entry,
                cpus,
                problem,
            })
            .collect()
    }

    fn settle<T>(
        &mut self,
        entry: &str,
        cpu: Option<u32>,
        need: Need,
        outcome: Result<T, Problem>,
    ) -> Option<T> {
        match outcome {
            Ok(value) => return Some(value),
            Err(Problem::Missing) if need != Need::Expected => {}
            Err(Problem::Unreadable(_)) if need == Need::Hint => {}
            Err(Problem::Missing) => self.note(entry, cpu, "missing"),
            Err(Problem::Odd(problem) | Problem::Unreadable(problem)) => {
                self.note(entry, cpu, problem);
            }
        }
        None
    }
}

enum Problem {
    Missing,
    Unreadable(String),
    Odd(String),
}

fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Problem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Problem::Missing,
            _ => Problem::Unreadable(plain(&error)),
        })?;
    let text = String::from_utf8(bytes).map_err(|_| Problem::Odd("is not text".to_owned()))?;
    parse(&text).map_err(Problem::Odd)
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}
