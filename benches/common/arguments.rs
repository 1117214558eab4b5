//! Arguments of a bench. What cargo adds of its own is passed over.
#![allow(dead_code, reason = "each bench uses its part")]

/// The text behind the argument `name`.
pub fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

/// The number behind the argument `name`.
pub fn number(name: &str, default: u32) -> u32 {
    match argument(name).map(|text| text.parse()) {
        None => default,
        Some(Ok(value @ 1..)) => value,
        Some(_) => panic!("{name} takes a number from 1 on"),
    }
}
