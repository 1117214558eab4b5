//! When a session ticket leaves: alone, or together with an answer.

use std::time::Duration;

use ringgate::connection::{Event, Greeting, Side};
use rustls::ClientConnection;

use crate::hand::{Hand, say};
use crate::support::give_input;

const TICKET_WAIT: Duration = Duration::from_millis(20);

/// After a handshake whose Finished came together with `data`.
fn handshaken(data: &[u8]) -> (Hand, ClientConnection) {
    let mut hand = Hand::new(Greeting::Off);
    let (mut client, mut flight) = hand.client();
    if !data.is_empty() {
        flight.extend(say(&mut client, data));
    }
    hand.receive(flight);
    (hand, client)
}

/// How many tickets are in what was sent to the client since the last time.
fn tickets(hand: &mut Hand, client: &mut ClientConnection) -> u32 {
    let before = client.tls13_tickets_received();
    give_input(client, &std::mem::take(&mut hand.sent[0])).unwrap();
    client.tls13_tickets_received() - before
}

#[test]
fn a_ticket_leaves_at_once_where_nothing_came_behind_the_finished() {
    let (mut hand, mut client) = handshaken(b"");
    assert_eq!(tickets(&mut hand, &mut client), 1);
}

#[test]
fn a_ticket_leaves_with_the_answer_to_what_came_behind_the_finished() {
    let (mut hand, mut client) = handshaken(b"question");
    assert_eq!(hand.sent[0], b"");
    hand.on(Event::Connected(Ok(())));
    assert_eq!(
        (&hand.sent[0][..], &hand.sent[1][..]),
        (&b""[..], &b"question"[..])
    );
    let sends = hand.sends[0];
    hand.on(Event::Received(Side::Upstream, &mut b"answer".to_vec()));
    assert_eq!(hand.sends[0], sends + 1, "in one send");
    assert_eq!(tickets(&mut hand, &mut client), 1);
    // The deadline is that of an idle connection again.
    assert_eq!(hand.reach_deadline(), Duration::from_secs(60));
}

#[test]
fn a_ticket_whose_answer_is_late_leaves_before_it() {
    for is_connected in [false, true] {
        let (mut hand, mut client) = handshaken(b"question");
        if is_connected {
            hand.on(Event::Connected(Ok(())));
        }
        assert_eq!(hand.sent[0], b"");
        assert_eq!(hand.reach_deadline(), TICKET_WAIT);
        assert_eq!(tickets(&mut hand, &mut client), 1);
        // The connect's deadline stands; that of an idle connection begins anew with what leaves.
        let expected = if is_connected {
            Duration::from_secs(60)
        } else {
            Duration::from_secs(5) - TICKET_WAIT
        };
        assert_eq!(hand.reach_deadline(), expected);
        assert!(hand.closed.is_none());
    }
}

#[test]
fn a_ticket_that_waits_leaves_before_the_last_words() {
    let (mut hand, mut client) = handshaken(b"question");
    hand.on(Event::Connected(Ok(())));
    hand.on(Event::Ended(Side::Upstream, Ok(())));
    assert_eq!(tickets(&mut hand, &mut client), 1);
}
