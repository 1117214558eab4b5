//! Bugs that the simulator found, each with what shows it.
