//! What the service manager is told (sd_notify(3)).

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::running::{Running, scratch};
use crate::scratch::Scratch;
use crate::{front, front_with};

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn new(scratch: &Scratch) -> Self {
        let socket = UnixDatagram::bind(scratch.path("notify")).unwrap();
        let patience = Duration::from_secs(20);
        socket.set_read_timeout(Some(patience)).unwrap();
        Self(socket)
    }

    /// The next message that is no beat.
    fn told(&self) -> String {
        loop {
            let text = self.anything();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    }

    fn anything(&self) -> String {
        let mut bytes = [0; 1024];
        let len = self.0.recv(&mut bytes).expect("told in time");
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }
}

fn start(scratch: &Scratch, variables: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    command
        .args(["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()])
        .env("NOTIFY_SOCKET", scratch.path("notify"))
        .envs(variables.iter().copied());
    Running::of(command)
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let scratch = scratch();
    let settings = "[shards]\ncount = 1\n[limits]\nconnections = 64\n[log]\nformat = \"json\"\n\
                    [reload]\nwatch = false\n";
    let sound = front_with("address", "address = \"127.0.0.1:0\"") + settings;
    scratch.write("ringgate.toml", &sound);
    let manager = Manager::new(&scratch);
    let running = &mut start(&scratch, &[("WATCHDOG_USEC", "100000")]);
    assert_eq!(manager.told(), "READY=1\nSTATUS=serving");
    for _ in 0..3 {
        assert_eq!(manager.anything(), "WATCHDOG=1");
    }

    running.signal("HUP");
    let reloading = manager.told();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.told(), "READY=1\nSTATUS=serving generation 1");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("address = \"{}\"", taken.local_addr().unwrap());
    scratch.write("ringgate.toml", front_with("address", &address) + settings);
    running.signal("HUP");
    assert!(manager.told().starts_with("RELOADING=1\n"));
    let failed = manager.told();
    assert!(
        failed.starts_with("READY=1\nSTATUS=reload failed, serving generation 1: cannot listen on"),
        "{failed}"
    );

    running.signal("TERM");
    assert_eq!(
        manager.told(),
        "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=33000000"
    );
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn no_sign_of_life_is_given_where_another_process_is_watched() {
    let scratch = scratch();
    let settings = "[shards]\ncount = 1\n[limits]\nconnections = 64\n[log]\nformat = \"json\"\n";
    let text = front(settings).replace("127.0.0.1:8443", "127.0.0.1:0");
    scratch.write("ringgate.toml", text);
    let manager = Manager::new(&scratch);
    let watched = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let mut running = start(&scratch, &watched);
    assert_eq!(manager.anything(), "READY=1\nSTATUS=serving");
    running.signal("TERM");
    assert!(manager.anything().starts_with("STOPPING=1"));
    assert_eq!(running.ended().code(), Some(0));
}
