//! Which files are in reach from then on (landlock(7)).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// What is read at run time beside what the configuration names: figures of threads and CPUs, and
/// what the resolver opens. Programs replace its files by renaming, so the directories are needed.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys",
    "/usr/lib",
    "/usr/lib64",
];

/// Links on the way to a file that are followed, as many as the kernel does.
const LINKS_MAX: usize = 40;

/// Beneath fewer parts than these lies what is not a configuration's alone, such as `/etc`.
const OWN_DEPTH: usize = 3;

/// Whether this kernel has it.
pub(super) fn is_known() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V1));
    ruleset.and_then(Ruleset::create).is_ok()
}

/// Restricts this thread to reading where `files` lie and what the system needs, and to making
/// `sockets`. Returns the directories beneath which it can read.
pub(super) fn restrict(files: &[PathBuf], sockets: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    // Where nothing is known of it, `create` is no error in the end.
    if !is_known() {
        return Err("the kernel has no Landlock, or its lsm= leaves it out".to_owned());
    }
    let reads: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    // A socket is made, renamed to its name and removed, and nothing of its directory is read.
    let makes = AccessFs::MakeSock | AccessFs::RemoveFile;
    let mut readable: BTreeSet<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    readable.extend(files.iter().flat_map(|file| directories(file)));
    let rule = |directory: &Path, access| {
        // What is not there cannot be reached anyway.
        let fd = PathFd::new(directory).ok()?;
        Some(PathBeneath::new(fd, access))
    };
    // Every right of the newest kernel, as far as this one knows them: those which no rule gives are
    // gone.
    let create = || {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .create()?;
        for directory in &readable {
            if let Some(rule) = rule(directory, reads) {
                ruleset = ruleset.add_rule(rule)?;
            }
        }
        for socket in sockets {
            let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
            let parent = socket.parent().unwrap_or_else(|| Path::new("/"));
            if let Some(rule) = rule(parent, makes) {
                ruleset = ruleset.add_rule(rule)?;
            }
        }
        ruleset.restrict_self()
    };
    let status = create().map_err(|error: landlock::RulesetError| error.to_string())?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("the kernel did not take it".to_owned());
    }
    let real = |directory: &PathBuf| directory.canonicalize().ok();
    Ok(readable.iter().filter_map(real).collect())
}

/// The directories that a file must be read from, now and when it or a link on the way to it was
/// replaced by renaming.
fn directories(file: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut add = |directory: &Path| {
        if let Ok(directory) = directory.canonicalize() {
            directories.push(directory);
        }
    };
    let mut file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    for _ in 0..LINKS_MAX {
        let parent = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        add(&parent);
        // A directory on the way may be a link that is swapped for another beside it.
        for ancestor in parent.ancestors() {
            let beside = ancestor.parent().unwrap_or_else(|| Path::new("/"));
            if ancestor.is_symlink() && beside.components().count() >= OWN_DEPTH {
                add(beside);
            }
        }
        match file.read_link() {
            Ok(target) => file = parent.join(target),
            Err(_) => break,
        }
    }
    if file.is_dir() {
        add(&file);
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[track_caller]
    fn assert_denied<T>(tried: io::Result<T>) {
        let error = tried.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::PermissionDenied));
    }

    #[test]
    fn nothing_is_in_reach_but_what_is_needed() {
        if !is_known() {
            println!("skipped: the kernel has no Landlock");
            return;
        }
        let root = std::env::temp_dir().join(format!("ringgate-restrict-{}", std::process::id()));
        for directory in ["inside", "outside", "run"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join("file"), "x").unwrap();
        }
        let path = |name: &str| root.join(name);
        // It binds its thread alone.
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                restrict(&[path("inside/file")], &[path("run/socket")]).unwrap();
                assert_eq!(fs::read(path("inside/file")).unwrap(), b"x");
                for out_of_reach in ["outside/file", "run/file"] {
                    assert_denied(File::open(path(out_of_reach)));
                }
                for directory in ["inside", "outside", "run"] {
                    let within = |name: &str| path(directory).join(name);
                    assert_denied(File::options().append(true).open(within("file")));
                    assert_denied(File::create(within("new")));
                    assert_denied(fs::create_dir(within("directory")));
                    assert_denied(symlink("file", within("link")));
                }
                for directory in ["inside", "outside"] {
                    let within = |name: &str| path(directory).join(name);
                    assert_denied(UnixListener::bind(within("socket")));
                    assert_denied(fs::rename(within("file"), within("renamed")));
                    assert_denied(fs::remove_file(within("file")));
                }
                // As the admin interface does, which takes a dead process's name.
                for _ in 0..2 {
                    drop(UnixListener::bind(path("run/socket.1")).unwrap());
                    fs::rename(path("run/socket.1"), path("run/socket")).unwrap();
                }
                fs::remove_file(path("run/socket")).unwrap();
            });
            confined.join().unwrap();
        });
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn where_a_file_is_replaced_is_in_reach() {
        let root = std::env::temp_dir().join(format!("ringgate-confine-{}", std::process::id()));
        let root = {
            fs::create_dir_all(root.join("a/v1")).unwrap();
            root.canonicalize().unwrap()
        };
        fs::create_dir_all(root.join("b")).unwrap();
        fs::write(root.join("a/v1/key"), "").unwrap();
        symlink("v1", root.join("a/current")).unwrap();
        symlink("current/key", root.join("a/key")).unwrap();
        symlink(root.join("a/key"), root.join("b/key")).unwrap();
        let mut found = directories(&root.join("b/key"));
        found.sort();
        found.dedup();
        assert_eq!(found, ["a", "a/v1", "b"].map(|name| root.join(name)));
        let found = directories(&root.join("a"));
        assert_eq!(found, [root.clone(), root.join("a")]);
        fs::remove_dir_all(&root).unwrap();
    }
}
