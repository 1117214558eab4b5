//! Where the process is looked at and told what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::Table;
use super::upstream::UNIX_PATH_MAX;

/// Bytes of `.PID`, which the socket's name ends in until it listens: a process's number has at most
/// 7 digits (PID_MAX_LIMIT of Linux, 2^22).
const SUFFIX_LEN_MAX: usize = 8;

/// Where the admin interface listens; nowhere unless configured.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AdminOptions {
    /// A Unix socket that only this user may use.
    pub socket: Option<PathBuf>,
    /// For scrapes and probes over TCP.
    pub address: Option<SocketAddr>,
    /// Whether what changes the process is accepted over TCP too; then `address` is a loopback one.
    pub writes_over_tcp: bool,
}

pub(super) fn admin(table: Option<&Table<'_>>) -> AdminOptions {
    const SOCKET_EXAMPLE: &str = "socket = \"/run/ringgate/admin.sock\"";
    const ADDRESS_EXAMPLE: &str = "address = \"127.0.0.1:9180\"";
    let Some(table) = table else {
        return AdminOptions::default();
    };
    let socket = table.entry("socket").and_then(|entry| {
        let path = entry.path(SOCKET_EXAMPLE)?.path;
        let len = path.as_os_str().len();
        let most = UNIX_PATH_MAX - SUFFIX_LEN_MAX;
        if len > most {
            let problem = format!(
                "is {len} bytes long; {most} are possible: a Unix socket's path has at most \
                 {UNIX_PATH_MAX}, and this one is bound with `.PID` at its end"
            );
            entry.report(problem, format!("use a shorter path: {SOCKET_EXAMPLE}"));
        }
        Some(path)
    });
    let address = table.entry("address").and_then(|entry| {
        let address = entry.string(ADDRESS_EXAMPLE)?.parse::<SocketAddr>();
        if address.is_err() {
            entry.report("is no IP address with a port", ADDRESS_EXAMPLE);
        }
        address.ok()
    });
    let writes = table.entry("writes_over_tcp");
    let writes_over_tcp = writes.as_ref().and_then(|entry| entry.boolean());
    let writes_over_tcp = writes_over_tcp.unwrap_or_default();
    if let Some(entry) = writes.filter(|_| writes_over_tcp) {
        match address {
            None => entry.report(
                "there is no `address` that writes could come to",
                format!("add {ADDRESS_EXAMPLE}, or remove this line"),
            ),
            Some(address) if !address.ip().is_loopback() => entry.report(
                format!("anybody who reaches {address} could drain this process"),
                "listen on a loopback address, or write through `socket` alone",
            ),
            Some(_) => {}
        }
    }
    if table.entry("socket").is_none() && table.entry("address").is_none() {
        table.report(
            "listens nowhere",
            format!("add {SOCKET_EXAMPLE}, {ADDRESS_EXAMPLE}, or both"),
        );
    }
    AdminOptions {
        socket,
        address,
        writes_over_tcp,
    }
}
