//! `gnutls-cli`.

use std::process::Command;

use crate::gate::Gate;
use crate::pki::{Identity, SERVER_NAME};
use crate::scenario::{Alert, Client};

struct GnuTls;

impl Client for GnuTls {
    const PROGRAM: &str = "gnutls-cli";

    fn arguments(command: &mut Command, gate: &Gate, identity: Option<&Identity>) {
        // Its own remarks would stand between the bytes that come back.
        command.arg("--logfile=/dev/stderr").arg("--alpn=echo");
        command.arg(format!("--sni-hostname={SERVER_NAME}"));
        command.arg(format!("--verify-hostname={SERVER_NAME}"));
        command.arg("--x509cafile").arg(&gate.server_root);
        if let Some(identity) = identity {
            command.arg("--x509certfile").arg(&identity.chain);
            command.arg("--x509keyfile").arg(&identity.key);
        }
        command.arg("--port").arg(gate.address.port().to_string());
        command.arg(gate.address.ip().to_string());
    }

    fn shows(alert: Alert) -> String {
        format!("Received alert [{}]", alert.number)
    }
}

crate::scenario::scenarios!(GnuTls);
