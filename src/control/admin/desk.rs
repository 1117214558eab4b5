//! Where questions wait for the control loop, which alone knows the answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use hyper::StatusCode;

use crate::control::takeover::Passed;

/// Questions that may wait.
const WAITING_MAX: usize = 128;

/// What somebody wants to know, or have done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::control) enum Question {
    /// Ends open connections once they are through, then the process.
    Drain,
    /// Who of the open connections would lose their right if the files were loaded now.
    DryRun,
    /// Logs from this level on.
    LogLevel(crate::config::LogLevel),
    Metrics,
    Live,
    Ready,
    /// A successor accepts connections: drains. Nobody can ask this over HTTP.
    Release,
    Reload,
    Status,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(in crate::control) struct Answer {
    pub(in crate::control) status: StatusCode,
    pub(in crate::control) content_type: &'static str,
    pub(in crate::control) body: String,
}

impl Answer {
    /// A line for people.
    pub(in crate::control) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut body = text.into();
        if !body.ends_with('\n') {
            body.push('\n');
        }
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body,
        }
    }

    pub(in crate::control) fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Self {
                status,
                content_type: "application/json",
                body: body + "\n",
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// Every listening socket, or why they are not to be had.
pub(in crate::control) type Lent = Result<Vec<Passed>, String>;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(in crate::control) struct Asker<T = Answer>(LocalSender<T>);

impl<T> Asker<T> {
    pub(in crate::control) fn answer(&self, answer: T) {
        // Who asked may have left.
        let _ = self.0.try_send(answer);
    }
}

/// Questions that were asked and are not answered yet.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Desk {
    waiting: Rc<RefCell<VecDeque<(Question, Asker)>>>,
    borrowing: Rc<RefCell<VecDeque<Asker<Lent>>>>,
}

impl Desk {
    /// Asks; `None` where too many are waiting.
    pub(super) fn ask(&self, question: Question) -> Option<LocalReceiver<Answer>> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let (sender, receiver) = local_channel::new_bounded(1);
        waiting.push_back((question, Asker(sender)));
        Some(receiver)
    }

    /// Asks for the listening sockets; `None` where somebody does already.
    pub(super) fn borrow_sockets(&self) -> Option<LocalReceiver<Lent>> {
        let mut borrowing = self.borrowing.borrow_mut();
        if !borrowing.is_empty() {
            return None;
        }
        let (sender, receiver) = local_channel::new_bounded(1);
        borrowing.push_back(Asker(sender));
        Some(receiver)
    }

    /// Who wants the listening sockets.
    pub(in crate::control) fn next_borrower(&self) -> Option<Asker<Lent>> {
        self.borrowing.borrow_mut().pop_front()
    }

    /// The question that has waited longest.
    pub(in crate::control) fn next(&self) -> Option<(Question, Asker)> {
        self.waiting.borrow_mut().pop_front()
    }
}
