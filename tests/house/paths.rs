//! The paths that a source names, with `crate`, `self` and `super` resolved and `use` groups spread
//! out.

use crate::lexer::Token;
use crate::source::Source;

/// A path as named at a place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedPath {
    /// Begins with `crate` where the path leads into the source's own crate by name; else with what
    /// stands first: another crate, or something in scope.
    pub segments: Vec<String>,
    pub line: usize,
}

impl NamedPath {
    pub fn head(&self) -> &str {
        &self.segments[0]
    }
}

/// Every path of two segments or more, and every path of a `use`, in the order of the text.
pub fn paths(source: &Source) -> Vec<NamedPath> {
    let mut walk = Walk {
        tokens: &source.tokens,
        module: module_of(&source.path),
        inline: Vec::new(),
        depth: 0,
        found: Vec::new(),
    };
    let mut at = 0;
    while at < walk.tokens.len() {
        at = walk.step(at);
    }
    walk.found
}

/// The module that a file is, below its crate: `src/tls/mod.rs` is `tls`.
fn module_of(path: &str) -> Vec<String> {
    let below = path.split_once("src/").map_or("", |(_, below)| below);
    let mut module: Vec<String> = below
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main" | "")
    ) {
        module.pop();
    }
    module
}

struct Walk<'t> {
    tokens: &'t [Token],
    /// The file's module.
    module: Vec<String>,
    /// Modules opened with a brace, and how deep that brace is.
    inline: Vec<(String, usize)>,
    depth: usize,
    found: Vec<NamedPath>,
}

impl Walk<'_> {
    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(text))
    }

    fn word(&self, at: usize) -> Option<&str> {
        self.tokens
            .get(at)
            .filter(|token| token.is_word())
            .map(|token| token.text.as_str())
    }

    /// Looks at the token `at`; returns where to go on.
    fn step(&mut self, at: usize) -> usize {
        if self.is(at, "{") {
            self.depth += 1;
        } else if self.is(at, "}") {
            self.depth = self.depth.saturating_sub(1);
            self.inline.pop_if(|(_, depth)| *depth == self.depth);
        } else if self.is(at, "mod") && self.is(at + 2, "{") {
            let name = self.word(at + 1).unwrap_or_default().to_owned();
            self.inline.push((name, self.depth));
        } else if self.is(at, "use") && !self.is(at + 1, "<") {
            return self.tree(at + 1, &[]);
        } else if self.word(at).is_some() && self.is(at + 1, "::") && !self.is_tail(at) {
            let (segments, next) = self.segments(at);
            self.name(&segments, self.tokens[at].line);
            return next;
        }
        at + 1
    }

    /// Whether the word at `at` goes on with a path or a value: `a::b`, `Vec::<u8>::new`, `x.y`.
    fn is_tail(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else {
            return false;
        };
        let goes_on = |at: usize| self.word(at).is_some() || self.is(at, ">");
        // `..Self::default()` is no field access.
        let field =
            self.is(before, ".") && !before.checked_sub(1).is_some_and(|at| self.is(at, "."));
        field || (self.is(before, "::") && before.checked_sub(1).is_some_and(goes_on))
    }

    /// The words from `at` joined by `::`.
    fn segments(&self, mut at: usize) -> (Vec<String>, usize) {
        let mut segments = Vec::new();
        while let Some(word) = self.word(at) {
            segments.push(word.to_owned());
            at += 1;
            if !self.is(at, "::") {
                break;
            }
            at += 1;
        }
        (segments, at)
    }

    /// One branch of a `use` tree; returns what follows it.
    fn tree(&mut self, at: usize, before: &[String]) -> usize {
        let Some(line) = self.tokens.get(at).map(|token| token.line) else {
            return at;
        };
        let start = at + usize::from(self.is(at, "::"));
        let (segments, mut next) = self.segments(start);
        let path: Vec<String> = before.iter().cloned().chain(segments).collect();
        if self.is(next, "{") {
            next += 1;
            while next < self.tokens.len() && !self.is(next, "}") {
                next = self.tree(next, &path);
                next += usize::from(self.is(next, ","));
            }
            return next + 1;
        }
        self.name(&path, line);
        while next < self.tokens.len() && ![",", "}", ";"].iter().any(|end| self.is(next, end)) {
            next += 1;
        }
        next
    }

    fn name(&mut self, segments: &[String], line: usize) {
        let Some(head) = segments.first() else { return };
        let mut here: Vec<String> = self.module.clone();
        here.extend(self.inline.iter().map(|(name, _)| name.clone()));
        let mut rest = segments;
        let resolved = match head.as_str() {
            "crate" => segments.to_vec(),
            "self" | "super" => {
                while let Some((word, after)) = rest.split_first() {
                    match word.as_str() {
                        "self" => {}
                        "super" => drop(here.pop()),
                        _ => break,
                    }
                    rest = after;
                }
                let root = std::iter::once("crate".to_owned());
                root.chain(here).chain(rest.iter().cloned()).collect()
            }
            _ => segments.to_vec(),
        };
        self.found.push(NamedPath {
            segments: resolved,
            line,
        });
    }
}

#[test]
fn paths_are_resolved_and_groups_spread_out() {
    let source = Source::new(
        "src/tls/record.rs",
        "use crate::{block::{Block, Pool}, trust::name as n, limits::*};\n\
         use super::Acceptor; use super::super::clock::Clock;\n\
         mod tests { use super::*; fn f() { super::super::session::x(); } }\n\
         fn g() { let a = ::libc::close(3); v.iter().map(u8::from); ..Self::new() }\n\
         pub(in crate::tls) fn h<T>() -> impl use<T> + X { Vec::<u8>::with(crate::a::b) }",
    );
    let found: Vec<String> = paths(&source)
        .iter()
        .map(|path| path.segments.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "crate::block::Block",
            "crate::block::Pool",
            "crate::trust::name",
            "crate::limits",
            "crate::tls::Acceptor",
            "crate::clock::Clock",
            "crate::tls::record",
            "crate::tls::session::x",
            "libc::close",
            "u8::from",
            "Self::new",
            "crate::tls",
            "Vec",
            "crate::a::b",
        ]
    );
}
