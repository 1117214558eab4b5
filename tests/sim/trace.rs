//! The last things that happened in a run, for the report of a failure.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use ringgate::connection::Side;

const KEPT: usize = 40;

thread_local! {
    static TRACE: RefCell<VecDeque<Entry>> = const { RefCell::new(VecDeque::new()) };
}

#[derive(Clone, Copy)]
struct Entry {
    at: Duration,
    what: &'static str,
    side: Option<Side>,
    number: usize,
}

pub fn clear() {
    TRACE.with_borrow_mut(VecDeque::clear);
}

pub fn add(at: Duration, what: &'static str, side: Option<Side>, number: usize) {
    TRACE.with_borrow_mut(|trace| {
        if trace.len() == KEPT {
            trace.pop_front();
        }
        trace.push_back(Entry {
            at,
            what,
            side,
            number,
        });
    });
}

pub fn text() -> String {
    TRACE.with_borrow(|trace| {
        let line = |entry: &Entry| {
            let side = entry
                .side
                .map_or(String::new(), |side| format!(" {side:?}"));
            format!(
                "  {:>14?} {}{side} {}\n",
                entry.at, entry.what, entry.number
            )
        };
        trace.iter().map(line).collect()
    })
}
