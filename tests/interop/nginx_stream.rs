//! nginx's stream module behind Ringgate, logging what PROXY v2 told it.

use crate::echo::Echo;
use crate::gate::{Chains, Gate};
use crate::nginx::Nginx;
use crate::openssl::SClient;
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
    nginx.assert_told(&gate, "echo");
}
