//! Python's `ssl`.

use std::process::Command;

use crate::gate::Gate;
use crate::pki::{Identity, SERVER_NAME};
use crate::scenario::{Alert, Client};

struct Python;

impl Client for Python {
    const PROGRAM: &str = "python3";

    fn arguments(command: &mut Command, gate: &Gate, identity: Option<&Identity>) {
        command.args(["-c", include_str!("relay.py")]);
        command
            .arg(gate.address.ip().to_string())
            .arg(gate.address.port().to_string());
        command.arg(SERVER_NAME).arg(&gate.server_root);
        if let Some(identity) = identity {
            command.arg(&identity.chain).arg(&identity.key);
        }
    }

    fn shows(alert: Alert) -> String {
        format!("ALERT_{}", alert.name)
    }
}

crate::scenario::scenarios!(Python);
