//! Writing the secrets of sessions into a file, where the operator says so twice: by the variable
//! that other programs heed, and by a flag that says what it means.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
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
    #[error(
        "{VARIABLE}={path}: {source}; name a file that this user may write, and \
             no link to one"
    )]
    File { path: PathBuf, source: io::Error },
    #[error("{VARIABLE}={path}: {problem}, and secrets would be read there; {remedy}")]
    Exposed {
        path: PathBuf,
        problem: String,
        remedy: &'static str,
    },
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
    let file = open(&path)?;
    Ok(SecretsFile(Some((path, file))))
}

/// Opens the file at `path`, which nobody else can read, or makes it.
fn open(path: &Path) -> Result<File, SecretsError> {
    // Not through a link, which may lead anywhere. A FIFO that nobody reads is not waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|source| SecretsError::File {
        path: path.to_owned(),
        source,
    })?;
    match exposure(&metadata, rustix::process::geteuid().as_raw()) {
        None => Ok(file),
        Some((problem, remedy)) => Err(SecretsError::Exposed {
            path: path.to_owned(),
            problem,
            remedy,
        }),
    }
}

/// Who but `user` and root could read what is written to a file, if anybody, and the remedy.
fn exposure(metadata: &Metadata, user: u32) -> Option<(String, &'static str)> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_file() {
        let problem = format!("it is no regular file (mode {mode:04o})");
        Some((problem, "name one, or one that does not exist yet"))
    } else if owner != user && owner != 0 {
        let problem = format!("it is user {owner}'s (mode {mode:04o})");
        Some((problem, "remove it, or name another"))
    } else if mode & 0o077 != 0 {
        let problem = format!("others have rights to it (mode {mode:04o})");
        Some((problem, "remove it, or take them away: chmod 600"))
    } else {
        None
    }
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_file_that_others_can_read_gets_no_secrets() {
        let name = format!("ringgate-secrets-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        let file = root.join("keys");
        let refused = |path: &Path| open(path).unwrap_err().to_string();
        for _ in 0..2 {
            open(&file).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        }
        for mode in [0o604, 0o640, 0o620, 0o601] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let text = refused(&file);
            for part in [
                file.to_str().unwrap(),
                &format!("mode {mode:04o}"),
                "chmod 600",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        let owner = metadata.uid();
        assert_eq!(exposure(&metadata, owner), None);
        let (problem, _) = exposure(&fs::metadata("/dev/null").unwrap(), owner).unwrap();
        assert!(problem.contains("no regular file"), "{problem}");
        if owner == 0 {
            chown(&file, Some(65_534), None).unwrap();
            assert!(refused(&file).contains("it is user 65534's"));
        }
        let metadata = fs::metadata(&file).unwrap();
        let (problem, _) = exposure(&metadata, metadata.uid() + 1).unwrap();
        assert!(problem.contains("it is user"), "{problem}");

        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        symlink(&file, root.join("link")).unwrap();
        assert!(refused(&root.join("link")).contains("symbolic link"));
        assert!(refused(Path::new("/dev/null")).contains("no regular file"));
        fs::remove_dir_all(&root).unwrap();
    }
}
