//! An end at every byte: of what the client sends, of what the upstream sends, and of what they
//! take.

use ringgate::close_reason::CloseReason;
use ringgate::connection::Greeting;

use crate::cast::Cast;
use crate::rng::Rng;
use crate::scenario::{Grain, Opening, Scenario};
use crate::trace;
use crate::wire::{Cut, End};
use crate::world::{Outcome, World};

const ENDS: [Option<End>; 3] = [Some(End::Fin), Some(End::Reset), None];

/// A small connection on which both sides say something.
fn scenario(tls12: bool) -> Scenario {
    let mut scenario = Scenario::calm(&mut Rng::new(1));
    scenario.tls12 = tls12;
    scenario.opening = Opening::Tls;
    scenario.greeting = Greeting::ProxyV2 {
        client_certificate: false,
    };
    // One byte per record, so that every run sends as many bytes as the first.
    (
        scenario.client_volume,
        scenario.chunk_max,
        scenario.key_updates,
    ) = (12, 1, None);
    (scenario.upstream_volume, scenario.echo) = (60, false);
    scenario.receives = [Grain::Packet; 2];
    scenario.sends = [Grain::Packet; 2];
    scenario
}

fn run(scenario: &Scenario, seed: usize) -> Outcome {
    trace::clear();
    let rng = Rng::new(u64::try_from(seed).unwrap());
    World::new(scenario, Cast::get(), rng).run()
}

/// Runs `scenario` as `cut` changes it at every one of the bytes that `len` counts.
fn at_every_byte(
    len: impl Fn(&Outcome) -> usize,
    cut: impl Fn(&mut Scenario, usize, Option<End>),
) -> Vec<CloseReason> {
    let mut reasons = Vec::new();
    for tls12 in [false, true] {
        let whole = run(&scenario(tls12), 0);
        assert_eq!(whole.reason, CloseReason::Complete);
        for at in 0..len(&whole) {
            for end in ENDS {
                let mut scenario = scenario(tls12);
                cut(&mut scenario, at, end);
                reasons.push(run(&scenario, at).reason);
            }
        }
    }
    reasons
}

fn assert_all(reasons: &[CloseReason], expected: &[CloseReason]) {
    for reason in reasons {
        assert!(expected.contains(reason), "ended as {reason}");
    }
    for reason in expected {
        assert!(reasons.contains(reason), "none ended as {reason}");
    }
}

#[test]
fn the_client_ends_at_every_byte() {
    let reasons = at_every_byte(
        |whole| whole.sent[0],
        |scenario, at, end| scenario.trouble[0].cut = Some(Cut { at, end }),
    );
    assert_all(
        &reasons,
        &[
            CloseReason::ClientGoneInHandshake,
            CloseReason::ClientReset,
            CloseReason::ClientTruncated,
            CloseReason::HandshakeTimeout,
            CloseReason::IdleTimeout,
        ],
    );
}

#[test]
fn the_upstream_ends_at_every_byte() {
    let reasons = at_every_byte(
        |whole| whole.sent[1],
        |scenario, at, end| scenario.trouble[1].cut = Some(Cut { at, end }),
    );
    assert_all(
        &reasons,
        &[
            CloseReason::Complete,
            CloseReason::IdleTimeout,
            CloseReason::UpstreamReset,
        ],
    );
}

#[test]
fn the_client_reads_no_more_at_every_byte() {
    let reasons = at_every_byte(
        |whole| whole.taken[0],
        |scenario, at, _| scenario.reads_until[0] = Some(at),
    );
    assert_all(
        &reasons,
        &[CloseReason::HandshakeTimeout, CloseReason::IdleTimeout],
    );
}

#[test]
fn the_upstream_reads_no_more_or_resets_at_every_byte() {
    let reasons = at_every_byte(
        |whole| whole.taken[1],
        |scenario, at, end| match end {
            None => scenario.reads_until[1] = Some(at),
            Some(_) => scenario.breaks_at = Some(at),
        },
    );
    assert_all(
        &reasons,
        &[
            // The reset came behind the upstream's FIN.
            CloseReason::Complete,
            CloseReason::IdleTimeout,
            CloseReason::UpstreamReset,
        ],
    );
}
