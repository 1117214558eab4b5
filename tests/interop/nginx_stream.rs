//! nginx's stream module behind Ringgate, logging what PROXY v2 told it.

use crate::echo::Echo;
use crate::gate::{Chains, Gate};
use crate::nginx::Nginx;
use crate::openssl::SClient;
use crate::pki::{CLIENT_NAME, CLIENT_URI, SERVER_NAME};
use crate::program::{self, free_address};
use crate::scenario::{Client, assert_echoed, connect, noise};

#[test]
fn nginx_logs_who_came() {
    let Some(openssl) = program::find(SClient::PROGRAM) else {
        return;
    };
    let echo = Echo::plain(free_address());
    let Some(nginx) = Nginx::stream(echo.address) else {
        return;
    };
    let gate = Gate::before(nginx.address, Chains::P256);
    let payload = noise(1000);
    let exchanged = connect::<SClient>(&openssl, &gate, Some(&gate.client), &payload);
    assert_echoed(&exchanged, &payload, &gate);
    let told = nginx.told(1);
    // The line that Nginx::start's probe leaves has no addresses.
    let told = told.iter().find(|line| !line.contains(" port=- ")).unwrap();
    let (ip, port) = (gate.address.ip(), gate.address.port());
    let mut expected = vec!["addr=127.0.0.1".to_owned()];
    expected.push(format!("server_addr={ip}"));
    expected.push(format!("server_port={port}"));
    if nginx.logs_tlvs {
        expected.push(format!("tlv_authority={SERVER_NAME}"));
        expected.push("tlv_alpn=echo".to_owned());
        expected.push("tlv_ssl_version=TLSv1.3".to_owned());
        expected.push(format!("tlv_ssl_cn={CLIENT_NAME}"));
        expected.push("tlv_ssl_verify=0".to_owned());
        expected.push(format!("tlv_0xe0={CLIENT_URI}"));
        expected.push("tlv_0xe3=billing".to_owned());
    } else {
        program::skip("what TLVs say: this nginx is too old to log them");
    }
    let words: Vec<&str> = told.split(' ').collect();
    for word in expected {
        assert!(words.contains(&word.as_str()), "{word} in {told}");
    }
}
