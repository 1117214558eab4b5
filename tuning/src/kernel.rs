//! The way to knobs: files of sysfs and proc, and the `ethtool` program.

mod ethtool;
mod interrupts;
mod program;

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::host::Host;
use crate::knob::Knob;

pub(crate) use ethtool::channels_wanted;

/// Bytes of a file that are read; a value is far shorter, `/proc/interrupts` of a large host not.
const FILE_LEN_MAX: u64 = 16 << 20;

/// How long `ethtool` may take. A driver that starts its card anew takes seconds.
const ETHTOOL_WITHIN: Duration = Duration::from_secs(10);

/// The variable that names the `ethtool` of a host whose files are in a folder.
const ETHTOOL_OF_OTHERS: &str = "RINGGATE_TUNE_ETHTOOL";

/// What reads and writes. Tests put one in between that fails where they want it to.
pub trait Access {
    /// The file's text.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    fn read(&self, file: &Path) -> io::Result<String> {
        let mut text = String::new();
        let file = File::open(file)?;
        file.take(FILE_LEN_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether the file can be written, without writing.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    fn may_write(&self, file: &Path) -> io::Result<()> {
        File::options().write(true).open(file).map(drop)
    }

    /// Writes a value in one write(2).
    ///
    /// # Errors
    ///
    /// Whatever the kernel says; also where it took only a part.
    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        let line = format!("{value}\n");
        let written = File::options()
            .write(true)
            .open(file)?
            .write(line.as_bytes())?;
        if written == line.len() {
            return Ok(());
        }
        let problem = format!("only {written} of {} bytes were taken", line.len());
        Err(io::Error::other(problem))
    }

    /// What `ethtool` prints of the cards of `host`. It knows those of this machine alone, so for
    /// another host it is the program that the environment names in `RINGGATE_TUNE_ETHTOOL`.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such program, `Unsupported` where it is about another host and
    /// none is named, `TimedOut` where it does not end, else what it
    /// says.
    fn ethtool(&self, host: &Host, arguments: &[&str]) -> io::Result<String> {
        let program = match *host == Host::default() {
            true => "ethtool".into(),
            false => env::var_os(ETHTOOL_OF_OTHERS).ok_or(io::ErrorKind::Unsupported)?,
        };
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C");
        let output = program::output(command, ETHTOOL_WITHIN).map_err(|error| {
            let problem = format!("`ethtool {}`: {error}", arguments.join(" "));
            io::Error::new(error.kind(), problem)
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(io::Error::other(format!(
            "`ethtool {}`: {}",
            arguments.join(" "),
            if said.is_empty() {
                output.status.to_string()
            } else {
                said
            }
        )))
    }
}

/// The kernel that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Access for Kernel {}

/// A host's knobs, by way of an [`Access`].
#[derive(Clone, Copy)]
pub struct Knobs<'a> {
    pub host: &'a Host,
    pub access: &'a dyn Access,
}

/// Why a knob cannot be read or turned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    pub what: String,
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProblemKind {
    /// There is no such entry, interrupt or setting.
    Missing,
    /// The `ethtool` program is not here, or not this host's.
    NoEthtool,
    /// The kernel keeps this interrupt where it is.
    Unmovable,
    Other,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl Problem {
    fn missing(what: String) -> Self {
        Self {
            kind: ProblemKind::Missing,
            what,
            remedy: "plan anew, or take it out of the layout".to_owned(),
        }
    }

    fn of_file(file: &Path, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        if error.kind() == Kind::NotFound {
            return Self::missing(format!("{} is missing", file.display()));
        }
        let remedy = match error.kind() {
            Kind::ReadOnlyFilesystem => {
                "mount it read-write; in a container, apply the layout on the host"
            }
            Kind::PermissionDenied => {
                "run this as root; in a container, apply the layout on the host"
            }
            Kind::InvalidInput => "the kernel does not take this value: change the layout",
            _ => "see what the kernel logs about it",
        };
        Self {
            kind: ProblemKind::Other,
            what: format!("{}: {error}", file.display()),
            remedy: remedy.to_owned(),
        }
    }

    fn of_ethtool(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::Unsupported {
            return Self {
                kind: ProblemKind::NoEthtool,
                what: "`ethtool` turns the cards of this machine, not those of a folder".to_owned(),
                remedy: format!("name one that does in {ETHTOOL_OF_OTHERS}"),
            };
        }
        if error.kind() == io::ErrorKind::NotFound {
            return Self {
                kind: ProblemKind::NoEthtool,
                what: "the program `ethtool` is not here".to_owned(),
                remedy: "install it (package `ethtool`)".to_owned(),
            };
        }
        let remedy = match error.kind() {
            io::ErrorKind::TimedOut => "see what the kernel logs about the card",
            _ => "run this as root; where the driver cannot, take it out of the layout",
        };
        Self {
            kind: ProblemKind::Other,
            what: error.to_string(),
            remedy: remedy.to_owned(),
        }
    }
}

impl Knobs<'_> {
    /// The knob's file.
    fn file(&self, knob: &Knob) -> Result<Option<PathBuf>, Problem> {
        match knob {
            _ if !knob.is_sound() => Err(Problem {
                kind: ProblemKind::Other,
                what: "this is no name of a knob".to_owned(),
                remedy: "correct it in the layout".to_owned(),
            }),
            Knob::Irq { name } => {
                let number = interrupts::number(self, name).map_err(Problem::missing)?;
                let file = format!("irq/{number}/smp_affinity_list");
                Ok(Some(self.host.proc.join(file)))
            }
            _ => Ok(knob.file(self.host)),
        }
    }

    /// The value that a knob has.
    ///
    /// # Errors
    ///
    /// Why nobody can tell.
    pub fn read(&self, knob: &Knob) -> Result<String, Problem> {
        match (knob, self.file(knob)?) {
            (_, Some(file)) => {
                let text = self.access.read(&file);
                let text = text.map_err(|error| Problem::of_file(&file, &error))?;
                Ok(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            (Knob::Coalesce { nic, setting }, None) => {
                let text = self.ethtool(&["-c", nic])?;
                ethtool::coalesce(&text, setting)
                    .ok_or_else(|| Problem::missing(format!("{nic} has no setting `{setting}`")))
            }
            (Knob::Queues { nic }, None) => {
                let text = self.ethtool(&["-l", nic])?;
                ethtool::channels(&text)
                    .ok_or_else(|| Problem::missing(format!("{nic} has no counts of queues")))
            }
            (other, None) => Err(Problem::missing(format!("{other} has no file"))),
        }
    }

    /// Whether the knob's file could be written; what `ethtool` may do only shows when it does.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn may_write(&self, knob: &Knob) -> Result<(), Problem> {
        self.file(knob)?.map_or(Ok(()), |file| {
            let outcome = self.access.may_write(&file);
            outcome.map_err(|error| Problem::of_file(&file, &error))
        })
    }

    /// Turns the knob and reads it back.
    ///
    /// # Errors
    ///
    /// What the kernel said, or took in place of the value.
    pub fn write(&self, knob: &Knob, value: &str) -> Result<(), Problem> {
        let outcome = match self.file(knob)? {
            Some(file) => {
                let outcome = self.access.write(&file, value);
                outcome.map_err(|error| match knob {
                    Knob::Irq { .. } if stays(&error) => Problem {
                        kind: ProblemKind::Unmovable,
                        what: format!("the kernel keeps it where it is ({error})"),
                        remedy: "its driver or the kernel manages it: nothing can be done"
                            .to_owned(),
                    },
                    _ => Problem::of_file(&file, &error),
                })
            }
            None => self.ethtool(&command(knob, value)).map(drop),
        };
        // `ethtool` of some releases fails where nothing was to be changed.
        if outcome.is_err() && !matches!(knob, Knob::Queues { .. } | Knob::Coalesce { .. }) {
            return outcome;
        }
        let taken = self.read(knob)?;
        match outcome {
            _ if knob.same(&taken, value) => Ok(()),
            Ok(()) => Err(Problem {
                kind: ProblemKind::Other,
                what: format!(
                    "wanted {}, the kernel has {} instead",
                    shown(value),
                    shown(&taken)
                ),
                remedy: "put a value into the layout that it takes, and stop what else sets it \
                         (irqbalance, tuned)"
                    .to_owned(),
            }),
            failed => failed,
        }
    }

    /// A line of sh that sets the knob to `value`; `None` where it is not there now.
    pub fn undo_line(&self, knob: &Knob, value: &str) -> Option<String> {
        match self.file(knob).ok()? {
            // Not echo: that of some shells reads backslashes.
            Some(file) => Some(format!(
                "printf '%s\\n' {} > {}  # {knob}",
                quoted(value),
                quoted(&file.to_string_lossy())
            )),
            None => {
                let command = command(knob, value);
                Some(format!("ethtool {}  # {knob}", command.join(" ")))
            }
        }
    }

    fn ethtool(&self, arguments: &[&str]) -> Result<String, Problem> {
        let outcome = self.access.ethtool(self.host, arguments);
        outcome.map_err(|error| Problem::of_ethtool(&error))
    }
}

/// The value, or a word that stands for the empty one.
pub(crate) fn shown(value: &str) -> &str {
    if value.is_empty() { "(empty)" } else { value }
}

/// What the kernel says of an interrupt that it does not let go elsewhere.
fn stays(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // No permission to the file itself is EACCES, of which the user can be relieved.
    let known = [
        Errno::IO,
        Errno::PERM,
        Errno::INVAL,
        Errno::NOSPC,
        Errno::BUSY,
        Errno::OPNOTSUPP,
    ];
    known
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The arguments of `ethtool` that set a knob.
fn command<'a>(knob: &'a Knob, value: &'a str) -> Vec<&'a str> {
    match knob {
        Knob::Queues { nic } => ["-L", nic].into_iter().chain(value.split(' ')).collect(),
        Knob::Coalesce { nic, setting } => vec!["-C", nic, setting, value],
        _ => Vec::new(),
    }
}

/// As one word of sh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
