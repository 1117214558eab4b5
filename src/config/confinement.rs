//! What the process gives up once it is set up.

use super::document::{Entry, Table};

/// What the process does without from then on, as far as the kernel lets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfinementOptions {
    /// The files that it needs are the only ones that it can open (Landlock).
    pub landlock: bool,
    /// It keeps no capability but that of binding ports below 1024, and gets none by starting a
    /// program.
    pub privileges: bool,
    /// Shards' rings do only what shards ask of them.
    pub rings: bool,
}

/// Whom the process goes on as, by name or number; where it is not said, as who it was started.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProcessOptions {
    pub user: Option<String>,
    /// The user's own groups where it is not said.
    pub group: Option<String>,
}

pub(super) fn confinement(table: Option<&Table<'_>>) -> ConfinementOptions {
    let is_on = |key| {
        let entry = table.and_then(|table| table.entry(key));
        entry.and_then(|entry| entry.boolean()).unwrap_or(true)
    };
    ConfinementOptions {
        landlock: is_on("landlock"),
        privileges: is_on("privileges"),
        rings: is_on("rings"),
    }
}

pub(super) fn process(table: Option<&Table<'_>>) -> ProcessOptions {
    const USER_EXAMPLE: &str = "user = \"ringgate\"";
    let Some(table) = table else {
        return ProcessOptions::default();
    };
    let name = |entry: &Entry<'_>, example| {
        let name = entry.string(example)?;
        if name.is_empty() || name.contains([':', '\n', '\0']) {
            entry.report("is no name and no number", example);
            return None;
        }
        Some(name.to_owned())
    };
    let user = table
        .entry("user")
        .and_then(|entry| name(&entry, USER_EXAMPLE));
    let group = table.entry("group");
    if let Some(entry) = &group
        && user.is_none()
    {
        entry.report(
            "there is no user to go with it",
            format!("add {USER_EXAMPLE}, or remove this line"),
        );
    }
    let group = group.and_then(|entry| name(&entry, "group = \"ringgate\""));
    ProcessOptions { user, group }
}
