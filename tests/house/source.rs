//! The sources of the workspace.

use std::fs;
use std::path::Path;

use crate::lexer::{Token, tokens};

/// The workspace's folder.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folders of the workspace's packages, as prefixes of paths.
pub const PACKAGES: [&str; 3] = ["", "loadgen/", "tuning/"];

/// A Rust file, read.
#[derive(Debug)]
pub struct Source {
    /// Below the workspace's folder, with `/` between parts.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens: tokens(text),
        }
    }

    /// `path:line: problem`.
    pub fn at(&self, line: usize, problem: &str) -> String {
        format!("{}:{line}: {problem}", self.path)
    }
}

/// Every Rust file of the workspace, in the order of their paths.
pub fn tree() -> Vec<Source> {
    let mut sources = Vec::new();
    for package in PACKAGES {
        for folder in ["src", "tests", "benches", "examples"] {
            collect(&format!("{package}{folder}"), &mut sources);
        }
    }
    assert!(
        sources.len() > 20,
        "the tree has more than {} sources",
        sources.len()
    );
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(folder: &str, sources: &mut Vec<Source>) {
    // Not every package has every folder.
    let Ok(entries) = fs::read_dir(Path::new(ROOT).join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&path, sources);
        } else if path.ends_with(".rs") {
            sources.push(Source::new(
                &path,
                &fs::read_to_string(entry.path()).unwrap(),
            ));
        }
    }
}

/// Fails with every violation on a line of its own.
#[track_caller]
pub fn expect_none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} broken:\n{}",
        violations.len(),
        violations.join("\n")
    );
}
