//! The predecessor's side of a takeover, see [`takeover`].

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::timer;
use rustix::net::RecvFlags;
use rustix::net::sockopt::socket_peercred;

use super::desk::Question;
use super::stream::Socket;
use super::{House, REQUEST_MAX, within};
use crate::control::takeover::{DRAINING, GREETING, Passed, STARTED, send_socket};

/// What every version of a takeover begins with, and no method of HTTP does.
const ANY_GREETING: &str = "TAKEOVER ";

/// How often a connection is looked at that has sent a part of a greeting, and a desk that is full.
const LOOK: Duration = Duration::from_millis(10);

/// How long a successor starts before the log says so, and says so again.
const SLOW_START: Duration = Duration::from_secs(60);

/// Whether the other end wants to take over. It may not have sent anything at all.
pub(super) async fn is_wanted(socket: &PollableFd<Socket>) -> bool {
    let mut bytes = [0; ANY_GREETING.len()];
    loop {
        if socket.readable().await.is_err() {
            return false;
        }
        let peeked = rustix::net::recv(socket.get_ref(), &mut bytes[..], RecvFlags::PEEK);
        let Ok((len, _)) = peeked else {
            return false;
        };
        if len == 0 || !ANY_GREETING.as_bytes().starts_with(&bytes[..len]) {
            return false;
        }
        if len == ANY_GREETING.len() {
            return true;
        }
        timer::sleep(LOOK).await;
    }
}

/// Gives the sockets away, and drains once they are accepted from. Whatever fails before that leaves
/// everything as it was.
pub(super) async fn hand_over(socket: &PollableFd<Socket>, house: &House) {
    let given = match Turn::take(socket, house) {
        Ok(turn) => give(socket, house, &turn).await,
        Err(who) => refuse_second(socket, &who).await,
    };
    match given {
        Ok(()) => tracing::info!("a successor accepts the connections from here on"),
        Err(error) => tracing::warn!(
            %error,
            "a successor did not take over: this process serves on"
        ),
    }
}

/// One successor's turn, which ends when it is dropped.
struct Turn<'h> {
    house: &'h House,
    who: String,
}

impl<'h> Turn<'h> {
    /// Or whose turn it is.
    fn take(socket: &PollableFd<Socket>, house: &'h House) -> Result<Self, String> {
        if let Some(who) = &*house.successor.borrow() {
            return Err(who.clone());
        }
        let peer = socket_peercred(socket.get_ref().as_fd());
        let who = peer.map_or_else(
            |_| "a process".to_owned(),
            |peer| format!("process {}", peer.pid),
        );
        house.successor.replace(Some(who.clone()));
        Ok(Self { house, who })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.house.successor.replace(None);
    }
}

async fn give(socket: &PollableFd<Socket>, house: &House, turn: &Turn<'_>) -> io::Result<()> {
    let mut sockets = pin!(give_sockets(socket, house));
    let given = within(REQUEST_MAX, sockets.as_mut()).await;
    given.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()))?;
    let mut started = pin!(read_line(socket));
    let line = loop {
        if let Some(line) = within(SLOW_START, started.as_mut()).await {
            break line?;
        }
        tracing::warn!(
            "{} was given the listening sockets and has not started to accept: this process serves \
             on; end that one if it hangs",
            turn.who
        );
    };
    if line.as_bytes() != STARTED.trim_ascii_end() {
        return Err(io::Error::other("it did not say that it had started"));
    }
    if !house.release().await {
        return refuse(socket, "it is ending already").await;
    }
    // It serves already: whether it hears of this changes nothing.
    let _ = write(socket, DRAINING).await;
    Ok(())
}

async fn give_sockets(socket: &PollableFd<Socket>, house: &House) -> io::Result<()> {
    let greeting = read_line(socket).await?;
    let lent = match check(socket, &greeting) {
        Ok(()) => house.lend().await,
        Err(why) => Err(why),
    };
    let passed = match lent {
        Ok(passed) => passed,
        Err(why) => return refuse(socket, &why).await,
    };
    write(socket, format!("SOCKETS {}\n", passed.len()).as_bytes()).await?;
    for one in &passed {
        send(socket, one).await?;
    }
    Ok(())
}

/// There is one successor at a time: of two that have started, one could not be found any more.
async fn refuse_second(socket: &PollableFd<Socket>, who: &str) -> io::Result<()> {
    // What is not read would reset the answer.
    let mut greeting = pin!(read_line(socket));
    within(REQUEST_MAX, greeting.as_mut()).await;
    let why = format!("{who} is taking over already; end that one first if it hangs");
    refuse(socket, &why).await
}

/// Says why nothing is handed over, which is the error.
async fn refuse(socket: &PollableFd<Socket>, why: &str) -> io::Result<()> {
    write(socket, format!("REFUSED {why}\n").as_bytes()).await?;
    Err(io::Error::other(why.to_owned()))
}

/// Who may take over: this user or root, and only the same exchange.
fn check(socket: &PollableFd<Socket>, greeting: &str) -> Result<(), String> {
    let own = rustix::process::geteuid();
    let peer = socket_peercred(socket.get_ref().as_fd());
    let peer = peer.map_err(|error| format!("who asks is not known: {error}"))?;
    if peer.uid != own && !peer.uid.is_root() {
        return Err(format!(
            "user {} asks, and this process is user {}'s",
            peer.uid.as_raw(),
            own.as_raw()
        ));
    }
    if greeting != GREETING.trim_end() {
        return Err(format!(
            "this is ringgate {}, which takes {:?}, not {greeting:?}",
            env!("CARGO_PKG_VERSION"),
            GREETING.trim_end()
        ));
    }
    Ok(())
}

async fn read_line(socket: &PollableFd<Socket>) -> io::Result<String> {
    const LINE_MAX: usize = 64;
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match socket.get_ref().read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Ok(_) if line.len() < LINE_MAX => line.push(byte[0]),
            Ok(_) => return Err(ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.readable().await.map_err(super::stream::into_io)?;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn write(socket: &PollableFd<Socket>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.get_ref().write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.writable().await.map_err(super::stream::into_io)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn send(socket: &PollableFd<Socket>, passed: &Passed) -> io::Result<()> {
    loop {
        match send_socket(socket.get_ref().as_fd(), passed) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.writable().await.map_err(super::stream::into_io)?;
            }
            sent => return sent,
        }
    }
}

impl House {
    /// Every listening socket, this interface's own among them; or why they are not to be had.
    async fn lend(&self) -> Result<Vec<Passed>, String> {
        let full = || "too many requests are waiting".to_owned();
        let lent = self.desk.borrow_sockets().ok_or_else(full)?.recv().await;
        let mut passed = lent.unwrap_or_else(|| Err("it is ending".to_owned()))?;
        if let Some((listener, _)) = &*self.tcp.borrow() {
            let socket = listener.try_clone().map_err(|error| error.to_string())?;
            passed.push(Passed {
                socket: socket.into(),
                listener: String::new(),
                is_shared: false,
                number: 0,
            });
        }
        Ok(passed)
    }

    /// Drains, and answers over TCP no more. False where the process is ending already.
    async fn release(&self) -> bool {
        let draining = loop {
            match self.desk.ask(Question::Release) {
                Some(draining) => break draining,
                None => timer::sleep(LOOK).await,
            }
        };
        let answer = draining.recv().await;
        let is_draining = answer.is_some_and(|answer| answer.status.is_success());
        if is_draining {
            self.tcp.borrow_mut().take();
        }
        is_draining
    }
}
