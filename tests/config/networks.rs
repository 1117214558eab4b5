//! The networks of load balancers.

use ringgate::config::render;
use ringgate::limits::PROXY_NETWORKS_MAX;

use crate::scratch::Scratch;
use crate::{accepted, assert_error, front};

#[test]
fn networks_and_addresses() {
    let shown = |more: &str| -> Vec<String> {
        let config = accepted(&front(more));
        let settings = config.listeners[0].accept_proxy.iter();
        settings
            .map(|setting| setting.network.to_string())
            .collect()
    };
    assert_eq!(shown(""), [""; 0]);
    assert_eq!(shown("accept_proxy = \"10.0.0.0/8\""), ["10.0.0.0/8"]);
    assert_eq!(
        shown("accept_proxy = [\"192.0.2.7\", \"fd00::/8\"]"),
        ["192.0.2.7/32", "fd00::/8"]
    );
}

#[test]
fn networks_that_are_none() {
    for (value, at, parts) in [
        ("true", "", ["not a string", "\"10.0.0.0/8\""]),
        ("[]", "", ["is an empty list", "leave the key out"]),
        (
            "[\"::1\", \"lb.example\"]",
            "[1]",
            ["is no IP network", "\"fd00::/8\""],
        ),
        (
            "\"10.0.0.0/33\"",
            "",
            ["is no IP network", "\"10.0.0.0/8\""],
        ),
        (
            "\"10.1.0.0/8\"",
            "",
            ["bits set behind its prefix", "write \"10.0.0.0/8\""],
        ),
        (
            "\"::ffff:10.0.0.1\"",
            "",
            ["in the form of IPv6", "write 10.0.0.1"],
        ),
    ] {
        let text = front(&format!("accept_proxy = {value}"));
        let start = format!("ringgate.toml:9: listener[0].accept_proxy{at} = ");
        assert_error(&text, &start, &parts);
    }
    let many = vec!["\"::1\""; PROXY_NETWORKS_MAX + 1].join(", ");
    let text = front(&format!("accept_proxy = [{many}]"));
    assert_error(&text, "ringgate.toml:9:", &["257 networks", "keep to 256"]);
}

#[test]
fn a_network_of_everybody_is_a_warning() {
    let scratch = Scratch::new();
    for (value, warned) in [("0.0.0.0/0", true), ("::/0", true), ("10.0.0.0/8", false)] {
        let more = format!("accept_proxy = [\"fd00::/8\", \"{value}\"]");
        scratch.write("ringgate.toml", front(&more));
        let warnings = render(&scratch.loaded().warnings);
        let is_told = warnings
            .contains(&format!("accept_proxy[1] = \"{value}\": whoever connects"))
            && warnings.contains(":9: ")
            && warnings.contains("remedy: name the networks");
        assert_eq!(is_told, warned, "{warnings}");
        assert_eq!(warnings.is_empty(), !warned, "{warnings}");
    }
}
