//! Writing the secrets of sessions into a file, where the operator says so twice: by the variable
//! that other programs heed, and by a flag that says what it means.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::snapshot::disclose_secrets;

/// The variable that names the file (draft-ietf-tls-keylogfile).
const VARIABLE: &str = "SSLKEYLOGFILE";

/// Lines that may wait to be written.
const WAITING_MAX: usize = 4096;

/// Why secrets are not written though that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("--log-session-secrets needs the variable {VARIABLE}, the file to write them to")]
    NoFile,
    #[error("{VARIABLE}={path}: {source}; name a file that this user may write")]
    File { path: PathBuf, source: io::Error },
}

/// The file for secrets, where they are to be written.
#[derive(Debug, Default)]
pub struct SecretsFile(Option<(PathBuf, File)>);

/// The thread that writes secrets; dropped, it writes what waits and ends.
#[derive(Debug, Default)]
pub struct SecretsWriting(#[expect(dead_code, reason = "held until the end")] Option<WorkerGuard>);

/// Where `wanted`, opens the file that the environment names, which only this user may read, for
/// every session's secrets. Otherwise the variable is not heeded.
///
/// # Errors
///
/// When they are wanted and cannot be written.
pub fn log_session_secrets(wanted: bool) -> Result<SecretsFile, SecretsError> {
    let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let Some(path) = path.map(PathBuf::from) else {
        return match wanted {
            true => Err(SecretsError::NoFile),
            false => Ok(SecretsFile::default()),
        };
    };
    if !wanted {
        tracing::warn!("{VARIABLE} is set, and not heeded without --log-session-secrets");
        return Ok(SecretsFile::default());
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| SecretsError::File {
            path: path.clone(),
            source,
        })?;
    Ok(SecretsFile(Some((path, file))))
}

impl SecretsFile {
    /// Writes every session's secrets from here on, by a thread of its own.
    pub fn write(self) -> SecretsWriting {
        let Some((path, file)) = self.0 else {
            return SecretsWriting::default();
        };
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING_MAX)
            .thread_name("ringgate-secrets")
            .finish(file);
        disclose_secrets(move |line| {
            // Queued, or dropped where the disk is too slow: a shard waits for nothing.
            let _ = writer.clone().write_all(line.as_bytes());
        });
        tracing::warn!(
            file = %path.display(),
            "SESSION SECRETS ARE BEING WRITTEN: whoever reads this file reads the traffic; start \
             without --log-session-secrets to end that"
        );
        SecretsWriting(Some(guard))
    }
}
