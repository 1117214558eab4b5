//! What must not be left standing.

use crate::source::{Source, expect_none, tree};

/// Macros that stand for work not done.
const MACROS: [&str; 3] = ["dbg", "todo", "unimplemented"];

/// A remark that stands for work not done; in two parts, or this file would have one.
const REMARK: &str = concat!("FIX", "ME");

fn violations(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let tokens = &source.tokens;
    for (at, token) in tokens.iter().enumerate() {
        let is = |distance: usize, text| tokens.get(at + distance).is_some_and(|t| t.is(text));
        if MACROS.iter().any(|name| token.is(name)) && is(1, "!") && !is(2, "=") {
            violations.push(source.at(token.line, &format!("`{}!` is left standing", token.text)));
        }
        if is(0, "#") && is(1, "[") && is(2, "ignore") {
            violations.push(source.at(token.line, "a test that is ignored is no test"));
        }
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        if text.contains(REMARK) {
            violations.push(source.at(line, &format!("{REMARK} is left standing")));
        }
    }
    violations
}

#[test]
fn no_stray_markers() {
    expect_none(&tree().iter().flat_map(violations).collect::<Vec<_>>());
}

#[test]
fn no_stray_markers_finds_what_breaks_it() {
    let remark = format!("\n// {REMARK}: later");
    for text in [
        "\nfn f() { todo!() }",
        "\nlet x = std::dbg!(y);",
        "\nunimplemented!(\"later\");",
        "\n#[ignore] #[test]",
        "\n#[ignore = \"slow\"]",
        &remark,
    ] {
        let violations = violations(&Source::new("src/x.rs", text));
        assert_eq!(violations.len(), 1, "{text}: {violations:?}");
        assert!(violations[0].starts_with("src/x.rs:2: "), "{violations:?}");
    }
    let fine = "// todo!() and #[ignore]\nlet a = \"dbg!(x)\"; if todo != 3 {} clippy::todo";
    assert_eq!(violations(&Source::new("src/x.rs", fine)), [""; 0]);
}
