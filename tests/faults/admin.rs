//! What a process says over its admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::gate::Gate;

/// Of a configuration.
pub const ADMIN: &str = "[admin]\nsocket = \"admin.sock\"\n";

pub fn connect(gate: &Gate) -> UnixStream {
    UnixStream::connect(gate.scratch.path("admin.sock")).unwrap()
}

/// What the process that answers at the admin socket says to `request`.
pub fn asked(gate: &Gate, request: &[u8]) -> String {
    let mut stream = connect(gate);
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn is_serving(gate: &Gate) -> bool {
    asked(gate, b"GET /readyz HTTP/1.0\r\n\r\n").contains("200 OK")
}

/// The sum of a metric over all its labels.
#[track_caller]
pub fn metric(gate: &Gate, name: &str) -> f64 {
    let answer = asked(gate, b"GET /metrics HTTP/1.0\r\n\r\n");
    let of_name = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let lines: Vec<&str> = answer.lines().filter(of_name).collect();
    assert!(!lines.is_empty(), "no {name} in {answer}");
    let values = lines.iter().map(|line| line.rsplit(' ').next().unwrap());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}
