//! Changes of a server under load. Reloads under load and broken ones are in `tests/reload`.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::gate::{Gate, close, echoed, field};
use crate::load::{Load, alert};
use crate::pki::serial;
use crate::plan::Plan;
use crate::program::until;

#[test]
fn drain_under_load() {
    let mut gate = Plan {
        more: "[drain]\ntimeout = \"20s\"".to_owned(),
        ..Plan::new()
    }
    .start();
    let client = gate.client(&gate.leaf());
    let load = Load {
        coming: 8,
        staying: 2,
    };
    let (tally, ()) = load.during(&client, || {
        thread::sleep(Duration::from_millis(300));
        gate.signal(Signal::TERM);
        gate.line("draining");
        until("the end of listening", || {
            let outcome = TcpStream::connect_timeout(&gate.address, Duration::from_millis(50));
            let error = outcome.err()?;
            (error.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
        // Whoever is there is served on.
        thread::sleep(Duration::from_millis(100));
    });
    println!("{tally:?}");
    assert!(tally.served > load.staying, "{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.refused > 0, "{tally:?}");
    assert_eq!(gate.ended().code(), Some(0));
}

#[test]
fn revoke_live() {
    const OPEN: u8 = 20;
    let mut gate = Gate::start("");
    gate.replace("revoked.pem", gate.crl(&[]));
    gate.configure("crl = \"revoked.pem\"", &[]);
    gate.line("\"message\":\"reloaded");
    let [revoked, other] = [1, 2].map(|number| {
        let leaf = gate.leaf_with(|params| params.serial_number = serial(number));
        gate.client(&leaf)
    });
    let mut lost: Vec<_> = (0..OPEN).map(|_| revoked.connect().unwrap()).collect();
    let mut kept: Vec<_> = (0..OPEN).map(|_| other.connect().unwrap()).collect();
    let (tally, ()) = Load::LIGHT.during(&other, || {
        gate.replace("revoked.pem", gate.crl(&[1]));
        gate.line("\"message\":\"reloaded");
        for stream in &mut lost {
            let error = std::io::Read::read(stream, &mut [0]).expect_err("it has lost its right");
            let told = rustls::AlertDescription::CertificateRevoked;
            assert_eq!(alert(&error), Some(told), "{error}");
        }
    });
    tally.assert_all_served();
    for stream in &mut kept {
        echoed(stream).expect("it keeps its right");
        close(stream).unwrap();
    }
    // Each shard tells how many it ended, and how long that took.
    until("as many as were open, told as ended", || {
        let lines = gate.lines();
        let reviews = lines.iter().filter(|it| it.contains("judged again"));
        let ended = reviews.map(|line| {
            assert!(number(line, "took_ms") > 0.0, "{line}");
            number(line, "ended")
        });
        (ended.sum::<f64>() == f64::from(OPEN)).then_some(())
    });
    until("a line for each", || {
        let lines = gate.lines();
        let told = lines.iter().filter(|line| {
            let is_lost = field(line, "reason") == Some("access_withdrawn");
            is_lost && line.contains("no longer let in")
        });
        (told.count() == lost.len()).then_some(())
    });
}

/// The number that a field of a JSON line is.
#[track_caller]
fn number(line: &str, name: &str) -> f64 {
    let (_, value) = line.split_once(&format!("\"{name}\":")).expect(line);
    let digits = value.split([',', '}']).next().unwrap();
    digits.parse().unwrap()
}
