//! `curl` through Ringgate to nginx.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::gate::{Chains, Gate};
use crate::nginx::Nginx;
use crate::pki::{Identity, Key, SERVER_NAME};
use crate::program;
use crate::scenario::{Refused, noise, sha256};

/// Exit code of curl when the peer ends the connection with an alert while it receives.
const RECEIVE_ERROR: i32 = 56;

struct Scene {
    curl: PathBuf,
    nginx: Nginx,
    gate: Gate,
}

impl Scene {
    fn new(chains: Chains) -> Option<Self> {
        let curl = program::find("curl")?;
        let nginx = Nginx::http()?;
        let gate = Gate::before(nginx.address, chains);
        Some(Self { curl, nginx, gate })
    }

    fn get(&self, path: &str, identity: Option<&Identity>, more: &[&str]) -> Output {
        let (ip, port) = (self.gate.address.ip(), self.gate.address.port());
        let mut command = Command::new(&self.curl);
        // First, or a `.curlrc` counts.
        command.args(["--disable", "--silent", "--show-error", "--max-time", "60"]);
        command
            .arg("--resolve")
            .arg(format!("{SERVER_NAME}:{port}:{ip}"));
        command.arg("--cacert").arg(&self.gate.server_root);
        if let Some(identity) = identity {
            command
                .arg("--cert")
                .arg(&identity.chain)
                .arg("--key")
                .arg(&identity.key);
        }
        command
            .args(more)
            .arg(format!("https://{SERVER_NAME}:{port}{path}"));
        command.output().unwrap()
    }

    /// Gets `/who`, and holds nginx's answer against the address that curl had itself.
    fn assert_known(&self) {
        let answer = self.gate.folder().join("answer");
        let more = [
            "--output",
            answer.to_str().unwrap(),
            "--write-out",
            "%{local_ip} %{local_port}",
        ];
        let output = self.get("/who", Some(&self.gate.client), &more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{}", self.gate.log());
        let own = String::from_utf8(output.stdout).unwrap();
        assert_eq!(fs::read_to_string(answer).unwrap(), own);
        self.nginx.assert_told(&self.gate, "http/1.1");
    }
}

fn assert_reaches(chains: Chains) {
    if let Some(scene) = Scene::new(chains) {
        scene.assert_known();
    }
}

#[test]
fn p256_reaches_nginx() {
    assert_reaches(Chains::P256);
}

#[test]
fn rsa2048_reaches_nginx() {
    assert_reaches(Chains {
        key: Key::Rsa2048,
        ..Chains::P256
    });
}

#[test]
fn ed25519_reaches_nginx() {
    assert_reaches(Chains {
        key: Key::Ed25519,
        ..Chains::P256
    });
}

#[test]
fn one_intermediate_reaches_nginx() {
    assert_reaches(Chains {
        intermediate: true,
        ..Chains::P256
    });
}

#[test]
fn ten_megabytes_are_put_and_got_unchanged() {
    let Some(scene) = Scene::new(Chains::P256) else {
        return;
    };
    let (sent, got) = (
        scene.gate.folder().join("sent"),
        scene.gate.folder().join("got"),
    );
    let payload = noise(10_000_000);
    fs::write(&sent, &payload).unwrap();
    let transfer = |flag: &str, file: &Path| {
        let more = ["--fail", flag, file.to_str().unwrap()];
        let output = scene.get("/file", Some(&scene.gate.client), &more);
        assert!(output.status.success(), "{output:?}\n{}", scene.gate.log());
    };
    transfer("--upload-file", &sent);
    assert_eq!(
        sha256(&fs::read(scene.nginx.folder().join("file")).unwrap()),
        sha256(&payload)
    );
    transfer("--output", &got);
    assert_eq!(sha256(&fs::read(got).unwrap()), sha256(&payload));
}

fn assert_refused(refused: Refused, shown: &str) {
    let Some(scene) = Scene::new(Chains::P256) else {
        return;
    };
    let output = scene.get("/who", refused.identity(&scene.gate).as_ref(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(RECEIVE_ERROR),
        "{said}\n{}",
        scene.gate.log()
    );
    assert!(said.contains(shown), "`{shown}` in {said}");
    assert!(output.stdout.is_empty());
    // One that may enter comes after it, and is the only one that nginx logs.
    scene.assert_known();
}

#[test]
fn without_a_certificate_is_refused() {
    assert_refused(Refused::NoCertificate, "alert certificate required");
}

#[test]
fn from_another_ca_is_refused() {
    assert_refused(Refused::OtherCa, "alert unknown ca");
}

#[test]
fn expired_is_refused() {
    assert_refused(Refused::Expired, "alert certificate expired");
}

#[test]
fn without_client_auth_is_refused() {
    assert_refused(Refused::NoClientAuth, "alert unsupported certificate");
}

#[test]
fn denied_by_policy_is_refused() {
    assert_refused(Refused::Policy, "alert access denied");
}
