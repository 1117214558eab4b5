//! Policy rules.

use ringgate::trust::policy::{Effect, Matcher};

use crate::{accepted, assert_error, front_with};

fn with(rules: &str) -> String {
    front_with("rule", &format!("rule = [{rules}]"))
}

#[test]
fn every_kind_of_condition() {
    let hex = "00".repeat(32);
    let config = accepted(&with(&format!(
        "{{ name = \"all\", allow = {{ uri = \"spiffe://prod.example/ns/*/sa/x\", \
         dns = [\"*.clients.example\", \"one.example\"], cn = \"billing\", ou = \"ops\", \
         sha256 = \"{hex}\", spki = [\"{hex}\", \"{}A=\"] }} }}, \
         {{ name = \"no\", deny = {{ cn = \"mallory\" }} }}",
        "A".repeat(42)
    )));
    let rules = &config.listeners[0].routes[0].policy.rules;
    let [allow, deny] = &rules[..] else {
        panic!("two rules")
    };
    assert_eq!((allow.effect, deny.effect), (Effect::Allow, Effect::Deny));
    assert_eq!(allow.matchers.len(), 8);
    let pins = allow
        .matchers
        .iter()
        .filter(|matcher| **matcher == Matcher::SpkiPin([0; 32]));
    assert_eq!(pins.count(), 2);
    assert!(allow.matchers.contains(&Matcher::Fingerprint([0; 32])));
    assert_eq!(deny.matchers, [Matcher::CommonName("mallory".to_owned())]);
}

#[test]
fn rules_as_sections() {
    let text = front_with("rule", "")
        + "\n[[listener.rule]]\nname = \"billing\"\n\
           allow = { uri = \"spiffe://prod.example/ns/billing/sa/*\" }\n";
    assert_eq!(
        &*accepted(&text).listeners[0].routes[0].policy.rules[0].name,
        "billing"
    );
}

#[test]
fn no_rule_that_allows_shows_both_forms() {
    let parts = ["allow = { any = true }", "allow = { uri = \"spiffe://"];
    let missing = "ringgate.toml:2: listener[0]: `rule` is missing";
    assert_error(&front_with("rule", ""), missing, &parts);
    assert_error(
        &with(""),
        "ringgate.toml:8: listener[0].rule = []: no rule allows",
        &parts,
    );
    let only_deny = with("{ name = \"no\", deny = { cn = \"x\" } }");
    assert_error(
        &only_deny,
        "ringgate.toml:8: listener[0].rule: no rule allows",
        &parts,
    );
}

#[test]
fn duplicate_rule_names() {
    let rule = "{ name = \"a\", allow = { any = true } }";
    let text = with(&format!("{rule},\n{rule}"));
    let parts = ["the name \"a\" is taken by the rule of line 8"];
    assert_error(&text, "ringgate.toml:9: listener[0].rule[1]", &parts);
}

#[test]
fn rules_that_are_none() {
    let billing = "{ name = \"ok\", allow = { cn = \"billing\" } }, ";
    for (rule, problem) in [
        ("{ allow = { any = true } }", "`name` is missing"),
        ("{ name = \"\", allow = { any = true } }", "is no name"),
        ("{ name = \"a\" }", "has neither `allow` nor `deny`"),
        (
            "{ name = \"a\", allow = { cn = \"x\" }, deny = { cn = \"y\" } }",
            "has both",
        ),
        ("{ name = \"a\", allow = {} }", "has no condition"),
        (
            "{ name = \"a\", allow = { any = false } }",
            "can only be true",
        ),
        (
            "{ name = \"a\", allow = { any = true, cn = \"x\" } }",
            "beside other conditions",
        ),
        ("{ name = \"a\", allow = { cn = [] } }", "is an empty list"),
        ("{ name = \"a\", allow = { cn = \"\" } }", "can never match"),
        (
            "{ name = \"a\", allow = { cn = \"a\\u0000b\" } }",
            "can never match",
        ),
        (
            "{ name = \"a\", allow = { uri = \"billing\" } }",
            "is no URI pattern",
        ),
        (
            "{ name = \"a\", allow = { uri = \"spiffe://x/a*\" } }",
            "is no URI pattern",
        ),
        (
            "{ name = \"a\", allow = { dns = \"*\" } }",
            "is no host name pattern",
        ),
        (
            "{ name = \"a\", allow = { sha256 = \"00\" } }",
            "is no SHA-256 fingerprint",
        ),
        (
            "{ name = \"a\", allow = { spki = \"00\" } }",
            "is no SHA-256 of a public key",
        ),
        (
            "{ name = \"a\", allow = { spiffe = \"spiffe://x\" } }",
            "is no pattern of SPIFFE IDs: it has no path",
        ),
        ("{ name = \"a\", allow = { email = \"x\" } }", "unknown key"),
        (
            "{ name = \"a\", allow = true }",
            "is a boolean, not a table",
        ),
        (
            "{ name = \"a\", allow = { cn = 1 } }",
            "is an integer, not a string",
        ),
    ] {
        let start = "ringgate.toml:8: listener[0].rule[1]";
        assert_error(&with(&format!("{billing}{rule}")), start, &[problem]);
    }
}
