//! How many connections and handshakes a shard takes on.

/// Counts what is open against the bounds.
pub(super) struct Admission {
    connections: usize,
    connections_max: usize,
    handshakes: usize,
    handshakes_max: usize,
}

impl Admission {
    pub(super) fn new(connections_max: usize, handshakes_max: usize) -> Self {
        Self {
            connections: 0,
            connections_max,
            handshakes: 0,
            handshakes_max,
        }
    }

    /// Changes the bounds. What is open beyond them stays.
    pub(super) fn set_bounds(&mut self, connections_max: usize, handshakes_max: usize) {
        self.connections_max = connections_max;
        self.handshakes_max = handshakes_max;
    }

    /// Counts a new connection, which begins with a handshake, unless a bound is reached.
    pub(super) fn admit(&mut self) -> bool {
        let admitted =
            self.connections < self.connections_max && self.handshakes < self.handshakes_max;
        if admitted {
            self.connections += 1;
            self.handshakes += 1;
        }
        admitted
    }

    pub(super) fn handshake_done(&mut self) {
        self.handshakes -= 1;
    }

    pub(super) fn connection_done(&mut self) {
        self.connections -= 1;
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn handshakes(&self) -> usize {
        self.handshakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_free_up() {
        let mut admission = Admission::new(3, 2);
        assert!(admission.admit() && admission.admit());
        assert!(!admission.admit(), "a third handshake at once");
        admission.handshake_done();
        assert!(admission.admit());
        admission.handshake_done();
        assert!(!admission.admit(), "a fourth connection");
        admission.connection_done();
        assert!(admission.admit());
        assert_eq!((admission.connections(), admission.handshakes()), (3, 2));
    }
}
