//! Node's `tls`.

use std::process::Command;

use crate::gate::Gate;
use crate::pki::{Identity, SERVER_NAME};
use crate::scenario::{Alert, Client};

struct Node;

impl Client for Node {
    const PROGRAM: &str = "node";

    fn arguments(command: &mut Command, gate: &Gate, identity: Option<&Identity>) {
        command.args(["-e", include_str!("relay.js"), "--"]);
        command
            .arg(gate.address.ip().to_string())
            .arg(gate.address.port().to_string());
        command.arg(SERVER_NAME).arg(&gate.server_root);
        if let Some(identity) = identity {
            command.arg(&identity.chain).arg(&identity.key);
        }
    }

    fn shows(alert: Alert) -> String {
        format!("SSL alert number {}", alert.number)
    }
}

crate::scenario::scenarios!(Node);
