//! A policy's rules, found by what they ask for instead of walked through.
//!
//! Each matcher stands where the names of an identity lead to it: exact ones in maps, patterns of
//! URIs in trees of their segments. So a decision costs by the names of the client and the rules that
//! they meet, not by all rules that there are.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::name::normalized;
use super::policy::{Effect, Matcher, Policy, UriPattern, uri_segments};
use super::spiffe::SpiffePattern;
use super::{Decision, Identity};

/// Rules that are weighed without asking for memory.
const FEW_RULES: usize = 64;

/// The kinds of matchers, a bit each. [`Matcher::Any`] is met by everybody.
mod kind {
    pub const COMMON_NAME: u8 = 1;
    pub const DNS: u8 = 1 << 1;
    pub const FINGERPRINT: u8 = 1 << 2;
    pub const ORGANIZATIONAL_UNIT: u8 = 1 << 3;
    pub const SPIFFE: u8 = 1 << 4;
    pub const SPKI_PIN: u8 = 1 << 5;
    pub const URI: u8 = 1 << 6;
}

/// Positions of rules that a name meets.
type Met<K> = HashMap<K, Vec<usize>>;

/// A [`Policy`] in the form in which it is asked.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// The first rules that everybody meets.
    everybody: First,
    common_names: Met<String>,
    /// In lower case without a trailing dot.
    dns_names: Met<String>,
    /// What stands behind `*.` in a DNS pattern.
    dns_parents: Met<String>,
    fingerprints: Met<[u8; 32]>,
    organizational_units: Met<String>,
    spiffe_ids: Tree<SpiffePattern>,
    spki_pins: Met<[u8; 32]>,
    uris: Tree<UriPattern>,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    effect: Effect,
    /// The kinds of matchers that it has, of each of which one is to be met.
    kinds: u8,
}

/// The first deny and allow rule that matches, by position.
#[derive(Clone, Copy, Debug, Default)]
struct First {
    deny: Option<usize>,
    allow: Option<usize>,
}

impl First {
    fn add(&mut self, effect: Effect, position: usize) {
        let first = match effect {
            Effect::Allow => &mut self.allow,
            Effect::Deny => &mut self.deny,
        };
        *first = Some(first.map_or(position, |known| known.min(position)));
    }
}

impl Rules {
    pub fn new(policy: &Policy) -> Self {
        let mut all = Self::default();
        for (position, rule) in policy.rules.iter().enumerate() {
            let kinds = rule
                .matchers
                .iter()
                .fold(0, |kinds, matcher| kinds | all.add(matcher, position));
            if kinds == 0 && !rule.matchers.is_empty() {
                all.everybody.add(rule.effect, position);
            }
            all.rules.push(Rule {
                // Of its own: a shard's clients count references to it.
                name: Arc::from(&*rule.name),
                effect: rule.effect,
                kinds,
            });
        }
        all
    }

    /// Its kind.
    fn add(&mut self, matcher: &Matcher, rule: usize) -> u8 {
        fn put<K: Eq + Hash>(met: &mut Met<K>, key: K, rule: usize) {
            met.entry(key).or_default().push(rule);
        }
        match matcher {
            Matcher::Any => 0,
            Matcher::CommonName(name) => {
                put(&mut self.common_names, name.clone(), rule);
                kind::COMMON_NAME
            }
            Matcher::Dns(pattern) => {
                match pattern.as_str().strip_prefix("*.") {
                    Some(parent) => put(&mut self.dns_parents, parent.to_owned(), rule),
                    None => put(&mut self.dns_names, pattern.as_str().to_owned(), rule),
                }
                kind::DNS
            }
            Matcher::Fingerprint(fingerprint) => {
                put(&mut self.fingerprints, *fingerprint, rule);
                kind::FINGERPRINT
            }
            Matcher::OrganizationalUnit(unit) => {
                put(&mut self.organizational_units, unit.clone(), rule);
                kind::ORGANIZATIONAL_UNIT
            }
            Matcher::Spiffe(pattern) => {
                let segments = spiffe_segments(pattern.as_str());
                self.spiffe_ids.add(segments, rule, pattern);
                kind::SPIFFE
            }
            Matcher::SpkiPin(pin) => {
                put(&mut self.spki_pins, *pin, rule);
                kind::SPKI_PIN
            }
            Matcher::Uri(pattern) => {
                // A pattern that was read has segments.
                let segments = uri_segments(pattern.as_str()).into_iter().flatten();
                self.uris.add(segments, rule, pattern);
                kind::URI
            }
        }
    }

    /// Denied if any deny rule matches; otherwise allowed by the first allow rule that matches;
    /// otherwise unmatched, which is a refusal too.
    ///
    /// Each kind looks only at its own kind of name: an email or common name is never compared with
    /// a DNS or URI rule (CVE-2022-21656).
    pub fn decide(&self, identity: &Identity) -> Decision {
        let (mut few, mut many) = ([0; FEW_RULES], Vec::new());
        let met = if let Some(met) = few.get_mut(..self.rules.len()) {
            met
        } else {
            many.resize(self.rules.len(), 0);
            &mut many
        };
        let mut tally = Tally {
            rules: &self.rules,
            met,
            first: self.everybody,
        };
        if let Some(name) = &identity.common_name {
            tally.meet(kind::COMMON_NAME, self.common_names.get(name));
        }
        for name in &identity.dns_names {
            let Some(name) = normalized(name) else {
                continue;
            };
            tally.meet(kind::DNS, self.dns_names.get(&*name));
            if let Some((_, parent)) = name.split_once('.') {
                tally.meet(kind::DNS, self.dns_parents.get(parent));
            }
        }
        let fingerprint = self.fingerprints.get(&identity.fingerprint);
        tally.meet(kind::FINGERPRINT, fingerprint);
        for unit in &identity.organizational_units {
            let unit = self.organizational_units.get(unit);
            tally.meet(kind::ORGANIZATIONAL_UNIT, unit);
        }
        tally.meet(kind::SPKI_PIN, self.spki_pins.get(&identity.spki_pin));
        if !self.spiffe_ids.is_empty()
            && let Some(id) = identity.spiffe_id()
        {
            self.spiffe_ids.find(spiffe_segments(id), |rule, pattern| {
                if pattern.matches(id) {
                    tally.meet_one(kind::SPIFFE, rule);
                }
            });
        }
        if !self.uris.is_empty() {
            for uri in &identity.uris {
                let segments = uri_segments(uri).into_iter().flatten();
                self.uris.find(segments, |rule, pattern| {
                    if pattern.matches(uri) {
                        tally.meet_one(kind::URI, rule);
                    }
                });
            }
        }
        let name = |position: usize| Arc::clone(&self.rules[position].name);
        match (tally.first.deny, tally.first.allow) {
            (Some(deny), _) => Decision::Denied { rule: name(deny) },
            (None, Some(allow)) => Decision::Allowed { rule: name(allow) },
            (None, None) => Decision::Unmatched,
        }
    }
}

/// Which kinds of matchers of which rules an identity has met.
struct Tally<'a> {
    rules: &'a [Rule],
    /// For each rule, the kinds of which one is met.
    met: &'a mut [u8],
    first: First,
}

impl Tally<'_> {
    fn meet(&mut self, kind: u8, rules: Option<&Vec<usize>>) {
        for &position in rules.into_iter().flatten() {
            self.meet_one(kind, position);
        }
    }

    fn meet_one(&mut self, kind: u8, position: usize) {
        let rule = &self.rules[position];
        self.met[position] |= kind;
        if self.met[position] == rule.kinds {
            self.first.add(rule.effect, position);
        }
    }
}

fn spiffe_segments(id: &str) -> impl Iterator<Item = Cow<'_, str>> {
    id.split('/').map(Cow::Borrowed)
}

/// Patterns by their segments. It leads to all that match, and to some that do not.
#[derive(Debug)]
struct Tree<P> {
    /// The root is the first. None of them is below itself, so that no walk returns to one.
    nodes: Vec<Node<P>>,
}

#[derive(Debug)]
struct Node<P> {
    literal: HashMap<Box<str>, usize>,
    /// Behind a `*`.
    star: Option<usize>,
    /// Rules whose patterns end here.
    ends: Vec<(usize, P)>,
    /// Rules whose patterns end in a `**` here.
    rest: Vec<(usize, P)>,
}

impl<P> Default for Node<P> {
    fn default() -> Self {
        Self {
            literal: HashMap::new(),
            star: None,
            ends: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<P> Default for Tree<P> {
    fn default() -> Self {
        let nodes = vec![Node::default()];
        Self { nodes }
    }
}

impl<P: Clone> Tree<P> {
    fn is_empty(&self) -> bool {
        let root = &self.nodes[0];
        root.literal.is_empty() && root.star.is_none()
    }

    fn add<'s>(&mut self, segments: impl Iterator<Item = Cow<'s, str>>, rule: usize, pattern: &P) {
        let mut at = 0;
        for segment in segments {
            if segment == "**" {
                self.nodes[at].rest.push((rule, pattern.clone()));
                return;
            }
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match &*segment {
                "*" => *node.star.get_or_insert(new),
                _ => *node.literal.entry(segment.into()).or_insert(new),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].ends.push((rule, pattern.clone()));
    }

    fn find<'s>(
        &self,
        segments: impl Iterator<Item = Cow<'s, str>>,
        mut found: impl FnMut(usize, &P),
    ) {
        let mut report = |patterns: &[(usize, P)]| {
            patterns
                .iter()
                .for_each(|(rule, pattern)| found(*rule, pattern));
        };
        let (mut here, mut below) = (vec![0], Vec::new());
        for segment in segments {
            for &at in &here {
                let node = &self.nodes[at];
                report(&node.rest);
                below.extend(node.literal.get(&*segment));
                below.extend(node.star);
            }
            std::mem::swap(&mut here, &mut below);
            below.clear();
            // No pattern is as long as this.
            if here.is_empty() {
                return;
            }
        }
        for at in here {
            report(&self.nodes[at].ends);
        }
    }
}

#[cfg(test)]
mod tests;
