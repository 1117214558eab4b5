//! What the workspace is built from.

use std::process::Command;

use crate::source::{ROOT, expect_none};

/// Packages that must never be built: a second cryptography beside aws-lc-rs.
const FORBIDDEN: [&str; 6] = [
    "native-tls",
    "openssl",
    "openssl-src",
    "openssl-sys",
    "ring",
    "s2n-tls",
];

/// Lines of `cargo tree --prefix none` that name a forbidden package: `ring v0.17.14`.
fn forbidden(tree: &str) -> Vec<String> {
    tree.lines()
        .filter(|line| FORBIDDEN.contains(&line.split(' ').next().unwrap_or_default()))
        .map(|line| format!("the dependency tree holds {line}"))
        .collect()
}

/// The tree that is resolved counts, not `Cargo.lock`, which lists optional packages too.
#[test]
fn ring_and_openssl_stay_out() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--edges",
            "normal,build,dev",
        ])
        .args(["--prefix", "none", "--locked", "--offline"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        tree.lines().any(|line| line.starts_with("aws-lc-rs v")),
        "{tree}"
    );
    expect_none(&forbidden(&tree));
}

#[test]
fn ring_and_openssl_stay_out_finds_what_breaks_it() {
    let tree = "rustls v0.23.46\nring v0.17.14\nringgate v0.1.0 (/x)\nopenssl-sys v0.9.1 (*)\n\
                openssl-probe v0.1.6\nring-like v1.0.0";
    assert_eq!(
        forbidden(tree),
        [
            "the dependency tree holds ring v0.17.14",
            "the dependency tree holds openssl-sys v0.9.1 (*)",
        ]
    );
}
