//! Writing a new secret for ticket keys.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::trust::stek::new_secret;

/// Writes a new secret into `file`, which only its owner may read and which must not exist.
///
/// # Errors
///
/// The problem and its remedy, for people.
pub fn new_stek(file: &Path) -> Result<(), String> {
    let path = file.display();
    let mut options = OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(file);
    let mut created = created.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!(
            "{path} exists, and what it holds may be in use: name another file, or remove it first"
        ),
        _ => format!("{path} cannot be made: {error}; name a file in a directory of yours"),
    })?;
    let written = created
        .write_all(new_secret().as_bytes())
        .and_then(|()| created.sync_all());
    written.map_err(|error| {
        // Half a secret must not look like one.
        let _ = std::fs::remove_file(file);
        format!("{path} cannot be written: {error}; make room there, or name another file")
    })
}
