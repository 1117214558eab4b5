//! Files: none does two things, and none stands around unused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::de::DeTable;

use crate::lexer::{Kind, Token};
use crate::source::{PACKAGES, ROOT, Source, expect_none, tree};

/// Lines past which a file is two things.
const LINES_MAX: usize = 600;

fn too_long(sources: &[Source]) -> Vec<String> {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources.iter().filter(|source| lines(source) > LINES_MAX);
    long.map(|source| source.at(lines(source), &format!("past {LINES_MAX} lines: split it")))
        .collect()
}

#[test]
fn files_have_one_purpose() {
    expect_none(&too_long(&tree()));
}

#[test]
fn files_have_one_purpose_finds_what_breaks_it() {
    let long = |lines: usize| [Source::new("src/x.rs", &"//\n".repeat(lines))];
    assert_eq!(too_long(&long(LINES_MAX + 1)).len(), 1);
    assert_eq!(too_long(&long(LINES_MAX)), [""; 0]);
}

/// Files that no `mod` leads to from a file that cargo builds by itself.
fn unused(sources: &[Source]) -> Vec<String> {
    let mut waiting: Vec<&Source> = sources.iter().filter(|s| is_target(&s.path)).collect();
    let mut used: BTreeSet<&str> = waiting.iter().map(|source| source.path.as_str()).collect();
    while let Some(source) = waiting.pop() {
        for candidate in declared_files(source) {
            let found = sources.iter().find(|source| source.path == candidate);
            if let Some(found) = found.filter(|found| used.insert(&found.path)) {
                waiting.push(found);
            }
        }
    }
    let left = sources
        .iter()
        .filter(|source| !used.contains(source.path.as_str()));
    left.map(|source| source.at(1, "no `mod` leads here"))
        .collect()
}

/// Whether cargo builds the file as a target of its own.
fn is_target(path: &str) -> bool {
    let path = path
        .strip_prefix("loadgen/")
        .or_else(|| path.strip_prefix("tuning/"))
        .unwrap_or(path);
    match path.split('/').collect::<Vec<_>>()[..] {
        ["src", file] => matches!(file, "lib.rs" | "main.rs"),
        ["src", "bin", _] | ["tests" | "benches" | "examples", _] => true,
        ["src", "bin", _, file] | ["tests" | "benches" | "examples", _, file] => file == "main.rs",
        _ => false,
    }
}

/// Where the files of a source's `mod name;` may be.
fn declared_files(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let own = match is_target(&source.path) || stem == "mod" {
        true => folder.to_owned(),
        false => format!("{folder}/{stem}"),
    };
    let mut candidates = Vec::new();
    let (mut depth, mut inline): (usize, Vec<(&str, usize)>) = (0, Vec::new());
    for (at, token) in source.tokens.iter().enumerate() {
        let next = |distance: usize| source.tokens.get(at + distance);
        if token.is("{") {
            depth += 1;
        } else if token.is("}") {
            depth = depth.saturating_sub(1);
            inline.pop_if(|(_, opened)| *opened == depth);
        } else if let (true, Some(name), Some(end)) = (token.is("mod"), next(1), next(2)) {
            if end.is("{") {
                inline.push((&name.text, depth));
            } else if end.is(";") {
                let within: String = inline.iter().map(|(name, _)| format!("/{name}")).collect();
                candidates.extend(match path_attribute(&source.tokens[..at]) {
                    Some(path) => vec![resolve(folder, path)],
                    None => ["", "/mod"]
                        .map(|tail| format!("{own}{within}/{}{tail}.rs", name.text))
                        .to_vec(),
                });
            }
        }
    }
    candidates
}

/// The value of `#[path = "…"]` right before an item, visibility between them allowed.
fn path_attribute(before: &[Token]) -> Option<&str> {
    let item = before
        .iter()
        .rposition(|token| token.is(";") || token.is("}") || token.is("{"));
    let attributes = &before[item.map_or(0, |at| at + 1)..];
    let at = attributes.iter().position(|token| token.is("path"))?;
    attributes[at..]
        .iter()
        .find(|token| token.kind == Kind::Literal)
        .map(|t| t.text.as_str())
}

/// `folder/path` with `..` taken out.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn every_source_file_is_used() {
    expect_none(&unused(&tree()));
}

#[test]
fn every_source_file_is_used_finds_what_breaks_it() {
    let used = [
        (
            "src/lib.rs",
            "pub mod tls; mod a { mod b; } // mod comment;",
        ),
        ("src/tls/mod.rs", "mod record;"),
        ("src/tls/record.rs", "mod vectors;"),
        ("src/tls/record/vectors.rs", ""),
        ("src/a/b.rs", ""),
        (
            "tests/flow/main.rs",
            "fn f() {} #[path = \"../common/mod.rs\"] mod common; mod echo;",
        ),
        ("tests/flow/echo.rs", ""),
        ("tests/common/mod.rs", "pub mod pki;"),
        ("tests/common/pki.rs", ""),
        ("loadgen/src/main.rs", ""),
        ("benches/relay.rs", ""),
    ];
    let stray = [
        ("src/comment.rs", ""),
        ("src/tls/vectors.rs", ""),
        ("tests/common/other.rs", ""),
        ("tests/left/over.rs", ""),
        ("loadgen/src/record.rs", ""),
    ];
    let sources: Vec<Source> = used
        .iter()
        .chain(&stray)
        .map(|(path, text)| Source::new(path, text))
        .collect();
    let expected: Vec<String> = stray
        .iter()
        .map(|(path, _)| format!("{path}:1: no `mod` leads here"))
        .collect();
    assert_eq!(unused(&sources), expected);
}

/// Benches of a package's folder `benches/` that its manifest does not declare as criterion's, and
/// declared ones that are not there.
fn undeclared(manifest: &str, benches: &BTreeSet<String>) -> Vec<String> {
    let manifest = DeTable::parse(manifest).unwrap();
    let declared = manifest
        .get_ref()
        .get("bench")
        .and_then(|value| value.get_ref().as_array());
    let (mut problems, mut names) = (Vec::new(), BTreeSet::new());
    for bench in declared.into_iter().flatten() {
        let name = bench
            .get_ref()
            .get("name")
            .and_then(|name| name.get_ref().as_str());
        let name = name.unwrap_or_default().to_owned();
        let harness = bench
            .get_ref()
            .get("harness")
            .and_then(|harness| harness.get_ref().as_bool());
        if harness != Some(false) {
            problems.push(format!("bench `{name}` lacks `harness = false`"));
        }
        names.insert(name);
    }
    problems.extend(
        benches
            .difference(&names)
            .map(|name| format!("`{name}` is not declared")),
    );
    problems.extend(
        names
            .difference(benches)
            .map(|name| format!("`{name}` has no file")),
    );
    problems
}

#[test]
fn every_bench_is_declared() {
    let mut problems = Vec::new();
    for package in PACKAGES {
        let manifest = Path::new(ROOT).join(format!("{package}Cargo.toml"));
        let prefix = format!("{package}benches/");
        let sources = tree();
        let benches = sources
            .iter()
            .filter(|source| source.path.starts_with(&prefix) && is_target(&source.path))
            .map(|source| source.path[prefix.len()..].trim_end_matches("/main.rs"))
            .map(|name| name.trim_end_matches(".rs").to_owned());
        let found = undeclared(&fs::read_to_string(&manifest).unwrap(), &benches.collect());
        problems.extend(
            found
                .iter()
                .map(|found| format!("{package}Cargo.toml: {found}")),
        );
    }
    expect_none(&problems);
}

#[test]
fn every_bench_is_declared_finds_what_breaks_it() {
    let manifest = "[[bench]]\nname = \"relay\"\nharness = false\n[[bench]]\nname = \"cache\"\n";
    let benches = ["relay", "handshake"].map(str::to_owned).into();
    assert_eq!(
        undeclared(manifest, &benches),
        [
            "bench `cache` lacks `harness = false`",
            "`handshake` is not declared",
            "`cache` has no file",
        ]
    );
    let benches = ["relay".to_owned()].into();
    assert_eq!(
        undeclared("[[bench]]\nname = \"relay\"\nharness = false", &benches),
        [""; 0]
    );
    assert_eq!(undeclared("", &BTreeSet::new()), [""; 0]);
}
