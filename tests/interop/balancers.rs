//! Load balancers in front of Ringgate that say who their clients are.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::echo::Echo;
use crate::gate::{Chains, Gate};
use crate::nginx;
use crate::openssl::SClient;
use crate::program::{self, Scratch, Service, free_address};
use crate::scenario::{Client, assert_echoed, assert_introduced, connect, noise};

/// A client through a load balancer that `start` runs on one address in front of another; its log
/// and configuration are in the folder.
fn introduces(start: impl FnOnce(SocketAddr, SocketAddr, &Path) -> Option<Service>) {
    let Some(openssl) = program::find(SClient::PROGRAM) else {
        return;
    };
    let echo = Echo::with_greeting(free_address());
    let mut gate = Gate::configured(Chains::P256, |address| {
        format!(
            r#"
            [shards]
            count = 1

            [[listener]]
            address = "{address}"
            accept_proxy = "127.0.0.0/8"
            certificate = "server.pem"
            key = "server.key"
            client_ca = "client-root.pem"
            upstream = "{}"
            alpn = ["echo"]
            rule = [{{ name = "billing", allow = {{ any = true }} }}]
            "#,
            echo.address
        )
    });
    let (scratch, front) = (Scratch::named("balancer"), free_address());
    let Some(_balancer) = start(front, gate.address, scratch.path()) else {
        return;
    };
    // Clients know the load balancer's address alone, and so will the upstream.
    gate.address = front;
    let payload = noise(1000);
    let exchanged = connect::<SClient>(&openssl, &gate, Some(&gate.client), &payload);
    assert_echoed(&exchanged, &payload, &gate);
    assert_introduced(&echo.ended(1)[0], &gate);
}

/// With this option of its server line.
fn haproxy(option: &str) {
    introduces(|front, gate, folder| {
        let program = program::find("haproxy")?;
        let config = format!(
            "defaults\n mode tcp\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind {front}\n server gate {gate} {option}\n"
        );
        Some(run(program, &["-db", "-f"], &config, folder, front))
    });
}

fn run(program: PathBuf, args: &[&str], config: &str, folder: &Path, front: SocketAddr) -> Service {
    let file = folder.join("balancer.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(&file).current_dir(folder);
    Service::start(&mut command, &folder.join("balancer.log"), front)
}

#[test]
fn haproxy_with_version_1() {
    haproxy("send-proxy");
}

#[test]
fn haproxy_with_version_2() {
    haproxy("send-proxy-v2");
}

#[test]
fn haproxy_with_tlvs_and_a_checksum() {
    haproxy("send-proxy-v2 proxy-v2-options crc32c,unique-id");
}

#[test]
fn nginx_with_version_1() {
    introduces(|front, gate, folder| {
        let program = program::find("nginx")?;
        let load = nginx::load_stream(&program)?;
        let config = format!(
            "{load} daemon off; master_process off; pid {}/pid; events {{}}
             stream {{ server {{ listen {front}; proxy_pass {gate}; proxy_protocol on; }} }}",
            folder.display()
        );
        Some(run(
            program,
            &["-e", "stderr", "-c"],
            &config,
            folder,
            front,
        ))
    });
}
