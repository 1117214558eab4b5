//! Did the upstream learn who the client is? The echo upstream writes down what PROXY v2 told it;
//! the client, which knows its own address and what it presented, compares.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::proxy_header::ProxyHeader;

/// What the upstream was told about one client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    pub fingerprint: Option<[u8; 32]>,
    pub spiffe_id: Option<Vec<u8>>,
    /// Whether the client had resumed a session; `None` where nothing was said.
    pub resumed: Option<bool>,
}

impl From<&ProxyHeader> for Report {
    fn from(header: &ProxyHeader) -> Self {
        Self {
            fingerprint: header.leaf_fingerprint(),
            spiffe_id: header.spiffe_id.clone(),
            resumed: header.resumed,
        }
    }
}

/// Reports by the client's address. Echo upstream and load share it within the process.
#[derive(Debug, Default)]
pub struct Delivered(Mutex<HashMap<SocketAddr, Report>>);

impl Delivered {
    /// Clients whose report may wait; past it reports are dropped, which shows as mismatches.
    const WAITING_MAX: usize = 1 << 17;

    pub fn report(&self, client: SocketAddr, report: Report) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < Self::WAITING_MAX {
            waiting.insert(client, report);
        }
    }

    fn take(&self, client: &SocketAddr) -> Option<Report> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(client)
    }

    /// Whether the upstream was told of exactly this client. A missing report is a no.
    pub fn matches(
        &self,
        client: &SocketAddr,
        fingerprint: Option<&[u8; 32]>,
        spiffe_id: Option<&str>,
        resumed: bool,
    ) -> bool {
        let Some(report) = self.take(client) else {
            return false;
        };
        let same_id = match spiffe_id {
            None => true,
            Some(id) => report.spiffe_id.as_deref() == Some(id.as_bytes()),
        };
        let same_kind = report.resumed.is_none_or(|said| said == resumed);
        same_kind
            && report.fingerprint.is_some()
            && report.fingerprint.as_ref() == fingerprint
            && same_id
    }
}

/// How many connections were compared, and how many did not fit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct IdentityCounts {
    pub checked: u64,
    pub mismatched: u64,
    /// Of these, on connections that had resumed a session.
    pub resumed_checked: u64,
    pub resumed_mismatched: u64,
}

impl IdentityCounts {
    pub fn count(&mut self, matched: bool, resumed: bool) {
        self.checked += 1;
        self.mismatched += u64::from(!matched);
        self.resumed_checked += u64::from(resumed);
        self.resumed_mismatched += u64::from(resumed && !matched);
    }

    pub fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.mismatched += other.mismatched;
        self.resumed_checked += other.resumed_checked;
        self.resumed_mismatched += other.resumed_mismatched;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "spiffe://demo.example/client/1";

    fn told(fingerprint: Option<[u8; 32]>, id: Option<&str>) -> bool {
        let delivered = Delivered::default();
        let client = SocketAddr::from(([127, 0, 0, 1], 4000));
        let report = Report {
            fingerprint,
            spiffe_id: id.map(|id| id.as_bytes().to_vec()),
            resumed: None,
        };
        delivered.report(client, report);
        let matches = delivered.matches(&client, Some(&[1; 32]), Some(ID), false);
        assert!(
            !delivered.matches(&client, Some(&[1; 32]), Some(ID), false),
            "a report counts once"
        );
        matches
    }

    #[test]
    fn only_the_same_identity_matches() {
        assert!(told(Some([1; 32]), Some(ID)));
        assert!(!told(Some([2; 32]), Some(ID)));
        assert!(!told(Some([1; 32]), Some("spiffe://demo.example/client/2")));
        assert!(!told(Some([1; 32]), None));
        assert!(!told(None, Some(ID)));
    }

    #[test]
    fn what_was_said_of_resumption_must_fit() {
        for (said, resumed, fits) in [
            (Some(true), true, true),
            (Some(false), true, false),
            (Some(true), false, false),
            (None, true, true),
        ] {
            let delivered = Delivered::default();
            let client = SocketAddr::from(([127, 0, 0, 1], 4000));
            let report = Report {
                fingerprint: Some([1; 32]),
                resumed: said,
                ..Report::default()
            };
            delivered.report(client, report);
            let matches = delivered.matches(&client, Some(&[1; 32]), None, resumed);
            assert_eq!(matches, fits, "{said:?} {resumed}");
        }
    }

    #[test]
    fn a_client_without_certificate_never_matches() {
        let delivered = Delivered::default();
        let client = SocketAddr::from(([127, 0, 0, 1], 4000));
        delivered.report(client, Report::default());
        assert!(!delivered.matches(&client, None, None, false));
    }
}
