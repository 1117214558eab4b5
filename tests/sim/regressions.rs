//! Bugs found here, each with what shows it.

use std::io::ErrorKind;

use ringgate::close_reason::CloseReason;
use ringgate::connection::{Action, Event, Greeting, Side};
use ringgate::limits::BLOCK_LEN;

use crate::cast::Cast;
use crate::hand::{Hand, say};
use crate::rng::Rng;
use crate::scenario::{ConnectOutcome, Finish, Grain, Scenario, UpstreamEnds};
use crate::support::{Forger, take_output};
use crate::wire::End;
use crate::world::World;

/// Runs a scenario that `change` makes of a calm one, often; the ends.
fn ends(change: impl Fn(&mut Scenario)) -> Vec<CloseReason> {
    let run = |seed| {
        let mut rng = Rng::new(seed);
        let mut scenario = Scenario::calm(&mut rng);
        change(&mut scenario);
        World::new(&scenario, Cast::get(), rng).run().reason
    };
    (0..300).map(run).collect()
}

#[test]
fn a_client_is_told_of_a_connect_that_does_not_even_end() {
    let ends = ends(|scenario| scenario.connects = [ConnectOutcome::Stuck; 3]);
    assert!(ends.contains(&CloseReason::UpstreamConnectTimeout));
}

#[test]
fn an_upstream_that_has_ended_gets_what_came_before_a_truncation() {
    let ends = ends(|scenario| {
        scenario.finish = Finish::Cut(End::Fin);
        (scenario.echo, scenario.upstream_ends) = (false, UpstreamEnds::AfterSpeaking);
    });
    assert!(ends.contains(&CloseReason::ClientTruncated));
}

#[test]
fn a_client_that_is_gone_does_not_take_along_what_it_sent_before() {
    let ends = ends(|scenario| {
        (scenario.finish, scenario.leaves) = (Finish::Cut(End::Fin), true);
        scenario.sends = [Grain::Packet; 2];
    });
    assert!(ends.contains(&CloseReason::ClientTruncated));
}

#[test]
fn a_short_send_to_a_closed_upstream_is_given_up() {
    let ends = ends(|scenario| {
        scenario.command = Some((scenario.client_volume % 200 + 20, CloseReason::Drained));
        scenario.sends = [Grain::Few; 2];
    });
    assert!(ends.contains(&CloseReason::Drained));
}

/// With the greeting in the first block, the last record behind a Finished may not fit into it. It
/// waited for the client to send something else.
#[test]
fn a_record_behind_the_finished_that_does_not_fit_beside_the_greeting_is_relayed() {
    const AT_ONCE: usize = 10;
    let mut hand = Hand::new(Greeting::ProxyV2 {
        client_certificate: true,
    });
    let (mut client, mut flight) = hand.client();
    let mut last = flight.split_off(flight.len() - AT_ONCE);
    let data = vec![7; BLOCK_LEN - AT_ONCE - 4 * 22];
    last.extend(say(&mut client, &data));
    assert_eq!(last.len(), BLOCK_LEN, "one receive");
    hand.receive(flight);
    hand.receive(last);
    hand.on(Event::Connected(Ok(())));
    assert!(hand.sent[1].ends_with(&data));
}

/// Where there is no upstream, carrying out the connect ends the connection, which then reads its client
/// until that is gone: it stopped again, for what had come behind the Finished.
#[test]
fn nothing_that_was_wanted_before_a_connect_comes_after_it() {
    let mut hand = Hand::new(Greeting::ProxyV2 {
        client_certificate: true,
    });
    let (mut client, mut flight) = hand.client();
    let mut last = flight.split_off(flight.len() - 10);
    last.extend(say(&mut client, &[7; BLOCK_LEN - 10 - 4 * 22]));
    hand.receive(flight);
    let actions = hand.actions(Event::Received(Side::Client, &mut last));
    let stops = |action: &Action| matches!(action, Action::StopReceiving(Side::Client));
    assert!(actions.iter().any(stops), "{actions:?}");
    assert!(matches!(actions.last(), Some(Action::Connect(_))));
}

#[test]
fn a_client_that_breaks_the_protocol_at_once_is_not_connected_for() {
    let mut hand = Hand::new(Greeting::Off);
    let (client, mut flight) = hand.client();
    flight.extend(Forger::pair(client).0.record(23, b"x", 1 << 14));
    flight.push(23);
    let actions = hand.actions(Event::Received(Side::Client, &mut flight));
    let connects = |action: &Action| matches!(action, Action::Connect(_));
    assert!(!actions.iter().any(connects), "{actions:?}");
}

/// It never returned: a record that the block in use had no room for was tried with the same block
/// again.
#[test]
fn a_record_longer_than_allowed_does_not_wait_for_room_for_ever() {
    let mut hand = Hand::new(Greeting::Off);
    let (client, flight) = hand.client();
    hand.receive(flight);
    let mut forger = Forger::pair(client).0;
    // Beside these there is room for a record of the greatest length, but not for its padding too.
    for len in [1 << 14, 1 << 14, (1 << 14) - 52] {
        hand.receive(forger.data(&vec![7; len]));
    }
    hand.receive(forger.record(23, &[7; 1 << 14], 200));
    hand.on(Event::Deadline);
    assert_eq!(hand.closed, Some(CloseReason::RecordTooLong));
}

/// Clients that close with something unread reset the connection behind their last words.
#[test]
fn what_was_said_before_close_notify_outlives_a_reset() {
    for says_goodbye in [true, false] {
        let mut hand = Hand::new(Greeting::Off);
        let (mut client, flight) = hand.client();
        hand.receive(flight);
        hand.receive(say(&mut client, b"the last words"));
        if says_goodbye {
            client.send_close_notify();
            hand.receive(take_output(&mut client));
        }
        let reset = Err(ErrorKind::ConnectionReset.into());
        hand.on(Event::Ended(Side::Client, reset));
        assert_eq!(hand.closed.is_none(), says_goodbye);
        hand.on(Event::Connected(Ok(())));
        assert_eq!(hand.closed, Some(CloseReason::ClientReset));
        let expected: &[u8] = if says_goodbye { b"the last words" } else { b"" };
        assert_eq!(hand.sent[1], expected);
        // One that is stuck with its answer would take no more.
        assert_eq!(hand.reads[1], says_goodbye);
    }
}
