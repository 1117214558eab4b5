//! What may be asked over HTTP, and how.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::desk::{Answer, Desk, Question};
use crate::config::LogLevel;

/// Bytes of a request's body; none is needed.
const BODY_MAX: usize = 4096;

/// What is read, and what changes the process.
const READS: [(&str, Question); 4] = [
    ("/livez", Question::Live),
    ("/metrics", Question::Metrics),
    ("/readyz", Question::Ready),
    ("/status", Question::Status),
];
const WRITES: [(&str, Question); 3] = [
    ("/drain", Question::Drain),
    ("/reload", Question::Reload),
    ("/revoke/dry-run", Question::DryRun),
];
const LOG_LEVEL: &str = "/log/level";

/// Answers a request; `may_write` where it may change the process.
pub(super) async fn serve(
    request: Request<Incoming>,
    desk: Desk,
    may_write: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let question = question(request.method(), &path, &query, may_write);
    let is_head = request.method() == Method::HEAD;
    let answer = match question {
        Err(answer) => answer,
        Ok(_) if is_too_large(request.into_body()).await => Answer::text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request needs no body, and may have {BODY_MAX} bytes"),
        ),
        Ok(question) => match desk.ask(question) {
            None => Answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests are waiting: try again later",
            ),
            Some(answer) => answer.recv().await.unwrap_or_else(|| {
                let text = "the process is ending, or what was asked for was given up";
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, text)
            }),
        },
    };
    Ok(response(answer, &path, is_head))
}

/// What a request asks; or why it cannot be asked.
fn question(method: &Method, path: &str, query: &str, may_write: bool) -> Result<Question, Answer> {
    let named = |table: &[(&str, Question)]| {
        let found = table.iter().find(|(known, _)| *known == path);
        found.map(|&(_, question)| question)
    };
    let is_read = *method == Method::GET || *method == Method::HEAD;
    if let Some(question) = named(&READS) {
        return match is_read {
            true => Ok(question),
            false => Err(not_allowed(path)),
        };
    }
    let is_level = path == LOG_LEVEL;
    let write = named(&WRITES);
    if write.is_none() && !is_level {
        let text = format!("there is no {path}; {}", listed());
        return Err(Answer::text(StatusCode::NOT_FOUND, text));
    }
    if *method != Method::POST {
        return Err(not_allowed(path));
    }
    if !may_write {
        return Err(Answer::text(
            StatusCode::FORBIDDEN,
            "over TCP nothing may be changed unless [admin] says writes_over_tcp = true; use the \
             admin socket: ringgate ctl",
        ));
    }
    match write {
        Some(question) => Ok(question),
        None => level(query).map(Question::LogLevel).ok_or_else(|| {
            let text = "name a level: /log/level?level=error, warn, info, debug or trace";
            Answer::text(StatusCode::BAD_REQUEST, text)
        }),
    }
}

fn level(query: &str) -> Option<LogLevel> {
    let name = query.strip_prefix("level=")?;
    LogLevel::ALL
        .into_iter()
        .find(|level| level.label() == name)
}

fn not_allowed(path: &str) -> Answer {
    let text = format!("{path} takes {}", allowed(path));
    Answer::text(StatusCode::METHOD_NOT_ALLOWED, text)
}

fn allowed(path: &str) -> &'static str {
    match READS.iter().any(|(known, _)| *known == path) {
        true => "GET, HEAD",
        false => "POST",
    }
}

fn listed() -> String {
    let paths = |table: &[(&str, Question)]| {
        let paths: Vec<&str> = table.iter().map(|(path, _)| *path).collect();
        paths.join(", ")
    };
    format!(
        "GET {}; POST {}, {LOG_LEVEL}",
        paths(&READS),
        paths(&WRITES)
    )
}

async fn is_too_large(body: Incoming) -> bool {
    if body.is_end_stream() {
        return false;
    }
    Limited::new(body, BODY_MAX).collect().await.is_err()
}

fn response(answer: Answer, path: &str, is_head: bool) -> Response<Full<Bytes>> {
    let Answer {
        status,
        content_type,
        body,
    } = answer;
    let body = match is_head {
        true => Bytes::new(),
        false => Bytes::from(body),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static(allowed(path)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_takes_its_methods() {
        let status = |method: Method, path: &str, query: &str, may_write| {
            question(&method, path, query, may_write).map_err(|answer| answer.status.as_u16())
        };
        for may_write in [true, false] {
            let asked = |path| status(Method::GET, path, "", may_write);
            assert_eq!(asked("/metrics"), Ok(Question::Metrics));
            assert_eq!(
                status(Method::HEAD, "/livez", "", may_write),
                Ok(Question::Live)
            );
            assert_eq!(asked("/reload"), Err(405));
            assert_eq!(asked("/log/level"), Err(405));
            assert_eq!(asked("/"), Err(404));
            assert_eq!(asked("/metrics/"), Err(404));
            assert_eq!(status(Method::POST, "/status", "", may_write), Err(405));
            assert_eq!(status(Method::DELETE, "/drain", "", may_write), Err(405));
        }
        let write = |path, query| status(Method::POST, path, query, true);
        assert_eq!(write("/reload", ""), Ok(Question::Reload));
        assert_eq!(
            write("/log/level", "level=debug"),
            Ok(Question::LogLevel(LogLevel::Debug))
        );
        for query in ["", "level", "level=", "level=loud", "debug"] {
            assert_eq!(write("/log/level", query), Err(400), "{query}");
        }
        for path in ["/reload", "/drain", "/revoke/dry-run", "/log/level"] {
            assert_eq!(status(Method::POST, path, "level=info", false), Err(403));
        }
    }
}
