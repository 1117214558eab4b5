//! Seeing that files have changed, without a signal.
//!
//! What is watched are directories: a file that is replaced by renaming another into its place, and
//! a symbolic link that is made to point elsewhere, as Kubernetes does with `..data`, are changes of
//! a directory. A path may lead through several links, and each of them is an entry of some
//! directory that decides what the path means; all of those are watched.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::limits::{CRL_FILES_PER_DIRECTORY_MAX, WATCHED_DIRECTORIES_MAX};

/// How long nothing must have happened before files are read: whoever writes several takes a while.
const SETTLE: Duration = Duration::from_millis(300);

/// How long files may go on changing before they are read all the same.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Symbolic links on one path, as the kernel follows them (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Bytes of events that are read at a time; one takes at most 272 (inotify(7)).
const EVENTS_LEN: usize = 16 << 10;

/// Events that are taken in one look, give or take those of one read.
const EVENTS_MAX: usize = 4096;

/// What may change the content of a directory's entries. Reading them is none of it.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Which entries of a directory matter.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Names {
    All,
    These(HashSet<OsString>),
}

impl Names {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::All, _) => {}
            (Self::These(names), Self::These(more)) => names.extend(more),
            (these, Self::All) => *these = Self::All,
        }
    }

    fn has(&self, name: &OsStr) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// The directories that are watched.
#[derive(Debug)]
pub(super) struct Watch {
    is_wanted: bool,
    inotify: Option<OwnedFd>,
    /// By watch descriptor.
    directories: HashMap<i32, Names>,
    /// What cannot be watched and why, as far as the log does not know.
    problems: Vec<String>,
    told: HashSet<String>,
    burst: Option<Burst>,
}

/// Changes that come one after the other.
#[derive(Clone, Copy, Debug)]
struct Burst {
    began: Instant,
    last: Instant,
}

impl Watch {
    /// Watches nothing yet; wants to where `is_wanted`.
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            inotify: None,
            directories: HashMap::new(),
            problems: Vec::new(),
            told: HashSet::new(),
            burst: None,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Watches what `paths` lead to and nothing else.
    pub(super) fn cover<'p>(&mut self, paths: impl IntoIterator<Item = &'p Path>) {
        self.is_wanted = true;
        self.burst = None;
        let mut wanted = BTreeMap::new();
        for path in paths {
            for (directory, names) in entries(path) {
                match wanted.get_mut(&directory) {
                    None => drop(wanted.insert(directory, names)),
                    Some(known) => Names::add(known, names),
                }
            }
        }
        if self.inotify.is_none() {
            match inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(error) => return self.tell(cannot_start(error)),
            }
        }
        self.change_over(wanted);
    }

    /// Watches nothing.
    pub(super) fn stop(&mut self) {
        *self = Self::new(false);
    }

    fn change_over(&mut self, wanted: BTreeMap<PathBuf, Names>) {
        let mut directories = HashMap::new();
        let count = wanted.len();
        for (directory, names) in wanted.into_iter().take(WATCHED_DIRECTORIES_MAX) {
            let Some(inotify) = &self.inotify else { return };
            match inotify::add_watch(inotify, &directory, CHANGES) {
                // One directory may have several names.
                Ok(number) => match directories.get_mut(&number) {
                    None => drop(directories.insert(number, names)),
                    Some(known) => Names::add(known, names),
                },
                Err(error) => self.tell(cannot_watch(&directory, error)),
            }
        }
        if count > WATCHED_DIRECTORIES_MAX {
            self.tell(format!(
                "{WATCHED_DIRECTORIES_MAX} of {count} directories are watched; SIGHUP reloads what \
                 changes in the others"
            ));
        }
        let before = std::mem::replace(&mut self.directories, directories);
        let dropped = before
            .keys()
            .filter(|at| !self.directories.contains_key(at));
        for &number in dropped {
            if let Some(inotify) = &self.inotify {
                // Fails where the directory is gone, and its watch with it.
                let _ = inotify::remove_watch(inotify, number);
            }
        }
    }

    fn tell(&mut self, problem: String) {
        if self.told.insert(problem.clone()) {
            self.problems.push(problem);
        }
    }

    /// What cannot be watched and why; each is handed out once.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Whether something has changed that is ready to be read now: the last change is a while ago.
    pub(super) fn is_ripe(&mut self, now: Instant) -> bool {
        if self.has_changed() {
            let began = self.burst.map_or(now, |burst| burst.began);
            self.burst = Some(Burst { began, last: now });
        }
        let settled = |burst: &mut Burst| {
            let since = |then| now.saturating_duration_since(then);
            since(burst.last) >= SETTLE || since(burst.began) >= SETTLE_MAX
        };
        self.burst.take_if(settled).is_some()
    }

    /// Reads every event that waits; whether one of them matters.
    fn has_changed(&mut self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); EVENTS_LEN];
        let mut events = Reader::new(inotify, &mut buffer);
        let mut has_changed = false;
        // Somebody may write into a watched directory without end; the rest waits for the next look.
        for taken in 0.. {
            if taken >= EVENTS_MAX && events.is_buffer_empty() {
                break;
            }
            match events.next() {
                Ok(event) => {
                    let flags = event.events();
                    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        has_changed = true;
                        continue;
                    }
                    let Some(names) = self.directories.get(&event.wd()) else {
                        continue;
                    };
                    let name = event.file_name();
                    // Without a name it is the directory itself that was moved or removed.
                    has_changed |=
                        name.is_none_or(|name| names.has(OsStr::from_bytes(name.to_bytes())));
                    if flags.contains(ReadFlags::IGNORED) {
                        self.directories.remove(&event.wd());
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        has_changed
    }
}

fn cannot_start(error: Errno) -> String {
    let remedy = match error {
        Errno::MFILE => {
            "raise fs.inotify.max_user_instances (sysctl) or the limit of open files (ulimit -n)"
        }
        _ => "raise the limit of open files (ulimit -n)",
    };
    let error = io::Error::from(error);
    format!("files are not watched: {error}; {remedy}; SIGHUP reloads all the same")
}

fn cannot_watch(directory: &Path, error: Errno) -> String {
    let remedy = match error {
        Errno::NOSPC => "raise fs.inotify.max_user_watches (sysctl)",
        _ => "let the user that Ringgate runs as read it",
    };
    let error = io::Error::from(error);
    let directory = directory.display();
    format!("{directory} is not watched: {error}; {remedy}; SIGHUP reloads all the same")
}

/// The entries of directories that decide what `path` leads to: every link on the way and what
/// stands at its end; if that is a directory, all in it, and what the links in it lead to.
fn entries(path: &Path) -> Vec<(PathBuf, Names)> {
    let mut found = Vec::new();
    if let Some(directory) = follow(path, &mut found) {
        for link in links_in(&directory) {
            // A directory in it is none of what it stands for.
            follow(&link, &mut found);
        }
        found.push((directory, Names::All));
    }
    found
}

/// Adds the entries on the way to what `path` leads to; returns that if it is a directory. Where the
/// path leads nowhere, the entry that is missing is the last.
fn follow(path: &Path, found: &mut Vec<(PathBuf, Names)>) -> Option<PathBuf> {
    let this = |name: &OsStr| Names::These(HashSet::from([name.to_owned()]));
    let path = std::path::absolute(path).ok()?;
    let (mut directory, mut links) = (PathBuf::from("/"), 0);
    let mut left: VecDeque<OsString> = components(&path);
    while let Some(name) = left.pop_front() {
        if name == ".." {
            // No link is left in it.
            directory.pop();
            continue;
        }
        let entry = directory.join(&name);
        if let Ok(target) = std::fs::read_link(&entry) {
            found.push((directory.clone(), this(&name)));
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            if target.is_absolute() {
                directory = PathBuf::from("/");
            }
            for name in components(&target).into_iter().rev() {
                left.push_front(name);
            }
            continue;
        }
        let is_directory = entry.is_dir();
        if left.is_empty() || !is_directory {
            found.push((directory, this(&name)));
            return is_directory.then_some(entry);
        }
        directory = entry;
    }
    // Only `/` or a path that ends in `..` comes here: no file.
    Some(directory)
}

/// The symbolic links in a directory, as far as they may lead to what it stands for.
fn links_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let links = entries.filter(|entry| {
        let is_hidden = entry.file_name().as_bytes().starts_with(b".");
        !is_hidden && entry.file_type().is_ok_and(|kind| kind.is_symlink())
    });
    let links = links.map(|entry| entry.path());
    links.take(CRL_FILES_PER_DIRECTORY_MAX).collect()
}

fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("ringgate-watch-{}-{number}", std::process::id());
            let path = std::env::temp_dir().canonicalize().unwrap().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// As kubelet lays a secret out: `tls.crt -> ..data/tls.crt`, `..data -> ..1`.
        fn secret(&self) -> PathBuf {
            self.generation("1");
            symlink("..data/tls.crt", self.at("tls.crt")).unwrap();
            self.swap("1");
            self.at("tls.crt")
        }

        fn generation(&self, name: &str) {
            fs::create_dir(self.at(&format!("..{name}"))).unwrap();
            fs::write(self.at(&format!("..{name}/tls.crt")), name).unwrap();
        }

        fn swap(&self, name: &str) {
            symlink(format!("..{name}"), self.at("..data_tmp")).unwrap();
            fs::rename(self.at("..data_tmp"), self.at("..data")).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn watching(path: &Path) -> Watch {
        let mut watch = Watch::new(true);
        watch.cover([path]);
        assert_eq!(watch.take_problems(), [""; 0]);
        assert!(!watch.has_changed());
        watch
    }

    fn these(names: &[&str]) -> Names {
        Names::These(names.iter().map(OsString::from).collect())
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let folder = Folder::new();
        let file = folder.secret();
        assert_eq!(
            entries(&file),
            [
                (folder.0.clone(), these(&["tls.crt"])),
                (folder.0.clone(), these(&["..data"])),
                (folder.at("..1"), these(&["tls.crt"])),
            ]
        );
        symlink(&folder.0, folder.at("again")).unwrap();
        assert_eq!(
            entries(&folder.at("again/again/../x/y")),
            [
                (folder.0.clone(), these(&["again"])),
                (folder.0.clone(), these(&["again"])),
                (folder.0.parent().unwrap().to_owned(), these(&["x"])),
            ]
        );
        assert_eq!(
            entries(&folder.at("..1")),
            [
                (folder.0.clone(), these(&["..1"])),
                (folder.at("..1"), Names::All),
            ]
        );
        symlink("round", folder.at("round")).unwrap();
        assert_eq!(entries(&folder.at("round")).len(), LINKS_MAX + 1);
    }

    #[test]
    fn a_swapped_link_is_seen() {
        let folder = Folder::new();
        let mut watch = watching(&folder.secret());
        folder.generation("2");
        assert!(!watch.has_changed(), "nothing leads there yet");
        folder.swap("2");
        assert!(watch.has_changed());
        watch.cover([folder.at("tls.crt").as_path()]);
        watch.has_changed();
        fs::write(folder.at("..1/tls.crt"), "x").unwrap();
        assert!(!watch.has_changed(), "nothing leads there any more");
        fs::write(folder.at("..2/tls.crt"), "x").unwrap();
        assert!(watch.has_changed());
    }

    #[test]
    fn what_the_links_in_a_directory_lead_to_is_seen() {
        let folder = Folder::new();
        let (crls, elsewhere) = (folder.at("crls"), folder.at("elsewhere"));
        fs::create_dir(&crls).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("a.crl"), "1").unwrap();
        for (link, target) in [("a.crl", "../elsewhere/a.crl"), ("round", ".")] {
            symlink(target, crls.join(link)).unwrap();
        }
        let mut watch = watching(&crls);
        fs::write(elsewhere.join("other"), "x").unwrap();
        assert!(!watch.has_changed(), "nothing leads there");
        fs::write(elsewhere.join("a.crl"), "2").unwrap();
        assert!(watch.has_changed());
    }

    #[test]
    fn each_way_to_change_a_file_is_seen_and_reading_is_none() {
        let folder = Folder::new();
        let (file, other) = (folder.at("file"), folder.at("other"));
        fs::write(&file, "1").unwrap();
        let mut watch = watching(&file);
        fs::read(&file).unwrap();
        fs::write(&other, "2").unwrap();
        assert!(!watch.has_changed());
        fs::rename(&other, &file).unwrap();
        assert!(watch.has_changed());
        fs::write(&file, "3").unwrap();
        assert!(watch.has_changed());
        fs::set_permissions(&file, fs::metadata(&file).unwrap().permissions()).unwrap();
        assert!(watch.has_changed());
        fs::remove_file(&file).unwrap();
        assert!(watch.has_changed());
        fs::write(&file, "4").unwrap();
        assert!(watch.has_changed());
    }

    #[test]
    fn directories_that_go_and_come_are_seen() {
        let folder = Folder::new();
        let file = folder.at("a/b/file");
        let mut watch = watching(&file);
        for (step, is_there) in [("a", false), ("a/b", false), ("a/b/file", true)] {
            let step = folder.at(step);
            match is_there {
                true => fs::write(&step, "x").unwrap(),
                false => fs::create_dir(&step).unwrap(),
            }
            assert!(watch.has_changed(), "{step:?}");
            watch.cover([file.as_path()]);
            watch.has_changed();
        }
        fs::rename(folder.at("a/b"), folder.at("c")).unwrap();
        assert!(watch.has_changed());
        fs::remove_dir_all(folder.at("c")).unwrap();
        assert!(watch.has_changed());
        assert!(watch.directories.is_empty());
    }

    #[test]
    fn a_burst_ends_when_it_is_quiet_or_has_lasted() {
        let folder = Folder::new();
        let file = folder.at("file");
        let mut watch = watching(&file);
        let start = Instant::now();
        assert!(!watch.is_ripe(start));
        fs::write(&file, "x").unwrap();
        assert!(!watch.is_ripe(start));
        assert!(!watch.is_ripe(start + SETTLE / 2));
        fs::write(&file, "y").unwrap();
        assert!(!watch.is_ripe(start + SETTLE));
        assert!(watch.is_ripe(start + 2 * SETTLE));
        assert!(!watch.is_ripe(start + 4 * SETTLE));
        let mut now = start + Duration::from_secs(10);
        let began = now;
        loop {
            fs::write(&file, "z").unwrap();
            if watch.is_ripe(now) {
                break;
            }
            now += SETTLE / 2;
        }
        assert!(now - began >= SETTLE_MAX && now - began < SETTLE_MAX + SETTLE);
    }

    #[test]
    fn a_queue_that_overflows_counts_as_a_change() {
        let folder = Folder::new();
        let file = folder.at("file");
        let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let queue: usize = queue.map_or(usize::MAX, |text| text.trim().parse().unwrap());
        if queue > 1 << 17 {
            eprintln!("skipped: the queue of events is too long to be filled");
            return;
        }
        let mut watch = watching(&file);
        let noise = [folder.at("noise"), folder.at("sound")];
        for at in 0..queue {
            // Events that are alike and follow each other become one.
            fs::rename(&noise[at % 2], &noise[(at + 1) % 2])
                .or_else(|_| fs::write(&noise[(at + 1) % 2], ""))
                .unwrap();
        }
        let looks = queue / EVENTS_MAX + 1;
        assert!((0..=looks).any(|_| watch.has_changed()));
        assert!(!watch.has_changed());
    }

    #[test]
    fn a_look_at_a_folder_that_never_rests_comes_to_its_end() {
        let folder = Folder::new();
        let file = folder.at("file");
        let mut watch = watching(&file);
        let noise = [folder.at("noise"), folder.at("sound")];
        fs::write(&noise[0], "").unwrap();
        // Two events each.
        for at in 0..EVENTS_MAX / 2 + 500 {
            fs::rename(&noise[at % 2], &noise[(at + 1) % 2]).unwrap();
        }
        fs::write(&file, "x").unwrap();
        assert!(!watch.has_changed(), "everything was taken in one look");
        assert!(watch.has_changed());
    }

    #[test]
    fn what_cannot_be_watched_is_told_once_with_the_remedy() {
        let text = cannot_start(Errno::MFILE);
        assert!(text.contains("fs.inotify.max_user_instances"), "{text}");
        let text = cannot_watch(Path::new("/x"), Errno::NOSPC);
        assert!(text.contains("/x is not watched") && text.contains("max_user_watches"));
        let mut watch = Watch::new(true);
        watch.tell(text.clone());
        assert_eq!(watch.take_problems(), std::slice::from_ref(&text));
        watch.tell(text);
        assert_eq!(watch.take_problems(), [""; 0]);
    }
}
