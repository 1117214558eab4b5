//! The ring against plain sockets: whatever plain sockets send arrives, and the other way round.

mod echo;
mod faults;
