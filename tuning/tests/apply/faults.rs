//! Writes that fail where the test wants them to.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use ringgate_tune::apply::{Applied, Failed, apply};
use ringgate_tune::host::Host;
use ringgate_tune::kernel::{Access, Kernel, Knobs};
use ringgate_tune::revert::{Ending, revert};
use ringgate_tune::verify::verify;
use rustix::io::Errno;

use crate::fixture::{EVERYTHING, EVERYTHING_WRITES, Tree, ended};

/// What becomes of a write.
type Fault = dyn Fn(usize, &Path) -> io::Result<Option<&'static str>>;

/// The tree's files and `ethtool`, with faults. Writes are counted from 1.
struct Faulty<'a> {
    tree: &'a Tree,
    writes: Cell<usize>,
    /// An error, or another value than the one that was to be written.
    fault: Box<Fault>,
    /// What opening for writing says.
    may_write: fn(&Path) -> io::Result<()>,
}

impl<'a> Faulty<'a> {
    fn new(
        tree: &'a Tree,
        fault: impl Fn(usize, &Path) -> io::Result<Option<&'static str>> + 'static,
    ) -> Self {
        Self {
            tree,
            writes: Cell::new(0),
            fault: Box::new(fault),
            may_write: |_| Ok(()),
        }
    }

    fn next(&self, file: &Path) -> io::Result<Option<&'static str>> {
        self.writes.set(self.writes.get() + 1);
        (self.fault)(self.writes.get(), file)
    }
}

impl Access for Faulty<'_> {
    fn may_write(&self, file: &Path) -> io::Result<()> {
        (self.may_write)(file)?;
        Kernel.may_write(file)
    }

    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        let other = self.next(file)?;
        Kernel.write(file, other.unwrap_or(value))
    }

    fn ethtool(&self, _: &Host, arguments: &[&str]) -> io::Result<String> {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "-L" || arguments[0] == "-C" {
            let last = arguments.len() - 1;
            let other = self.next(Path::new("ethtool"))?;
            arguments[last] = other.unwrap_or(arguments[last]);
        }
        let mut program = Command::new(self.tree.path("bin/ethtool"));
        let (code, text, said) = ended(program.args(arguments));
        assert_eq!(code, Some(0), "{said}");
        Ok(text)
    }
}

fn applied<'a>(
    tree: &Tree,
    host: &'a Host,
    access: &'a dyn Access,
    rest: &str,
) -> Result<Applied<'a>, Failed> {
    let knobs = Knobs { host, access };
    apply(knobs, &tree.layout(rest), &tree.state(), &mut |_| Ok(()))
}

fn error(errno: Errno) -> io::Result<Option<&'static str>> {
    Err(io::Error::from_raw_os_error(errno.raw_os_error()))
}

#[test]
fn a_failure_at_any_write_puts_everything_back() {
    let tree = Tree::new("any-write");
    let (before, host) = (tree.values(), tree.host());
    for at in 1.. {
        let faulty = Faulty::new(&tree, move |write, _| match write == at {
            true => error(Errno::ACCESS),
            false => Ok(None),
        });
        match applied(&tree, &host, &faulty, EVERYTHING) {
            Err(failed) => {
                assert_eq!(failed.left, [""; 0]);
                assert_eq!(failed.problems.len(), 1, "{failed:?}");
                assert!(
                    failed.problems[0].contains("run this as root"),
                    "{failed:?}"
                );
                assert_eq!(tree.values(), before, "write {at}: {failed:?}");
                assert_eq!(tree.journal(), None);
            }
            Ok(_) => {
                assert_eq!(at, EVERYTHING_WRITES + 1);
                return;
            }
        }
    }
}

#[test]
fn a_failure_at_any_write_of_a_second_apply_goes_back_to_the_first() {
    let tree = Tree::new("any-second-write");
    let (before, host) = (tree.values(), tree.host());
    let access = Faulty::new(&tree, |_, _| Ok(None));
    drop(applied(&tree, &host, &access, EVERYTHING).ok().unwrap());
    let (first, journal) = (tree.values(), tree.journal());
    // Other values, some fewer, and queues that come back.
    let second = EVERYTHING
        .replace("queues = 2", "queues = 6")
        .replace("queue = 1", "queue = 5")
        .replace("napi_defer_hard_irqs = 2\n", "")
        .replace("4096", "8192");
    for at in 1.. {
        let faulty = Faulty::new(&tree, move |write, _| match write == at {
            true => error(Errno::ROFS),
            false => Ok(None),
        });
        match applied(&tree, &host, &faulty, &second) {
            Err(failed) => {
                assert_eq!(failed.left, [""; 0]);
                assert_eq!(tree.values(), first, "write {at}: {failed:?}");
                assert_eq!(tree.journal(), journal, "write {at}");
            }
            Ok(_) => {
                assert!(at > 5);
                break;
            }
        }
    }
    let reverted = revert(&access, &tree.state()).unwrap();
    assert_eq!(reverted.ending, Ending::Done, "{reverted:?}");
    assert_eq!(tree.values(), before, "{reverted:?}");
}

#[test]
fn what_cannot_be_put_back_is_named_and_stays_in_the_journal() {
    let tree = Tree::new("left");
    let (before, host) = (tree.values(), tree.host());
    for at in 2..=EVERYTHING_WRITES {
        let faulty = Faulty::new(&tree, move |write, _| match write >= at {
            true => error(Errno::ROFS),
            false => Ok(None),
        });
        let failed = applied(&tree, &host, &faulty, EVERYTHING).err().unwrap();
        assert!(failed.left.len() >= at - 1, "write {at}: {failed:?}");
        let queues = "eth0: queues, which was combined 4: ";
        assert!(
            failed.left.iter().any(|left| left.starts_with(queues)),
            "{failed:?}"
        );
        // Nor can it be now: nothing is forgotten.
        let reverted = revert(&faulty, &tree.state()).unwrap();
        assert_eq!(reverted.ending, Ending::Failed);
        let good = Faulty::new(&tree, |_, _| Ok(None));
        let reverted = revert(&good, &tree.state()).unwrap();
        assert_eq!(reverted.ending, Ending::Done, "write {at}: {reverted:?}");
        assert_eq!(tree.values(), before, "write {at}: {reverted:?}");
        assert_eq!(tree.journal(), None);
    }
}

#[test]
fn a_value_that_the_kernel_does_not_take_is_named_and_everything_put_back() {
    let tree = Tree::new("not-taken");
    let (before, host) = (tree.values(), tree.host());
    for at in 1..=EVERYTHING_WRITES {
        // It takes another one in place of it.
        let faulty = Faulty::new(&tree, move |write, _| Ok((write == at).then_some("3")));
        let failed = applied(&tree, &host, &faulty, EVERYTHING).err().unwrap();
        assert!(failed.problems[0].contains("the kernel has "), "{failed:?}");
        assert!(failed.problems[0].contains("put a value into the layout that it takes"));
        assert_eq!(failed.left, [""; 0]);
        assert_eq!(tree.values(), before, "write {at}: {failed:?}");
        assert_eq!(tree.journal(), None);
    }
}

#[test]
fn an_interrupt_that_stays_is_said_to_stay() {
    for errno in [
        Errno::IO,
        Errno::PERM,
        Errno::INVAL,
        Errno::NOSPC,
        Errno::BUSY,
    ] {
        let tree = Tree::new(&format!("stays-{}", errno.raw_os_error()));
        let (before, host) = (tree.values(), tree.host());
        let faulty = Faulty::new(&tree, move |_, file| {
            match file.ends_with("irq/40/smp_affinity_list") {
                true => error(errno),
                false => Ok(None),
            }
        });
        let run = applied(&tree, &host, &faulty, EVERYTHING).ok().unwrap();
        assert_eq!(run.written, EVERYTHING_WRITES - 1);
        assert_eq!(run.notes.len(), 1, "{:?}", run.notes);
        let said = "interrupt eth0-TxRx-0: the kernel keeps it where it is";
        assert!(run.notes[0].starts_with(said), "{:?}", run.notes);
        drop(run);
        let journal = tree.journal();
        assert!(applied(&tree, &host, &faulty, EVERYTHING).is_ok());
        assert_eq!(tree.journal(), journal, "it does not grow");
        let knobs = Knobs {
            host: &host,
            access: &faulty,
        };
        let verified = verify(&knobs, &tree.layout(EVERYTHING), &tree.state());
        assert!(!verified.drift && !verified.unknown, "{verified:?}");
        assert!(
            verified
                .lines
                .iter()
                .any(|line| line.starts_with("stays  ")),
            "{verified:?}"
        );
        let reverted = revert(&faulty, &tree.state()).unwrap();
        assert_eq!(reverted.ending, Ending::Done, "{reverted:?}");
        assert_eq!(tree.values(), before);
    }
}

#[test]
fn what_cannot_be_opened_for_writing_is_known_before_the_first_write() {
    for (errno, remedy) in [
        (
            Errno::ROFS,
            "mount it read-write; in a container, apply the layout on the host",
        ),
        (
            Errno::ACCESS,
            "run this as root; in a container, apply the layout on the host",
        ),
    ] {
        let tree = Tree::new(&format!("closed-{}", errno.raw_os_error()));
        let (before, host) = (tree.values(), tree.host());
        let mut faulty = Faulty::new(&tree, |_, _| panic!("a write"));
        faulty.may_write = match errno {
            Errno::ROFS => |file| match file.ends_with("rps_cpus") {
                true => error(Errno::ROFS).map(drop),
                false => Ok(()),
            },
            _ => |_| error(Errno::ACCESS).map(drop),
        };
        let failed = applied(&tree, &host, &faulty, EVERYTHING).err().unwrap();
        assert!(!failed.problems.is_empty());
        for problem in &failed.problems {
            assert!(problem.contains(remedy), "{problem}");
        }
        assert_eq!(tree.values(), before);
        assert_eq!(tree.journal(), None);
    }
}

#[test]
fn nothing_is_written_before_it_is_in_the_journal() {
    let tree = Tree::new("journal-first");
    let (host, journal) = (tree.host(), tree.state().join("journal.json"));
    let before = tree.values();
    let faulty = Faulty::new(&tree, move |_, file| {
        let text = std::fs::read_to_string(&journal).expect("a write before the journal");
        // The knob that is written now, as the journal names it.
        let named = match file.to_str().unwrap() {
            "ethtool" => "queues",
            file if file.contains("/irq/") => "\"irq\"",
            file if file.ends_with("rps_cpus") => "\"rps\"",
            file if file.ends_with("somaxconn") => "net.core.somaxconn",
            _ => "",
        };
        assert!(text.contains(named), "{}", file.display());
        Ok(None)
    });
    drop(applied(&tree, &host, &faulty, EVERYTHING).ok().unwrap());
    assert_ne!(tree.values(), before);
}

/// A driver that sets XPS anew whenever counts of queues change.
struct Driver<'a> {
    faulty: Faulty<'a>,
    /// Ends the run there, as a kill does.
    dies: bool,
}

impl Access for Driver<'_> {
    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        self.faulty.write(file, value)
    }

    fn ethtool(&self, host: &Host, arguments: &[&str]) -> io::Result<String> {
        let text = self.faulty.ethtool(host, arguments)?;
        if arguments[0] == "-L" {
            for queue in 0..2 {
                let file = format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus");
                self.faulty.tree.set(&file, "f");
            }
            assert!(!self.dies, "killed");
        }
        Ok(text)
    }
}

#[test]
fn what_a_driver_sets_anew_is_put_back_though_killed_right_there() {
    let tree = Tree::new("driver-killed");
    tree.set("sys/class/net/eth0/queues/tx-0/xps_cpus", "1");
    let (before, host) = (tree.values(), tree.host());
    let driver = |dies| Driver {
        faulty: Faulty::new(&tree, |_, _| Ok(None)),
        dies,
    };
    // With XPS in the layout and without.
    for layout in [EVERYTHING, "[[nic]]\nname = \"eth0\"\nqueues = 2\n"] {
        for again in [false, true] {
            let dying = driver(true);
            let run = AssertUnwindSafe(|| applied(&tree, &host, &dying, layout).is_ok());
            assert!(catch_unwind(run).is_err());
            assert_ne!(tree.values(), before);
            if again {
                assert!(applied(&tree, &host, &driver(false), layout).is_ok());
            }
            let reverted = revert(&driver(false), &tree.state()).unwrap();
            assert_eq!(reverted.ending, Ending::Done, "{reverted:?}");
            assert_eq!(tree.values(), before, "{reverted:?}");
        }
    }
}

#[test]
fn what_a_driver_sets_anew_and_no_layout_wants_stays_until_the_queues_are_back() {
    let tree = Tree::new("driver-beside");
    let xps = "sys/class/net/eth0/queues/tx-0/xps_cpus";
    tree.set(xps, "1");
    let (before, host) = (tree.values(), tree.host());
    let driver = Driver {
        faulty: Faulty::new(&tree, |_, _| Ok(None)),
        dies: false,
    };
    let layout = "[[nic]]\nname = \"eth0\"\nqueues = 2\n";
    for written in [1, 0] {
        let run = applied(&tree, &host, &driver, layout).ok().unwrap();
        assert_eq!(run.written, written);
        // As the driver has it for so many queues.
        assert_eq!(tree.get(xps), "f");
    }
    let journal = tree.journal();
    // Either way back: by name, or by a layout that no longer says anything of queues.
    let other = "[sysctl]\n\"net.core.somaxconn\" = 128\n";
    assert!(applied(&tree, &host, &driver, other).is_ok());
    assert_eq!(tree.values(), before);
    assert_eq!(tree.journal(), None);
    assert!(applied(&tree, &host, &driver, layout).is_ok());
    assert_eq!(tree.journal(), journal);
    let reverted = revert(&driver, &tree.state()).unwrap();
    assert_eq!(reverted.ending, Ending::Done, "{reverted:?}");
    assert_eq!(tree.values(), before, "{reverted:?}");
}

#[test]
fn what_a_driver_sets_anew_along_with_queues_is_put_back_too() {
    let tree = Tree::new("driver");
    let (before, host) = (tree.values(), tree.host());
    for at in (0..=EVERYTHING_WRITES).rev() {
        let driver = Driver {
            faulty: Faulty::new(&tree, move |write, _| match write == at {
                true => Err(ErrorKind::PermissionDenied.into()),
                false => Ok(None),
            }),
            dies: false,
        };
        let outcome = applied(&tree, &host, &driver, EVERYTHING);
        assert_eq!(outcome.is_ok(), at == 0);
        let failed = outcome.err();
        let reverted = revert(&driver, &tree.state()).unwrap();
        assert_eq!(reverted.ending, Ending::Done, "{failed:?} {reverted:?}");
        assert_eq!(tree.values(), before, "write {at}: {failed:?} {reverted:?}");
    }
}

#[test]
fn a_write_is_one_and_leaves_the_file_in_place() {
    let tree = Tree::new("one-write");
    tree.set("value", "00000000,000000ff");
    let file = tree.path("value");
    let open = File::open(&file).unwrap();
    Kernel.write(&file, "3").unwrap();
    // Not truncated, not replaced: neither can be done to a file of sysfs.
    let text = io::read_to_string(open).unwrap();
    assert_eq!(text, "3\n000000,000000ff\n");
    let full = Kernel.write(Path::new("/dev/full"), "3").unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}
