//! Where unsafe code and certain crates live.

use crate::lexer::Token;
use crate::paths::paths;
use crate::source::{Source, expect_none, tree};

/// Names of crates outside of the places, files or folders, that may name them.
fn names_outside(sources: &[Source], crates: &[&str], places: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        if places.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for path in paths(source)
            .iter()
            .filter(|path| crates.contains(&path.head()))
        {
            let problem = format!("only {} may name {}", places.join(", "), path.head());
            violations.push(source.at(path.line, &problem));
        }
    }
    violations
}

/// Unsafe code outside of `src/ring/`, and attributes that would allow it.
fn unsafe_outside(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources
        .iter()
        .filter(|source| !source.path.starts_with("src/ring/"))
    {
        for (at, token) in source.tokens.iter().enumerate() {
            let problem = if token.is("unsafe") {
                "only src/ring/ may be unsafe"
            } else if token.is("unsafe_code") && allows_for_another(&source.tokens, at) {
                "unsafe code may be allowed only for `mod ring`"
            } else {
                continue;
            };
            violations.push(source.at(token.line, problem));
        }
    }
    violations
}

/// Whether the lint at `at` stands in an `allow` or `expect` that is not followed by `mod ring`.
fn allows_for_another(tokens: &[Token], at: usize) -> bool {
    let level = tokens[..at].iter().rposition(|token| token.is("("));
    let level = level.and_then(|open| tokens[..open].last());
    if !level.is_some_and(|level| level.is("allow") || level.is("expect")) {
        return false;
    }
    let mut item = tokens[at..]
        .iter()
        .skip_while(|token| !token.is("]"))
        .skip(1)
        .peekable();
    item.next_if(|token| token.is("pub"));
    !(item.next().is_some_and(|token| token.is("mod"))
        && item.next().is_some_and(|token| token.is("ring")))
}

#[test]
fn unsafe_only_in_ring() {
    expect_none(&unsafe_outside(&tree()));
}

#[test]
fn unsafe_only_in_ring_finds_what_breaks_it() {
    for (path, text) in [
        ("src/tls/record.rs", "\nfn f() { unsafe { g() } }"),
        ("loadgen/src/main.rs", "\n#[unsafe(no_mangle)] fn f() {}"),
        ("tests/flow/main.rs", "\nunsafe extern \"C\" {}"),
        (
            "src/lib.rs",
            "\n#[allow(dead_code, unsafe_code)] pub mod shard;",
        ),
        ("src/shard/mod.rs", "\n#![expect(unsafe_code)] mod x;"),
    ] {
        let violations = unsafe_outside(&[Source::new(path, text)]);
        assert_eq!(violations.len(), 1, "{path}: {violations:?}");
        assert!(
            violations[0].starts_with(&format!("{path}:2: ")),
            "{violations:?}"
        );
    }
    for (path, text) in [
        (
            "src/ring/mod.rs",
            "#![allow(unsafe_code)] fn f() { unsafe { g() } }",
        ),
        (
            "src/lib.rs",
            "#![deny(unsafe_code)] #[allow(unsafe_code)] pub mod ring;",
        ),
        (
            "src/lib.rs",
            "//! Nothing is unsafe {}\nconst A: &str = \"unsafe {}\";",
        ),
    ] {
        assert_eq!(
            unsafe_outside(&[Source::new(path, text)]),
            [""; 0],
            "{path}"
        );
    }
}

const KERNEL: (&[&str], &[&str]) = (&["io_uring", "libc"], &["src/ring/"]);
const X509: (&[&str], &[&str]) = (
    &["x509_parser"],
    &["src/trust/identity.rs", "src/trust/identity/"],
);
const EXECUTOR: (&[&str], &[&str]) = (&["glommio"], &["src/control/"]);

#[test]
fn io_uring_and_libc_only_in_ring() {
    expect_none(&names_outside(&tree(), KERNEL.0, KERNEL.1));
}

#[test]
fn x509_parser_only_in_identity() {
    expect_none(&names_outside(&tree(), X509.0, X509.1));
}

#[test]
fn glommio_only_in_control() {
    expect_none(&names_outside(&tree(), EXECUTOR.0, EXECUTOR.1));
}

#[test]
fn names_outside_of_their_place_are_found() {
    for ((crates, places), path, text) in [
        (KERNEL, "src/shard/mod.rs", "use io_uring::IoUring;"),
        (
            KERNEL,
            "src/control/mod.rs",
            "fn f() { ::libc::kill(1, 2); }",
        ),
        (KERNEL, "loadgen/src/main.rs", "use {libc as c, std::io};"),
        (KERNEL, "tests/faults/main.rs", "use libc;"),
        (X509, "src/trust/domain.rs", "use x509_parser::prelude::*;"),
        (
            X509,
            "src/config/parse.rs",
            "type A<'a> = x509_parser::certificate::X509Certificate<'a>;",
        ),
        (
            EXECUTOR,
            "src/main.rs",
            "fn main() { glommio::LocalExecutorBuilder::default(); }",
        ),
    ] {
        let violations = names_outside(&[Source::new(path, text)], crates, places);
        assert_eq!(violations.len(), 1, "{path}: {text}: {violations:?}");
    }
    for ((crates, places), path, text) in [
        (
            KERNEL,
            "src/ring/probe.rs",
            "use io_uring::IoUring; use libc::c_int;",
        ),
        (
            KERNEL,
            "src/config/parse.rs",
            "/// As io_uring::types says.\nlet io_uring = a.libc;",
        ),
        (
            X509,
            "src/trust/identity.rs",
            "use x509_parser::prelude::*;",
        ),
        (
            EXECUTOR,
            "src/control/admin.rs",
            "use glommio::net::TcpListener;",
        ),
    ] {
        assert_eq!(
            names_outside(&[Source::new(path, text)], crates, places),
            [""; 0],
            "{path}"
        );
    }
}
