//! Asking a running process: the other end of the admin socket, for `ringgate ctl`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{connect, is_late};

/// Bytes of an answer, which is a status at the most.
const ANSWER_MAX: u64 = 64 << 20;

/// How long an answer may take: a reload reads files.
const PATIENCE: Duration = Duration::from_secs(125);

/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "the admin socket {path}: {source}; ringgate must be running with [admin] socket = \
         \"{path}\", and this user must be its user or root"
    )]
    Connect { path: PathBuf, source: io::Error },
    #[error("the process at {path} did not answer: {source}; see its log")]
    Answer { path: PathBuf, source: io::Error },
}

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    /// The status code (RFC 9110 section 15).
    pub code: u16,
    pub body: String,
}

impl Answered {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Sends one request to the process that listens at `socket`.
///
/// # Errors
///
/// When nobody answers there.
pub fn ask(socket: &Path, method: &str, target: &str) -> Result<Answered, AskError> {
    let mut stream = connect(socket).map_err(|source| {
        let path = socket.to_owned();
        match is_late(&source) {
            true => AskError::Answer { path, source },
            false => AskError::Connect { path, source },
        }
    })?;
    exchange(&mut stream, method, target).map_err(|source| AskError::Answer {
        path: socket.to_owned(),
        source,
    })
}

fn exchange(stream: &mut UnixStream, method: &str, target: &str) -> io::Result<Answered> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // To this version of HTTP the answer ends with the connection.
    write!(
        stream,
        "{method} {target} HTTP/1.0\r\nhost: ringgate\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(&answer) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the answer ended early",
            ));
        }
        Err(error) => {
            let text = format!("this is no HTTP answer: {error}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    };
    Ok(Answered {
        code: response.code.unwrap_or_default(),
        body: String::from_utf8_lossy(&answer[head..]).into_owned(),
    })
}
