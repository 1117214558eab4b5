//! What the rules say against a walk through all of them.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::trust::name::NamePattern;
use crate::trust::policy::Rule;

/// As the documentation of [`Matcher`] has it.
fn meets(identity: &Identity, matcher: &Matcher) -> bool {
    match matcher {
        Matcher::Any => true,
        Matcher::CommonName(name) => identity.common_name.as_ref() == Some(name),
        Matcher::Dns(pattern) => identity.dns_names.iter().any(|name| pattern.matches(name)),
        Matcher::Fingerprint(fingerprint) => identity.fingerprint == *fingerprint,
        Matcher::OrganizationalUnit(unit) => identity.organizational_units.contains(unit),
        Matcher::Spiffe(pattern) => identity.spiffe_id().is_some_and(|id| pattern.matches(id)),
        Matcher::SpkiPin(pin) => identity.spki_pin == *pin,
        Matcher::Uri(pattern) => identity.uris.iter().any(|uri| pattern.matches(uri)),
    }
}

fn matches(identity: &Identity, rule: &Rule) -> bool {
    let kind = std::mem::discriminant::<Matcher>;
    let alternatives = |of: &Matcher| {
        let same = rule.matchers.iter().filter(|other| kind(other) == kind(of));
        same.cloned().collect::<Vec<_>>()
    };
    let is_met = |of: &Matcher| alternatives(of).iter().any(|other| meets(identity, other));
    !rule.matchers.is_empty() && rule.matchers.iter().all(is_met)
}

fn walk(policy: &Policy, identity: &Identity) -> Decision {
    let first = |effect| {
        let mut rules = policy.rules.iter().filter(|rule| rule.effect == effect);
        let rule = rules.find(|rule| matches(identity, rule))?;
        Some(Arc::clone(&rule.name))
    };
    match (first(Effect::Deny), first(Effect::Allow)) {
        (Some(rule), _) => Decision::Denied { rule },
        (None, Some(rule)) => Decision::Allowed { rule },
        (None, None) => Decision::Unmatched,
    }
}

fn segment() -> impl Strategy<Value = &'static str> {
    select(&["a", "b", "B", "*", "**", "", ".", ".."][..])
}

fn path() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(segment(), 0..4);
    segments.prop_map(|segments| {
        segments
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect()
    })
}

/// URIs, and what is near to being one. As patterns, some of them are read.
fn uri() -> impl Strategy<Value = String> {
    let begins = [
        "spiffe://a",
        "spiffe://A",
        "SPIFFE://a",
        "https://a",
        "https://b",
        "a",
        "",
    ];
    let ends = ["", "", "", "", "?", "#", "/", "://"];
    (select(begins.to_vec()), path(), select(ends.to_vec()))
        .prop_map(|(begin, path, end)| format!("{begin}{path}{end}"))
}

/// A SPIFFE ID, or a pattern of some.
fn spiffe(segments: &'static [&'static str]) -> impl Strategy<Value = String> {
    let domain = select(&["a", "b"][..]);
    (domain, prop::collection::vec(select(segments), 1..4))
        .prop_map(|(domain, path)| format!("spiffe://{domain}/{}", path.join("/")))
}

fn uris() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        prop::collection::vec(uri(), 0..3),
        spiffe(&["a", "b"]).prop_map(|id| vec![id]),
    ]
}

fn dns() -> impl Strategy<Value = String> {
    let labels = select(&["a", "B", "b", "*", "", "1", "a_", "-"][..]);
    (
        prop::collection::vec(labels, 1..4),
        select(&["", "", "."][..]),
    )
        .prop_map(|(labels, end)| labels.join(".") + end)
}

fn text() -> impl Strategy<Value = String> {
    select(&["a", "A", "a.b"][..]).prop_map(str::to_owned)
}

fn hash() -> impl Strategy<Value = [u8; 32]> {
    (0..3u8).prop_map(|byte| [byte; 32])
}

fn matcher() -> impl Strategy<Value = Option<Matcher>> {
    let read = |text: &str| UriPattern::parse(text).ok();
    prop_oneof![
        1 => Just(Some(Matcher::Any)),
        2 => text().prop_map(|name| Some(Matcher::CommonName(name))),
        4 => dns().prop_map(|name| NamePattern::parse(&name).ok().map(Matcher::Dns)),
        1 => hash().prop_map(|hash| Some(Matcher::Fingerprint(hash))),
        2 => text().prop_map(|unit| Some(Matcher::OrganizationalUnit(unit))),
        6 => spiffe(&["a", "b", "*", "**"])
            .prop_map(|id| SpiffePattern::parse(&id).ok().map(Matcher::Spiffe)),
        1 => hash().prop_map(|hash| Some(Matcher::SpkiPin(hash))),
        6 => uri().prop_map(move |uri| read(&uri).map(Matcher::Uri)),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let effect = prop_oneof![2 => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    let rule = (effect, prop::collection::vec(matcher(), 0..4));
    prop::collection::vec(rule, 0..8).prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(position, (effect, matchers))| Rule {
            name: position.to_string().into(),
            effect,
            matchers: matchers.into_iter().flatten().collect(),
        });
        Policy {
            rules: rules.collect(),
        }
    })
}

prop_compose! {
    fn identity()(
        uris in uris(),
        dns_names in prop::collection::vec(dns(), 0..3),
        common_name in prop::option::of(text()),
        organizational_units in prop::collection::vec(text(), 0..3),
        (fingerprint, spki_pin) in (hash(), hash()),
    ) -> Identity {
        Identity {
            uris,
            dns_names,
            emails: vec!["a".to_owned(), "a.b".to_owned()],
            addresses: Vec::new(),
            common_name,
            organizational_units,
            rejected_names: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: vec![1],
            not_before: 0,
            not_after: 1,
            fingerprint,
            spki_pin,
            rsa_modulus_bits: None,
            client_auth: true,
            may_sign: false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16384) })]

    #[test]
    fn rules_decide_as_a_walk_through_them_does(policy in policy(), identity in identity()) {
        let decided = walk(&policy, &identity);
        prop_assert_eq!(&Rules::new(&policy).decide(&identity), &decided);
        // Behind more rules than are weighed without asking for memory.
        let nobody = Rule {
            name: "nobody".into(),
            effect: Effect::Deny,
            matchers: vec![Matcher::CommonName("nobody at all".into())],
        };
        let mut rules = vec![nobody; FEW_RULES];
        rules.extend(policy.rules);
        prop_assert_eq!(&Rules::new(&Policy { rules }).decide(&identity), &decided);
    }
}
