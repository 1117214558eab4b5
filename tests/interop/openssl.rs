//! `openssl s_client`.

use std::process::Command;

use crate::gate::Gate;
use crate::pki::{Identity, SERVER_NAME};
use crate::scenario::{Alert, Client};

pub struct SClient;

impl Client for SClient {
    const PROGRAM: &str = "openssl";

    fn arguments(command: &mut Command, gate: &Gate, identity: Option<&Identity>) {
        // Quiet, it would stay when its input ends; and it would take `Q` in a line's first place
        // for a command.
        command.args([
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-nocommands",
            "-verify_return_error",
        ]);
        command.args(["-servername", SERVER_NAME, "-verify_hostname", SERVER_NAME]);
        command.args(["-alpn", "echo"]);
        command.arg("-connect").arg(gate.address.to_string());
        command.arg("-CAfile").arg(&gate.server_root);
        if let Some(identity) = identity {
            command
                .arg("-cert")
                .arg(&identity.chain)
                .arg("-key")
                .arg(&identity.key);
        }
        // It sends nothing but the leaf of `-cert`.
        if let Some(file) = identity.and_then(|identity| identity.intermediates.as_ref()) {
            command.arg("-cert_chain").arg(file);
        }
    }

    fn shows(alert: Alert) -> String {
        format!("SSL alert number {}", alert.number)
    }
}

crate::scenario::scenarios!(SClient);
