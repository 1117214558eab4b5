//! Two hosts on a cable: network namespaces with a veth pair between them.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::program::{find, skip};

/// Two hosts that see each other and nobody else; gone when dropped.
pub struct Network {
    pub hosts: [Namespace; 2],
}

impl Network {
    /// `None`, with a notice, where this machine or user cannot have namespaces.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        find("ip")?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let make = |end: u8| -> io::Result<Namespace> {
            let name = format!("ringgate-{}-{count}-{end}", std::process::id());
            ip(&format!("netns add {name}"))?;
            // From here on it is removed, whatever fails.
            let address = Ipv4Addr::new(192, 0, 2, end);
            Ok(Namespace { name, address })
        };
        let made = || -> io::Result<_> {
            let hosts = [make(1)?, make(2)?];
            let [one, two] = hosts.each_ref().map(|host| &host.name);
            ip(&format!(
                "link add cable netns {one} type veth peer name cable netns {two}"
            ))?;
            Ok(hosts)
        };
        match made() {
            Ok(hosts) => {
                hosts.iter().for_each(Namespace::bring_up);
                Some(Self { hosts })
            }
            Err(error) => {
                skip(&format!("no network namespaces here: {error}"));
                None
            }
        }
    }
}

/// A network namespace, which is a host as far as sockets can tell.
pub struct Namespace {
    name: String,
    pub address: Ipv4Addr,
}

impl Namespace {
    fn bring_up(&self) {
        let Self { name, address } = self;
        for command in [
            "link set lo up",
            &format!("address add {address}/24 dev cable"),
            "link set cable up",
        ] {
            ip(&format!("-n {name} {command}")).unwrap();
        }
    }

    /// Does `work` on a thread inside. Sockets, threads and processes made there belong there.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let link = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        // What the thread is called says which test waits or fails.
        let test = thread::current().name().unwrap_or_default().to_owned();
        thread::scope(|scope| {
            let builder = thread::Builder::new().name(test);
            let thread = builder.spawn_scoped(scope, || {
                move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread
                .unwrap()
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

/// Runs `ip` with words that a space parts.
fn ip(words: &str) -> io::Result<()> {
    let program = find("ip").ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(program).args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`ip {words}`: {}", said.trim())))
}
