//! README: a figure says where it comes from.

use std::fs;
use std::path::Path;

use crate::source::{ROOT, Source, expect_none, tree};

/// Units of what is measured.
const UNITS: [&str; 12] = [
    "%", "/s", "B", "GB/s", "GiB", "KiB", "MiB", "ms", "ns", "s", "us", "µs",
];

/// Lines with a figure whose paragraph, or row of a table, names neither a file nor a test that
/// exists, and is not marked pending.
fn unsourced(readme: &str, sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    let (mut fenced, mut paragraph): (bool, Vec<(usize, &str)>) = (false, Vec::new());
    for (line, text) in (1..).zip(readme.lines().chain([""])) {
        let fence = text.trim_start().starts_with("```");
        fenced ^= fence;
        let row = text.trim_start().starts_with('|');
        if fenced || fence || row || text.trim().is_empty() {
            violations.extend(judge(&paragraph, sources));
            paragraph.clear();
        }
        if row {
            violations.extend(judge(&[(line, text)], sources));
        } else if !fenced && !fence {
            paragraph.push((line, text));
        }
    }
    violations
}

fn judge(paragraph: &[(usize, &str)], sources: &[Source]) -> Option<String> {
    let (line, text) = paragraph.iter().find(|(_, text)| has_figure(text))?;
    let sourced = paragraph.iter().any(|(_, text)| {
        let quoted = || text.split('`').skip(1).step_by(2);
        text.contains("pending") || quoted().any(|name| names_a_source(name, sources))
    });
    let problem = "a figure names the test or bench that shows it, or is marked pending";
    (!sourced).then(|| format!("README.md:{line}: {problem}: {}", text.trim()))
}

/// Whether a number stands right before a unit: `7.5 µs`, `6 KiB`, `15 %`.
fn has_figure(text: &str) -> bool {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "|()`*,;:".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let number = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            && word
                .chars()
                .all(|c| c.is_ascii_digit() || ".-–_".contains(c))
    };
    let unit = |word: &str| UNITS.contains(&word.trim_end_matches('.'));
    words
        .windows(2)
        .any(|pair| number(pair[0]) && unit(pair[1]))
        || words.iter().any(|word| {
            let digits = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            digits.len() < word.len() && unit(digits)
        })
}

/// Whether `name` is a file or folder of the tree, the demo, or a test or bench function.
fn names_a_source(name: &str, sources: &[Source]) -> bool {
    let is_file = name.contains('/') && Path::new(ROOT).join(name).exists();
    let word = name.rsplit("::").next().unwrap_or_default();
    let is_function = || {
        sources
            .iter()
            .flat_map(|source| source.tokens.windows(2))
            .any(|pair| pair[0].is("fn") && pair[1].is(word))
    };
    is_file || name.contains("ringgate-loadgen -- demo") || is_function()
}

#[test]
fn readme_figures_name_their_source() {
    let readme = Path::new(ROOT).join("README.md");
    if readme.exists() {
        expect_none(&unsourced(&fs::read_to_string(readme).unwrap(), &tree()));
    }
}

#[test]
fn readme_figures_name_their_source_finds_what_breaks_it() {
    let sources = [Source::new("tests/flow/main.rs", "fn echo_is_fast() {}")];
    for (readme, line) in [
        ("# Title\n\nA request costs 7.5 µs.\n", 3),
        ("It takes\n6 KiB per connection.", 2),
        (
            "| a | 225 µs | `no_such_test` |\n| b | 1 µs | `echo_is_fast` |",
            1,
        ),
        ("```\n7 ms\n```\nSaves 15%.\n\n`echo_is_fast`", 4),
        ("Up to 40000 /s, see `src/no_such_file.rs`.", 1),
    ] {
        let violations = unsourced(readme, &sources);
        assert_eq!(violations.len(), 1, "{readme}: {violations:?}");
        assert!(
            violations[0].starts_with(&format!("README.md:{line}: ")),
            "{violations:?}"
        );
    }
    for readme in [
        "A request costs 7.5 µs\n(`echo_is_fast`).",
        "7.5 µs, shown by `src/limits.rs`",
        "7.5 µs (pending)",
        "```\n--duration 3s 7 ms\n```",
        "Linux 6.1, TLS 1.3, RFC 8446, 2 cores, P-256, 10,000 seeds",
    ] {
        assert_eq!(unsourced(readme, &sources), [""; 0], "{readme}");
    }
}
