//! A walk over a TOML document that remembers where everything stands and collects every error.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place};
use super::{FileReferences, FileSetting, format};

/// Syntax errors that are reported of one file; those after the first few follow from them.
const SYNTAX_ERRORS_MAX: usize = 5;

/// Edits between an unknown key and a known one that still count as a slip.
const SLIP_MAX: usize = 3;

/// A file being read.
pub(super) struct Document<'a> {
    file: Arc<Path>,
    directory: &'a Path,
    text: &'a str,
    errors: RefCell<Vec<ConfigError>>,
    /// Every file that the document names, so that those can be checked even where the document
    /// itself is wrong.
    pub(super) files: RefCell<FileReferences>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &Arc<Path>, directory: &'a Path, text: &'a str) -> Self {
        Self {
            file: Arc::clone(file),
            directory,
            text,
            errors: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// Parses the text; `None` when its syntax is wrong.
    pub(super) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let root = self.parse_leniently();
        self.errors.borrow().is_empty().then_some(root)
    }

    /// Parses the text; what there is of it when its syntax is wrong.
    pub(super) fn parse_leniently(&self) -> Spanned<DeTable<'a>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            let line = error.span().map_or(0, |span| self.line(span.start));
            let place = Place {
                line,
                ..Place::whole(&self.file)
            };
            let problem = format!("not valid TOML: {}", error.message());
            self.report(place.error(problem, "correct the syntax of this line (https://toml.io)"));
        }
        root
    }

    pub(super) fn report(&self, error: ConfigError) {
        self.errors.borrow_mut().push(error);
    }

    pub(super) fn into_errors(self) -> (Vec<ConfigError>, FileReferences) {
        (self.errors.into_inner(), self.files.into_inner())
    }

    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }
}

/// A table of the document. Keys that were never asked for are unknown.
pub(super) struct Table<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) place: Place,
    table: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        let place = Place::whole(&document.file);
        Self {
            document,
            place,
            table,
            known: RefCell::default(),
        }
    }

    /// The entry of `key`, if there is one. Makes `key` a known one.
    pub(super) fn entry(&self, key: &'static str) -> Option<Entry<'a>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.table.get_key_value(key)?;
        let place = Place {
            line: self.document.line(name.span().start),
            key: self.key_path(key),
            ..Place::whole(&self.document.file)
        };
        Some(Entry::new(self.document, place, value))
    }

    /// Reports a problem of the table as a whole.
    pub(super) fn report(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.document.report(self.place.error(problem, remedy));
    }

    /// Reports that `key` is missing.
    pub(super) fn missing(&self, key: &str, remedy: impl Into<String>) {
        self.report(format!("`{key}` is missing"), remedy);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Reports every key that was never asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (name, value) in self.table {
            let key = name.get_ref().as_ref();
            if known.contains(&key) {
                continue;
            }
            let place = Place {
                line: self.document.line(name.span().start),
                key: self.key_path(key),
                ..Place::whole(&self.document.file)
            };
            let entry = Entry::new(self.document, place, value);
            let nearest = nearest(key, &known);
            let remedy = match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("remove it; known here: {}", known.join(", ")),
            };
            entry.report("unknown key", remedy);
        }
    }

    fn key_path(&self, key: &str) -> String {
        match self.place.key.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

/// The known key that `key` is most likely a slip of.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = key.to_lowercase();
    let distance = |candidate: &str| {
        // `listen` for `listener`, `cert` for `certificate`: the start of a word counts as near.
        let extends =
            lower.len() > 2 && (candidate.starts_with(&lower) || lower.starts_with(candidate));
        if extends {
            1
        } else {
            strsim::damerau_levenshtein(&lower, candidate)
        }
    };
    let (distance, candidate) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= SLIP_MAX && distance < candidate.len().max(2)).then_some(candidate)
}

/// A value of the document and where it stands.
pub(super) struct Entry<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) place: Place,
    value: &'a DeValue<'a>,
}

impl<'a> Entry<'a> {
    fn new(document: &'a Document<'a>, mut place: Place, value: &'a Spanned<DeValue<'a>>) -> Self {
        let is_table = value.get_ref().is_table() || is_table_array(value.get_ref());
        place.value = document
            .text
            .get(value.span())
            .filter(|_| !is_table)
            .map(str::to_owned);
        Self {
            document,
            place,
            value: value.get_ref(),
        }
    }

    pub(super) fn report(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.document.report(self.place.error(problem, remedy));
    }

    fn wrong_type(&self, wanted: &str, example: &str) {
        let problem = format!("is {}, not {wanted}", article(self.value.type_str()));
        self.report(problem, format!("write it as {example}"));
    }

    pub(super) fn string(&self, example: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string", example);
        }
        text
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("a boolean", "true or false, without quotes");
        }
        value
    }

    /// Whether it is `false`, which some keys take in place of what they are otherwise.
    pub(super) fn is_false(&self) -> bool {
        self.value.as_bool() == Some(false)
    }

    /// A whole number within `range`.
    pub(super) fn count(&self, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type("an integer", "a whole number, without quotes");
            return None;
        };
        let count = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = count.filter(|count| range.contains(count));
        if within.is_none() {
            let remedy = format!("give a number from {} to {}", range.start(), range.end());
            self.report("out of range", remedy);
        }
        within
    }

    /// A duration within `range`.
    pub(super) fn duration(&self, range: std::ops::RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.string("\"10s\" (units: ms, s, m, h)")?;
        let Some(duration) = format::duration(text) else {
            self.report(
                "not a duration",
                "a whole number and a unit: \"500ms\", \"10s\", \"5m\", \"1h\"",
            );
            return None;
        };
        if !range.contains(&duration) {
            let [low, high] = [range.start(), range.end()].map(|end| format::show_duration(*end));
            self.report(
                "out of range",
                format!("give a duration from {low} to {high}"),
            );
            return None;
        }
        Some(duration)
    }

    /// A number of bytes within `range`.
    pub(super) fn size(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let text = self.string("\"256MiB\" (units: B, KiB, MiB, GiB)")?;
        let Some(size) = format::size(text) else {
            self.report(
                "not a size",
                "a whole number and a unit: \"64KiB\", \"256MiB\", \"1GiB\"",
            );
            return None;
        };
        if !range.contains(&size) {
            let [low, high] = [range.start(), range.end()].map(|end| format::show_size(*end));
            self.report("out of range", format!("give a size from {low} to {high}"));
            return None;
        }
        Some(size)
    }

    /// One of the words of `choices`.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect::<Vec<_>>();
        let words = words.join(" or ");
        let text = self.string(&words)?;
        let chosen = choices.iter().find(|(word, _)| *word == text);
        if chosen.is_none() {
            self.report("not a choice that exists here", format!("write {words}"));
        }
        chosen.map(|(_, value)| *value)
    }

    /// The elements of a list that has some, or the value itself where it is none.
    pub(super) fn one_or_list(&self) -> Vec<Entry<'a>> {
        let Some(array) = self.value.as_array() else {
            return vec![Entry {
                document: self.document,
                place: self.place.clone(),
                value: self.value,
            }];
        };
        if array.is_empty() {
            self.report(
                "is an empty list",
                "name at least one, or leave the key out",
            );
        }
        array
            .iter()
            .enumerate()
            .map(|(at, value)| self.element(at, value))
            .collect()
    }

    fn element(&self, at: usize, value: &'a Spanned<DeValue<'a>>) -> Entry<'a> {
        let place = Place {
            line: self.document.line(value.span().start),
            key: format!("{}[{at}]", self.place.key),
            value: None,
            file: Arc::clone(&self.place.file),
        };
        Entry::new(self.document, place, value)
    }

    pub(super) fn table(&self, example: &str) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table", example);
            return None;
        };
        let place = Place {
            value: None,
            ..self.place.clone()
        };
        Some(Table {
            document: self.document,
            place,
            table,
            known: RefCell::default(),
        })
    }

    /// The tables of a list of tables.
    pub(super) fn tables(&self, example: &str) -> Vec<Table<'a>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("a list of tables", example);
            return Vec::new();
        };
        let entries = array
            .iter()
            .enumerate()
            .map(|(at, value)| self.element(at, value));
        entries.filter_map(|entry| entry.table(example)).collect()
    }

    /// The path of a file; a relative one starts at the configuration file's directory.
    pub(super) fn path(&self, example: &str) -> Option<FileSetting> {
        let text = self.string(example)?;
        if text.is_empty() || text.contains('\0') {
            self.report("is no path", format!("name a file, such as {example}"));
            return None;
        }
        Some(FileSetting {
            path: self.document.directory.join(text),
            place: self.place.clone(),
        })
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.document.directory.to_owned()
    }
}

fn is_table_array(value: &DeValue<'_>) -> bool {
    value
        .as_array()
        .is_some_and(|array| array.iter().any(|element| element.get_ref().is_table()))
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {type_name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_for_slips_only() {
        let known = [
            "address",
            "certificate",
            "certificates",
            "client_ca",
            "crl",
            "key",
        ];
        for (slip, meant) in [
            ("adress", Some("address")),
            ("Certificate", Some("certificate")),
            ("cert", Some("certificate")),
            ("client-ca", Some("client_ca")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(slip, &known), meant, "{slip}");
        }
    }
}
