//! The state directory: what every knob was before, for as long as this boot lasts.
//!
//! It holds the journal, the undo script that says the same in sh, the lock that keeps two runs
//! apart, and, while an `apply` waits to be confirmed, its socket. Files are replaced as a whole:
//! written beside, synced, renamed, and the directory synced.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::kernel::{Access, Knobs};
use crate::knob::Knob;

/// The form of the journal; another one is refused.
const VERSION: u32 = 1;

/// Bytes of a journal; that of a host with 4096 interrupts has fewer.
const FILE_LEN_MAX: u64 = 4 << 20;

const JOURNAL: &str = "journal.json";
const UNDO: &str = "undo.sh";

/// What was before, and what we set.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// Settings do not outlive it.
    pub boot: String,
    /// The network namespace, as `/proc/self/ns/net` names it: others have other cards.
    pub network: String,
    pub sysfs: PathBuf,
    pub proc: PathBuf,
    /// Counts of queues are being changed, and nothing else is yet: what a driver sets anew along
    /// with them is our doing.
    #[serde(default)]
    pub changing_queues: bool,
    /// In the order in which they are set.
    pub entries: Vec<Entry>,
}

/// One knob's past.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub knob: Knob,
    pub old: String,
    /// Every value that may be there by our doing; several, while one follows another.
    pub ours: Vec<String>,
    /// The kernel did not let this interrupt go elsewhere.
    #[serde(default)]
    pub unmovable: bool,
    /// No layout wants it: it changed along with a count of queues, if at all.
    #[serde(default)]
    pub beside: bool,
}

impl Journal {
    /// An empty one for this boot.
    ///
    /// # Errors
    ///
    /// Nothing tells which boot this is.
    pub fn new(host: &Host, access: &dyn Access) -> Result<Self, String> {
        Ok(Self {
            version: VERSION,
            boot: boot(host, access)?,
            network: network(),
            sysfs: host.sysfs.clone(),
            proc: host.proc.clone(),
            changing_queues: false,
            entries: Vec::new(),
        })
    }

    /// The host that it is about.
    pub fn host(&self) -> Host {
        Host {
            sysfs: self.sysfs.clone(),
            proc: self.proc.clone(),
        }
    }

    pub fn entry(&self, knob: &Knob) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.knob == *knob)
    }

    /// Takes what a driver set anew since counts of queues began to change for ours.
    pub fn own_what_came_along(&mut self, knobs: &Knobs<'_>) {
        if std::mem::take(&mut self.changing_queues) {
            for entry in self
                .entries
                .iter_mut()
                .filter(|it| it.knob.comes_with_queues())
            {
                if let Ok(present) = knobs.read(&entry.knob) {
                    entry.own_too(&present);
                }
            }
        }
    }

    /// Whether it is of the network namespace that this process is in.
    ///
    /// # Errors
    ///
    /// It is not, and what to do.
    pub fn is_of_this_network(&self) -> Result<(), String> {
        let here = network();
        if self.network == here {
            return Ok(());
        }
        Err(format!(
            "the journal is of the network namespace {}, and this is {here}: run this there (`ip \
             netns exec`), or give each its own directory with --state",
            self.network
        ))
    }

    /// Whether it is of the boot that still lasts.
    ///
    /// # Errors
    ///
    /// Nothing tells which boot this is.
    pub fn is_of_this_boot(&self, access: &dyn Access) -> Result<bool, String> {
        Ok(self.boot == boot(&self.host(), access)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let journal: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if journal.version != VERSION {
            return Err(format!("version {} is not {VERSION}", journal.version));
        }
        match journal.entries.iter().find(|entry| !entry.knob.is_sound()) {
            Some(entry) => Err(format!("`{:?}` is no knob", entry.knob)),
            None => Ok(journal),
        }
    }
}

impl Entry {
    /// Takes down a value that we set, the last one last. Each stands there once: a journal does
    /// not grow with the number of runs.
    pub fn own(&mut self, value: &str) {
        self.ours.retain(|ours| ours != value);
        self.ours.push(value.to_owned());
    }

    /// Takes down a value that came along with one that we set.
    pub fn own_too(&mut self, value: &str) {
        if !self.ours.iter().any(|ours| ours == value) {
            self.ours.insert(0, value.to_owned());
        }
    }

    /// Whether we may have set the value.
    pub fn is_ours(&self, value: &str) -> bool {
        self.ours.iter().any(|ours| self.knob.same(ours, value))
    }
}

/// The identity of the boot (`/proc/sys/kernel/random/boot_id`).
fn boot(host: &Host, access: &dyn Access) -> Result<String, String> {
    let file = host.proc.join("sys/kernel/random/boot_id");
    let text = access.read(&file);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn network() -> String {
    let link = fs::read_link("/proc/self/ns/net");
    link.map_or_else(|_| "unknown".to_owned(), |link| link.display().to_string())
}

/// The state directory, locked: nobody else changes it, or knobs by way of it, before it is
/// dropped.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    lock: File,
}

impl State {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// # Errors
    ///
    /// It cannot be made, others may write into it, or somebody else has it.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let made = DirBuilder::new().mode(0o700).create(folder);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "{}: {error}; run this as root, or give another directory with --state",
                    folder.display()
                ));
            }
            _ => {}
        }
        Self::lock(folder)
    }

    /// Locks the directory; `None` where there is none.
    ///
    /// # Errors
    ///
    /// As [`State::open`].
    pub fn find(folder: &Path) -> Result<Option<Self>, String> {
        match fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::lock(folder).map(Some),
        }
    }

    fn lock(folder: &Path) -> Result<Self, String> {
        let said = |error: io::Error| format!("{}: {error}", folder.display());
        let metadata = fs::symlink_metadata(folder).map_err(said)?;
        // Its journal says what is written as root.
        if !metadata.is_dir()
            || metadata.uid() != geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
        {
            return Err(format!(
                "{} is not a directory of this user alone, and what is in it is obeyed as this \
                 user; give another one with --state",
                folder.display()
            ));
        }
        let lock = create(folder.join("lock")).map_err(said)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!(
                "another ringgate-tune works in {}, or waits to be confirmed; wait for it, or \
                 `ringgate-tune confirm`",
                folder.display()
            )
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            lock,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The journal, where there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is torn.
    pub fn journal(&self) -> Result<Option<Journal>, String> {
        read_journal(&self.folder)
    }

    /// Saves both, the script first: where there is a journal, there is its script.
    ///
    /// # Errors
    ///
    /// They could not be brought to disk; the former ones may still be there.
    pub fn save(&self, journal: &Journal, undo: &str) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(journal).map_err(|error| error.to_string())?;
        let saved = self.replace(UNDO, undo.as_bytes());
        let saved = saved.and_then(|()| self.replace(JOURNAL, &json));
        saved.map_err(|error| format!("{}: {error}; make room there", self.folder.display()))
    }

    /// Removes both, the journal last.
    ///
    /// # Errors
    ///
    /// A file stayed.
    pub fn clear(&self) -> Result<(), String> {
        let gone = |name: &str| match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let cleared = gone(UNDO)
            .and_then(|()| gone(JOURNAL))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        cleared.map_err(|error| format!("{}: {error}", self.folder.display()))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.folder.join(format!("{name}.new"));
        let mut file = create(beside.clone())?;
        file.set_len(0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Closing would leave it locked while a process that another thread starts has the file.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// The journal of a directory that nobody locked: for those that only look.
///
/// # Errors
///
/// As [`State::journal`].
pub fn read_journal(folder: &Path) -> Result<Option<Journal>, String> {
    let path = folder.join(JOURNAL);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
        Ok(_) => {}
    }
    Journal::parse(&bytes).map(Some).map_err(|problem| {
        format!(
            "{}: not a journal of this program: {problem}; {} beside it is the same for sh: run \
             it if it is whole, then remove both",
            path.display(),
            UNDO
        )
    })
}

/// A file of ours alone.
fn create(path: PathBuf) -> io::Result<File> {
    File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}
