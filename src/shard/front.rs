//! A listener as one shard serves it.

use std::rc::Rc;
use std::sync::Arc;

use super::counters::ListenerCounters;
use super::upstreams::Group;
use crate::connection::{Greeting, Settings};
use crate::snapshot::{self, Listener};

/// What the connections of a listener share. After another snapshot was installed, a connection
/// keeps the front that it came by until its client was judged again, see `review`.
#[derive(Debug)]
pub(super) struct Front {
    /// That of the installation it came with; 0 for what was there from the start.
    pub(super) generation: u64,
    pub(super) listener: Arc<Listener>,
    pub(super) settings: Arc<Settings>,
    /// With the indices of the listener's routes.
    pub(super) groups: Vec<Group>,
    pub(super) counters: Arc<ListenerCounters>,
}

impl Front {
    /// `before` is what served the listener of that name until now.
    pub(super) fn new(
        listener: &Arc<Listener>,
        counters: Arc<ListenerCounters>,
        generation: u64,
        before: Option<&Self>,
    ) -> Rc<Self> {
        let groups = listener.routes.iter().map(|route| {
            let before = before.and_then(|before| {
                let mut routes = before.listener.routes.iter();
                let at = routes.position(|known| known.name == route.name)?;
                before.groups.get(at)
            });
            Group::new(route, before)
        });
        Rc::new(Self {
            generation,
            groups: groups.collect(),
            counters,
            settings: Arc::new(settings(listener)),
            listener: Arc::clone(listener),
        })
    }
}

/// A listener's settings in the form that connections read.
fn settings(listener: &Listener) -> Settings {
    Settings {
        greeting: match listener.greeting {
            snapshot::Greeting::Off => Greeting::Off,
            snapshot::Greeting::ProxyV2 { client_certificate } => {
                Greeting::ProxyV2 { client_certificate }
            }
        },
        handshake_timeout: listener.timeouts.handshake,
        idle_timeout: listener.timeouts.idle,
        connect_timeout: listener.timeouts.connect,
        half_close_timeout: listener.timeouts.half_close,
    }
}
