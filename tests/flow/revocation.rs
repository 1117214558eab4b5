//! Open connections whose client loses its right, and those whose time is up.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;
use ringgate::shard::mailbox::{Mailbox, Review};
use ringgate::snapshot::{Listener, LiveRevocation};
use rustls::{AlertDescription, SupportedProtocolVersion};

use crate::pem::pem;
use crate::pki::{self, Leaf};
use crate::upstream::{Manner, Upstream};
use crate::world::{
    EVERYONE, FILES, LIMIT, SERVER_NAME, TlsStream, World, alert, alert_in, finish, load,
};

/// A rule for each of two clients.
const TWO_RULES: &str = r#"rule = [
    { name = "one", allow = { dns = "one.example" } },
    { name = "two", allow = { dns = "two.example" } },
]"#;

const ONE_RULE: &str = r#"rule = [{ name = "one", allow = { dns = "one.example" } }]"#;

fn config(upstream: &Upstream, rules: &str, more: &str) -> String {
    let upstream = upstream.toml();
    format!(
        "[[listener]]\nname = \"front\"\naddress = \"127.0.0.1:0\"\n{FILES}upstream = {upstream}\n\
         {rules}\n{more}\n"
    )
}

fn world(text: &str) -> World {
    let prepare = |folder: &crate::world::Folder, clients: &pki::Ca, _: &pki::Ca| {
        folder.write("revoked.pem", &pem("X509 CRL", &clients.crl(&[])));
    };
    World::with(prepare, text)
}

/// Serves `text` from now on, and what became of the open connections.
fn install(world: &World, text: &str) -> Review {
    let file = world
        .folder
        .write("ringgate.toml", &format!("{text}\n[shards]\ncount = 1\n"));
    world.install(&Arc::new(load(&file, &world.clock))).unwrap();
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(review) = world.terminator(|t| t.mailboxes().find_map(Mailbox::review)) {
            return review;
        }
        assert!(Instant::now() < until, "no review within {LIMIT:?}");
        std::thread::yield_now();
    }
}

/// How many connections each listener has, as the metrics tell it.
fn open(world: &World) -> Vec<(String, u64)> {
    world.terminator(|terminator| {
        let mut mailboxes = terminator.mailboxes();
        let listeners = mailboxes.next().unwrap().listeners().iter();
        let open = listeners.map(|(name, counters)| (name.to_string(), counters.open()));
        open.collect()
    })
}

/// Two clients, with serial numbers 1 and 2.
fn clients(world: &World) -> [Leaf; 2] {
    [("one", 1), ("two", 2)].map(|(name, number)| {
        let mut params = pki::client_with(name, vec![pki::dns(&format!("{name}.example"))]);
        params.serial_number = pki::serial(number);
        world.client_ca.issue(params)
    })
}

fn echo(stream: &mut TlsStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn connected(world: &World, leaves: &[Leaf; 2]) -> [TlsStream; 2] {
    connected_by(world, leaves, &rustls::version::TLS13)
}

fn connected_by(
    world: &World,
    leaves: &[Leaf; 2],
    version: &'static SupportedProtocolVersion,
) -> [TlsStream; 2] {
    [0, 1].map(|at| {
        let mut stream = world.connect_as(Some(&leaves[at]), SERVER_NAME, &[version]);
        echo(&mut stream);
        stream
    })
}

/// The alert that an idle client gets, which then leaves.
fn told(mut stream: TlsStream) -> AlertDescription {
    let heard = stream.read(&mut [0]);
    alert_in(&heard.expect_err("the connection ends with an alert"))
}

#[test]
fn revoke_live() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        revoked_live(Loss::Crl, version, AlertDescription::CertificateRevoked);
        revoked_live(Loss::Rule, version, AlertDescription::AccessDenied);
        revoked_live(Loss::Anchor, version, AlertDescription::UnknownCA);
    }
}

/// What takes a client's right away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loss {
    Crl,
    Rule,
    Anchor,
}

fn revoked_live(
    loss: Loss,
    version: &'static SupportedProtocolVersion,
    expected: AlertDescription,
) {
    let what = format!("{loss:?}, {:?}", version.version);
    let upstream = Upstream::new(Manner::Echo);
    let more = "min_version = \"1.2\"\ncrl = [\"revoked.pem\"]";
    let before = config(&upstream, TWO_RULES, more);
    let after = match loss {
        Loss::Rule => config(&upstream, ONE_RULE, more),
        Loss::Crl | Loss::Anchor => before.clone(),
    };
    let world = world(&before);
    let mut leaves = clients(&world);
    // Files that are written here are not read before the installation that follows.
    match loss {
        Loss::Crl => {
            let revoked = pem("X509 CRL", &world.client_ca.crl(&[2]));
            world.folder.write("revoked.pem", &revoked);
        }
        Loss::Rule => {}
        // The other client's anchor goes, this one's stays.
        Loss::Anchor => {
            let other = pki::Ca::root("Others");
            let both = [&other, &world.client_ca].map(|ca| pem("CERTIFICATE", &ca.certificate));
            let crls = [&other, &world.client_ca].map(|ca| pem("X509 CRL", &ca.crl(&[])));
            world.folder.write("clients.pem", &both.concat());
            world.folder.write("revoked.pem", &crls.concat());
            let named = vec![pki::dns("two.example")];
            leaves[1] = other.issue(pki::client_with("two", named));
            install(&world, &before);
            world.folder.write("clients.pem", &both[1]);
        }
    }
    let [mut one, two] = connected_by(&world, &leaves, version);
    let review = install(&world, &after);
    assert_eq!((review.judged, review.lost), (2, 1), "{what}");
    assert!(review.finished && review.examples.is_empty());
    assert_eq!(told(two), expected, "{what}");
    world.closed(CloseReason::AccessWithdrawn, 1);
    let report = world.report();
    assert_eq!(report.reason, CloseReason::AccessWithdrawn);
    assert!(report.detail.contains("two"), "{what}: {}", report.detail);
    assert!(report.identity.is_some() && report.service.is_some());
    // Who keeps its right notices nothing, and is served by what is installed now.
    echo(&mut one);
    let again = install(&world, &after);
    let nothing_changed = (again.judged, again.lost);
    assert_eq!(nothing_changed, (0, 0), "{what}");
    echo(&mut one);
    finish(one);
    let new = world.connect_as(Some(&leaves[1]), SERVER_NAME, &[version]);
    assert_eq!(alert(new), expected, "{what}: a new one");
}

/// A route that is new may be stricter to the names that it takes over.
#[test]
fn a_client_is_judged_by_the_route_that_its_name_leads_to_now() {
    let upstream = Upstream::new(Manner::Echo);
    let text = config(&upstream, EVERYONE, "");
    let world = world(&text);
    let [mut one, two] = connected(&world, &clients(&world));
    // The one for another name goes by the same rules as before.
    let routes = [("other.example", EVERYONE), (SERVER_NAME, ONE_RULE)]
        .map(|(name, rule)| format!("[[listener.route]]\nserver_names = [\"{name}\"]\n{rule}\n"));
    let review = install(&world, &format!("{text}{}", routes.concat()));
    assert_eq!((review.judged, review.lost), (2, 1));
    assert_eq!(told(two), AlertDescription::AccessDenied);
    echo(&mut one);
}

#[test]
fn dry_run() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&config(&upstream, TWO_RULES, ""));
    let [mut one, mut two] = connected(&world, &clients(&world));
    let after = |live: &str| {
        config(
            &upstream,
            ONE_RULE,
            &format!("[revocation]\nlive = \"{live}\""),
        )
    };
    let review = install(&world, &after("dry_run"));
    assert_eq!(
        (review.mode, review.judged, review.lost),
        (LiveRevocation::DryRun, 2, 1)
    );
    let [lost] = &review.examples[..] else {
        panic!("{:?}", review.examples);
    };
    assert_eq!(lost.reason, CloseReason::PolicyUnmatched);
    assert_eq!(lost.peer, two.sock.local_addr().unwrap());
    [&mut one, &mut two].into_iter().for_each(echo);
    // It is asked again each time, and in earnest as soon as that is wanted.
    assert_eq!(install(&world, &after("dry_run")).lost, 1);
    let review = install(&world, &after("close"));
    assert_eq!((review.judged, review.lost), (1, 1));
    assert_eq!(told(two), AlertDescription::AccessDenied);
    echo(&mut one);
}

#[test]
fn off_means_nobody_looks() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&config(&upstream, TWO_RULES, ""));
    let leaves = clients(&world);
    let mut streams = connected(&world, &leaves);
    let text = config(
        &upstream,
        ONE_RULE,
        "[revocation]\nlive = \"off\"\n[shards]\ncount = 1\n",
    );
    let file = world.folder.write("ringgate.toml", &text);
    world.install(&Arc::new(load(&file, &world.clock))).unwrap();
    streams.iter_mut().for_each(echo);
    assert!(
        world
            .terminator(|t| t.mailboxes().find_map(Mailbox::review))
            .is_none()
    );
    assert_eq!(
        alert(world.connect(&leaves[1])),
        AlertDescription::AccessDenied
    );
}

/// Whatever becomes of those who lost their right, the others let go of what was served before.
#[test]
fn nobody_who_stays_holds_what_was_served_before() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&config(&upstream, TWO_RULES, ""));
    let leaves = clients(&world);
    for mode in ["close", "dry_run", "off"] {
        let live = format!("[revocation]\nlive = \"{mode}\"\n[shards]\ncount = 1\n");
        let [before, after] = [TWO_RULES, EVERYONE].map(|rules| {
            let text = config(&upstream, rules, &live);
            let file = world.folder.write("ringgate.toml", &text);
            Arc::new(load(&file, &world.clock))
        });
        world.install(&before).unwrap();
        let listener = Arc::clone(&before.listeners[0]);
        drop(before);
        let mut streams = connected(&world, &leaves);
        world.install(&after).unwrap();
        world.eventually(&format!("\"{mode}\": nobody holds the listener"), |_| {
            !Listener::is_held(&listener)
        });
        streams.iter_mut().for_each(echo);
    }
}

/// A handshake that began before is concluded by what is served when it ends.
#[test]
fn a_handshake_under_way_ends_by_what_is_installed_meanwhile() {
    let upstream = Upstream::new(Manner::Echo);
    for (rules, served) in [(TWO_RULES, true), (ONE_RULE, false)] {
        let world = world(&config(&upstream, TWO_RULES, ""));
        let leaves = clients(&world);
        let before = upstream.connections();
        let mut stream = world.connect(&leaves[1]);
        // The hello leaves; the rest of the handshake waits for the answer to be read.
        stream.conn.write_tls(&mut stream.sock).unwrap();
        world.reaches("handshakes going on", 1, Counters::handshaking);
        assert_eq!(install(&world, &config(&upstream, rules, "")).judged, 0);
        if served {
            echo(&mut stream);
            finish(stream);
        } else {
            assert_eq!(alert(stream), AlertDescription::AccessDenied);
            world.closed(CloseReason::PolicyUnmatched, 1);
            assert_eq!(
                upstream.connections(),
                before,
                "no upstream for who is not let in"
            );
        }
    }
}

#[test]
fn a_listener_that_goes_takes_its_clients_along() {
    let upstream = Upstream::new(Manner::Echo);
    let text = config(&upstream, EVERYONE, "");
    let world = world(&text);
    let mut streams = connected(&world, &clients(&world));
    // The same under another name is still the same.
    let review = install(&world, &text.replace("front", "renamed"));
    assert_eq!(review.lost, 0);
    streams.iter_mut().for_each(echo);
    assert_eq!(open(&world), [("renamed".to_owned(), 2)]);
    let elsewhere = text
        .replace("front", "other")
        .replace("127.0.0.1:0", "127.0.0.2:0");
    assert_eq!(install(&world, &elsewhere).lost, 2);
    for stream in streams {
        assert_eq!(told(stream), AlertDescription::AccessDenied);
    }
    world.closed(CloseReason::AccessWithdrawn, 2);
    let mut again = connected(&world, &clients(&world));
    install(&world, &elsewhere.replace("other", "another"));
    again.iter_mut().for_each(echo);
    again.into_iter().for_each(|stream| drop(finish(stream)));
    world.quiet();
    assert_eq!(open(&world), [("another".to_owned(), 0)]);
}

/// Many connections are judged in parts of a turn, and each of them once.
#[test]
fn a_thousand_connections_are_judged() {
    const EACH: usize = 500;
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&config(&upstream, TWO_RULES, ""));
    let leaves = clients(&world);
    let configs: Vec<_> = leaves
        .iter()
        .map(|leaf| world.client_config(Some(leaf), &[&rustls::version::TLS13]))
        .collect();
    let streams: Vec<_> = (0..2 * EACH)
        .map(|at| {
            let config = configs[at % 2].clone();
            let mut stream = world.connect_with(config, crate::world::SERVER_NAME);
            echo(&mut stream);
            stream
        })
        .collect();
    let review = install(&world, &config(&upstream, ONE_RULE, ""));
    assert_eq!((review.judged, review.lost), (2 * EACH as u64, EACH as u64));
    for (at, mut stream) in streams.into_iter().enumerate() {
        if at % 2 == 0 {
            echo(&mut stream);
        } else {
            assert_eq!(told(stream), AlertDescription::AccessDenied);
        }
    }
    world.closed(CloseReason::AccessWithdrawn, EACH as u64);
}

#[test]
fn a_connection_ends_when_its_certificate_expires_if_asked_for() {
    let upstream = Upstream::new(Manner::Echo);
    let long = "idle_timeout = \"168h\"";
    for (asked, reason) in [
        ("true", CloseReason::ExpiredWhileOpen),
        ("false", CloseReason::Complete),
    ] {
        let world = world(&config(
            &upstream,
            EVERYONE,
            &format!("{long}\nclose_on_expiry = {asked}"),
        ));
        let leaf = world.client();
        let mut stream = world.connect(&leaf);
        echo(&mut stream);
        // Valid for ten days from now. Steps are no longer than the idle timeout.
        for _ in 0..2 {
            world.clock.advance(Duration::from_secs(5 * 24 * 3600));
            echo(&mut stream);
        }
        world.clock.advance(Duration::from_secs(1));
        if reason == CloseReason::Complete {
            echo(&mut stream);
            finish(stream);
        } else {
            // A turn sees the new time.
            let _ = world.dial();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "close_notify");
            drop(stream);
        }
        world.closed(reason, 1);
    }
}

#[test]
fn a_connection_ends_at_its_maximum_age() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&config(&upstream, EVERYONE, "max_age = \"100s\""));
    let mut stream = world.connect(&world.client());
    echo(&mut stream);
    world.clock.advance(Duration::from_secs(89));
    echo(&mut stream);
    world.clock.advance(Duration::from_secs(22));
    let _ = world.dial();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "close_notify");
    drop(stream);
    world.closed(CloseReason::MaxAge, 1);
}
