//! What the process gives up once it is set up, so that a defect in it is worth little.
//!
//! Capabilities, user and group, no_new_privs and Landlock belong to a thread in Linux, and what a
//! thread starts inherits them. So [`confine`] runs on the main thread while it is the only one: after
//! sockets are bound, keys are read and memory is locked, and before shards and the control plane
//! start.

mod files;
mod identity;

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::ring::{Check, Finding};

/// What a process is to give up.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub user: Option<String>,
    pub group: Option<String>,
    pub privileges: bool,
    pub landlock: bool,
    pub rings: bool,
    /// Files that are read, now and in a reload.
    pub reads: Vec<PathBuf>,
    /// Sockets that are made, now and in a reload.
    pub sockets: Vec<PathBuf>,
}

/// What a process gave up, and what it could not.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    parts: Vec<(&'static str, State)>,
    /// What can be read beneath; `None`: everything that the user may.
    readable: Option<Vec<PathBuf>>,
    notes: Vec<String>,
}

/// Whether a part of the confinement is in place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Active,
    /// The configuration does not ask for it.
    Off,
    /// Why it could not be had.
    Unavailable(String),
}

/// Why a process cannot be confined as its configuration says.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("process.{key} = `{name}`: {problem}")]
    Identity {
        key: &'static str,
        name: String,
        problem: String,
    },
}

/// Confines this thread and whatever it starts. Call it while there is no other.
///
/// # Errors
///
/// When the user cannot be had: it is not for the process to go on with more rights than it was told
/// to. What the kernel lacks is no error; see [`Confinement::parts`].
pub fn confine(wanted: &Wanted) -> Result<Confinement, ConfineError> {
    let mut confinement = Confinement::default();
    // Without these rights the bounding set cannot be cut any more, so it comes first.
    let kept = capabilities(None).map_or(CapabilitySet::empty(), |sets| {
        sets.permitted & CapabilitySet::NET_BIND_SERVICE
    });
    let bounded = if wanted.privileges {
        cut_bounding_set()
    } else {
        Ok(())
    };
    let state = match &wanted.user {
        None => State::Off,
        Some(user) => {
            identity::switch(user, wanted.group.as_deref(), wanted.privileges)?;
            State::Active
        }
    };
    confinement.parts.push(("user", state));
    let state = match wanted.privileges {
        false => State::Off,
        true => State::of(bounded.and_then(|()| keep_only(kept))),
    };
    confinement.parts.push(("capabilities", state));
    let state = match wanted.privileges {
        false => State::Off,
        true => State::of(set_no_new_privs(true)),
    };
    confinement.parts.push(("no_new_privs", state));
    let state = match wanted.landlock {
        false => State::Off,
        true => match files::restrict(&wanted.reads, &wanted.sockets) {
            Ok(readable) => {
                confinement.readable = Some(readable);
                State::Active
            }
            Err(problem) => State::Unavailable(problem),
        },
    };
    confinement.parts.push(("landlock", state));
    confinement.parts.push((
        "ring restrictions",
        // Without them a ring is not set up.
        if wanted.rings {
            State::Active
        } else {
            State::Off
        },
    ));
    confinement.note_unavailable();
    confinement.note_unreadable(&wanted.reads);
    Ok(confinement)
}

/// What of it there would be if a process started here, as whoever asks.
pub fn checks() -> Vec<Check> {
    let checks = [
        ("user", user()),
        ("low ports", low_ports()),
        ("no_new_privs", new_privileges()),
        ("landlock", landlock()),
    ];
    let checks = checks.into_iter();
    checks
        .map(|(name, finding)| Check { name, finding })
        .collect()
}

fn user() -> Finding {
    let user = rustix::process::geteuid().as_raw();
    Finding::Fine(match (user, may(CapabilitySet::SETUID)) {
        (0, true) => "root: `user` in [process] says whom it goes on as".into(),
        (0, false) => {
            "root, without CAP_SETUID: it goes on as nobody else, whatever [process] says".into()
        }
        _ => format!("user {user}: it goes on as nobody else, which needs a start as root"),
    })
}

/// The first port that anybody may have (ip-sysctl).
const FIRST_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Where nothing says otherwise.
const FIRST_PORT_UNLESS_SET: u16 = 1024;

fn low_ports() -> Finding {
    let first = std::fs::read_to_string(FIRST_PORT);
    let first = first.ok().and_then(|text| text.trim().parse().ok());
    low_ports_from(
        first.unwrap_or(FIRST_PORT_UNLESS_SET),
        may(CapabilitySet::NET_BIND_SERVICE),
    )
}

/// Whether ports below `first` are to be had.
fn low_ports_from(first: u16, is_capable: bool) -> Finding {
    match (first, is_capable) {
        (0 | 1, _) => Finding::Fine("anybody may listen on any port".into()),
        (_, true) => Finding::Fine(format!(
            "CAP_NET_BIND_SERVICE, which is kept: ports below {first} can be had"
        )),
        (_, false) => Finding::Lacking(format!(
            "ports below {first} cannot be had: AmbientCapabilities=CAP_NET_BIND_SERVICE in the \
             unit, or a higher port"
        )),
    }
}

fn new_privileges() -> Finding {
    match rustix::thread::no_new_privs() {
        Ok(true) => Finding::Fine("set already: no program that it starts gets any".into()),
        Ok(false) => Finding::Fine("will be set at the start".into()),
        Err(error) => Finding::Lacking(format!("{error}: not in this kernel")),
    }
}

fn landlock() -> Finding {
    match files::is_known() {
        true => Finding::Fine("the files that are needed are the only ones in reach".into()),
        false => Finding::Lacking(
            "not in this kernel, or not among its lsm= (5.13 has it): the process can open \
             whatever its user may"
                .into(),
        ),
    }
}

fn may(what: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(what))
}

impl Confinement {
    /// Each part by its name, in the order in which they were put in place.
    pub fn parts(&self) -> &[(&'static str, State)] {
        &self.parts
    }

    /// What is done without, each with its remedy.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a reload can read the file that `path` leads to, as far as that hangs on the
    /// directories that the process confined itself to.
    pub fn lets_read(&self, path: &Path) -> bool {
        // What is not there fails for that.
        let (Some(readable), Ok(real)) = (&self.readable, path.canonicalize()) else {
            return true;
        };
        readable.iter().any(|beneath| real.starts_with(beneath))
    }

    fn note_unavailable(&mut self) {
        for (name, state) in &self.parts {
            if let State::Unavailable(reason) = state {
                self.notes.push(format!(
                    "{name} could not be had ({reason}): the process runs with more rights than it \
                     needs"
                ));
            }
        }
    }

    /// What was read with rights that the process has given up cannot be read again.
    fn note_unreadable(&mut self, files: &[PathBuf]) {
        for file in files {
            if let Err(error) = std::fs::File::open(file) {
                self.notes.push(format!(
                    "{}: no reload will be able to read it ({error}): make it readable for the user \
                     that the process runs as",
                    file.display()
                ));
            }
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, state)) in self.parts.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {state}")?;
        }
        Ok(())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Off => f.write_str("off"),
            Self::Unavailable(reason) => write!(f, "unavailable ({reason})"),
        }
    }
}

impl State {
    fn of(result: Result<(), rustix::io::Errno>) -> Self {
        match result {
            Ok(()) => Self::Active,
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// No program that this one might start gets a capability, whatever its file says.
fn cut_bounding_set() -> Result<(), rustix::io::Errno> {
    let sets = capabilities(None)?;
    if !sets.effective.contains(CapabilitySet::SETPCAP) {
        // It has no right to; no_new_privs keeps programs from getting any all the same.
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability == CapabilitySet::NET_BIND_SERVICE {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows none of this number, and none above it.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has this thread no capabilities but those.
fn keep_only(kept: CapabilitySet) -> Result<(), rustix::io::Errno> {
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_says_how_it_is() {
        let mut confinement = Confinement {
            parts: vec![
                ("user", State::Off),
                ("no_new_privs", State::Active),
                ("landlock", State::Unavailable("not in this kernel".into())),
            ],
            ..Confinement::default()
        };
        confinement.note_unavailable();
        assert_eq!(
            confinement.to_string(),
            "user off, no_new_privs active, landlock unavailable (not in this kernel)"
        );
        assert_eq!(confinement.notes().len(), 1);
        assert!(confinement.notes()[0].starts_with("landlock could not be had (not in"));
    }

    #[test]
    fn low_ports_hang_on_the_sysctl_and_the_capability() {
        let is_lacking =
            |first, is_capable| matches!(low_ports_from(first, is_capable), Finding::Lacking(_));
        assert!(is_lacking(1024, false) && is_lacking(80, false));
        assert!(!is_lacking(1024, true) && !is_lacking(0, false) && !is_lacking(1, false));
    }

    #[test]
    fn what_lies_beneath_a_directory_is_in_reach() {
        let here = std::env::current_exe().unwrap().canonicalize().unwrap();
        let confined_to = |directory: &Path| Confinement {
            readable: Some(vec![directory.to_owned()]),
            ..Confinement::default()
        };
        assert!(confined_to(here.parent().unwrap()).lets_read(&here));
        assert!(!confined_to(Path::new("/proc")).lets_read(&here));
        assert!(confined_to(Path::new("/proc")).lets_read(Path::new("/no/such/file")));
        assert!(Confinement::default().lets_read(&here));
    }
}
