//! One health check: connect, and where that is wanted ask.

use std::time::Duration;

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::GlommioError;
use glommio::future::timeout;
use glommio::net::{TcpStream, UnixStream};

use crate::config::{Greeting, HealthCheck, HttpCheck, UpstreamAddress};
use crate::snapshot::Checked;

/// A PROXY v2 header of the command LOCAL, which the specification (section 2.2) has for health
/// checks: signature, version and command, no addresses, nothing more.
const LOCAL_HEADER: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Bytes of an answer within which its status line ends.
const STATUS_LINE_MAX: usize = 1024;

/// Checks an upstream once; or says what is wrong with it.
pub(super) async fn probe(checked: &Checked) -> Result<(), String> {
    let limit = checked.check.timeout;
    let outcome = timeout(limit, ask(checked)).await;
    outcome.unwrap_or_else(|_| Err(late(limit)))
}

fn late(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

async fn ask(checked: &Checked) -> Result<(), String> {
    let refused = |error: GlommioError<()>| format!("it takes no connections: {error}");
    match &checked.address {
        UpstreamAddress::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            converse(stream, checked).await
        }
        UpstreamAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(refused)?;
            converse(stream, checked).await
        }
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    checked: &Checked,
) -> Result<(), String> {
    let HealthCheck { http, .. } = &checked.check;
    let mut words = match checked.greeting {
        Greeting::Off => Vec::new(),
        Greeting::ProxyV2 { .. } => LOCAL_HEADER.to_vec(),
    };
    if let Some(http) = http {
        words.extend_from_slice(request(http, &checked.address).as_bytes());
    }
    let sent = stream.write_all(&words).await;
    sent.map_err(|error| format!("it takes nothing: {error}"))?;
    match http {
        None => Ok(()),
        Some(http) => judge(&read_line(stream).await?, http),
    }
}

fn request(http: &HttpCheck, address: &UpstreamAddress) -> String {
    let by_address = || match address {
        UpstreamAddress::Tcp(address) => address.to_string(),
        UpstreamAddress::Unix(_) => "localhost".to_owned(),
    };
    let host = http.host.clone().unwrap_or_else(by_address);
    let path = &http.path;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringgate\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

/// The first line of the answer, or what there is of it.
async fn read_line(mut stream: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let (mut line, mut buffer) = (Vec::new(), [0; STATUS_LINE_MAX]);
    loop {
        let read = stream.read(&mut buffer).await;
        let len = read.map_err(|error| format!("its answer breaks off: {error}"))?;
        line.extend_from_slice(&buffer[..len]);
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            line.truncate(end);
            return Ok(line);
        }
        if len == 0 || line.len() >= STATUS_LINE_MAX {
            return Ok(line);
        }
    }
}

/// Whether the status line (RFC 9112 section 4) says that it is well.
fn judge(line: &[u8], http: &HttpCheck) -> Result<(), String> {
    match status(line) {
        Some(status) if http.status.contains(&status) => Ok(()),
        Some(status) => Err(format!("it answers with status {status}")),
        None => Err("its answer is not HTTP".to_owned()),
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let ([b'0'..=b'9', b' '], rest) = rest.split_first_chunk()? else {
        return None;
    };
    let (code, rest) = rest.split_first_chunk::<3>()?;
    if !matches!(rest.first(), None | Some(b' ' | b'\r')) {
        return None;
    }
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    code.iter()
        .try_fold(0, |sum, byte| Some(sum * 10 + digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_good_and_bad() {
        for (line, expected) in [
            (&b"HTTP/1.1 200 OK\r"[..], Some(200)),
            (b"HTTP/1.0 503\r", Some(503)),
            (b"HTTP/1.1 204 ", Some(204)),
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.1 20", None),
            (b"HTTP/1.1 2000 OK", None),
            (b"HTTP/1.1 2x0 OK", None),
            (b"HTTP/1.1  200 OK", None),
            (b"HTTP/1.x 200 OK", None),
            (b"HTTP/2 200", None),
            (b"SSH-2.0-x", None),
            (b"", None),
        ] {
            assert_eq!(
                status(line),
                expected,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn requests_name_the_host_that_is_meant() {
        let http = HttpCheck {
            path: "/healthz".to_owned(),
            host: None,
            status: 200..=399,
        };
        let tcp = UpstreamAddress::Tcp(([10, 0, 0, 5], 80).into());
        let text = request(&http, &tcp);
        assert!(
            text.starts_with("GET /healthz HTTP/1.1\r\nHost: 10.0.0.5:80\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"));
        let named = HttpCheck {
            host: Some("app.internal".to_owned()),
            ..http
        };
        assert!(request(&named, &tcp).contains("\r\nHost: app.internal\r\n"));
        assert!(
            judge(b"HTTP/1.1 500 x", &named)
                .unwrap_err()
                .contains("500")
        );
    }
}
