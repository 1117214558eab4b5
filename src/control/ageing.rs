//! Telling in time what is about to expire: where what renews certificates and CRLs has failed,
//! nothing is reloaded any more that would tell.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::log;
use crate::clock::Clock;
use crate::snapshot::{Expiry, Snapshot};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(3600);

/// What the log knows of what expires.
pub(super) struct Ageing {
    next: Instant,
    /// Each with whether it has expired.
    told: HashSet<(Expiry, bool)>,
}

impl Ageing {
    /// The log has the warnings of `snapshot`.
    pub(super) fn new(snapshot: &Snapshot, clock: &Clock) -> Self {
        Self {
            next: clock.now() + LOOK,
            told: late(snapshot, clock).collect(),
        }
    }

    /// Warns of what has become late or expired since it was last told.
    pub(super) fn look(&mut self, snapshot: &Snapshot, clock: &Clock) {
        if clock.now() < self.next {
            return;
        }
        let known = std::mem::replace(self, Self::new(snapshot, clock)).told;
        for (expiry, _) in self.told.difference(&known) {
            log::expiring(expiry, seconds(clock));
        }
    }
}

fn late<'a>(snapshot: &'a Snapshot, clock: &Clock) -> impl Iterator<Item = (Expiry, bool)> + 'a {
    let now = seconds(clock);
    let late = snapshot.expiries.iter();
    let late = late.filter(move |expiry| expiry.is_late(now));
    late.map(move |expiry| (expiry.clone(), expiry.left(now) < 0))
}

fn seconds(clock: &Clock) -> i64 {
    i64::try_from(clock.unix().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::fake::{loaded, logged};
    use crate::snapshot::ExpiryKind;

    #[test]
    fn what_expires_while_nothing_is_reloaded_is_told_once_each_time() {
        let clock = Clock::manual(Duration::ZERO);
        let mut snapshot = Arc::into_inner(loaded().snapshot).unwrap();
        snapshot.expiries = vec![Expiry {
            kind: ExpiryKind::Crl,
            file: "revoked.pem".into(),
            name: "CN=clients".to_owned(),
            from: 0,
            until: 100 * 3600,
        }];
        let mut ageing = Ageing::new(&snapshot, &clock);
        let mut told = Vec::new();
        for hour in 1..200 {
            clock.advance(LOOK);
            let text = logged(|| {
                ageing.look(&snapshot, &clock);
                ageing.look(&snapshot, &clock);
            });
            if !text.is_empty() {
                assert!(
                    text.contains("crl revoked.pem (issuer CN=clients)"),
                    "{text}"
                );
                assert!(text.contains("remedy="), "{text}");
                told.push((hour, text.lines().count()));
            }
        }
        assert_eq!(told, [(81, 1), (101, 1)]);
        // What was late when it was loaded has been told.
        let text = logged(|| {
            let mut ageing = Ageing::new(&snapshot, &clock);
            clock.advance(LOOK);
            ageing.look(&snapshot, &clock);
        });
        assert_eq!(text, "");
    }
}
