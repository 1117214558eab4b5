//! What is wrong with a configuration, where, and what to do about it.

use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;
use std::sync::Arc;

/// Characters of an offending value that an error shows.
const VALUE_SHOWN_MAX: usize = 80;

/// Where a setting stands in the configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    pub file: Arc<Path>,
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// The path of keys, such as `listener[0].rule[1].allow`; empty for the file as a whole.
    pub key: String,
    /// The value as the file writes it.
    pub value: Option<String>,
}

impl Place {
    /// The file as a whole.
    pub fn whole(file: &Arc<Path>) -> Self {
        Self {
            file: Arc::clone(file),
            line: 0,
            key: String::new(),
            value: None,
        }
    }

    /// What is wrong here, and what to do about it.
    pub fn error(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
        ConfigError {
            place: self.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable(&self.file.to_string_lossy()))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", Printable(&self.key))?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {}", shortened(value))?;
        }
        Ok(())
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {problem}\n  remedy: {remedy}", problem = Printable(.problem), remedy = Printable(.remedy))]
pub struct ConfigError {
    pub place: Place,
    pub problem: String,
    pub remedy: String,
}

/// All `errors`, one below the other, in the order of their lines.
pub fn render(errors: &[ConfigError]) -> String {
    let mut sorted: Vec<_> = errors.iter().collect();
    sorted.sort_by_key(|error| error.place.line);
    let mut text = String::new();
    for error in sorted {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{error}");
    }
    text
}

/// Shows control characters as escapes: file names and values must not move a terminal's cursor.
struct Printable<'a>(&'a str);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// The first line of `value`, cut where it is long.
fn shortened(value: &str) -> String {
    let line = value.lines().next().unwrap_or_default();
    let cut = line.chars().take(VALUE_SHOWN_MAX).collect::<String>();
    let mark = if cut.len() < value.trim_end().len() {
        "…"
    } else {
        ""
    };
    format!("{}{mark}", Printable(&cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(value: &str) -> Place {
        let file = Arc::from(Path::new("ringgate.toml"));
        Place {
            line: 3,
            key: "a.b".to_owned(),
            value: Some(value.to_owned()),
            ..Place::whole(&file)
        }
    }

    #[test]
    fn an_error_names_file_line_key_value_and_remedy() {
        let error = place("\"x\"").error("is wrong", "write \"y\"");
        assert_eq!(
            error.to_string(),
            "ringgate.toml:3: a.b = \"x\": is wrong\n  remedy: write \"y\""
        );
    }

    #[test]
    fn control_characters_are_escaped_and_long_values_cut() {
        let error = place("\u{1b}[2J").error("bad \u{7}", "none").to_string();
        assert!(
            !error.contains('\u{1b}') && !error.contains('\u{7}'),
            "{error}"
        );
        assert!(place(&"x".repeat(200)).to_string().ends_with("xx…"));
        assert!(place("[\n1]").to_string().ends_with("= […"));
    }
}
