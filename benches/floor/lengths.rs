//! How long the flights of a connection are, found out by having one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringgate::block::Pool;

use crate::flights::Flights;
use crate::session::{Client, Session};

/// How long each read waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those of one connection of `client` to a terminator at `target` whose upstream is an echo.
pub fn lengths(target: SocketAddr, client: &Client) -> Flights {
    let mut stream = TcpStream::connect(target).expect("a server that listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time that is not zero");
    let mut session = client.session();
    let hello = send(&mut session, &mut stream);
    let reply = receive(&mut session, &mut stream, |session, _| session.is_ready());
    session.write(&[0]);
    let finish = send(&mut session, &mut stream);
    let answer = receive(&mut session, &mut stream, |_, payload| payload == 1);
    session.says_goodbye();
    send(&mut session, &mut stream);
    Flights {
        hello,
        reply,
        finish,
        answer,
    }
}

fn send(session: &mut Session, stream: &mut TcpStream) -> usize {
    let mut block = Pool::new(1, 0).take().expect("a block");
    session.take_output(&mut block);
    let bytes = block.filled();
    stream.write_all(bytes).expect("a server that reads");
    bytes.len()
}

/// How many bytes were received until it is `enough`.
fn receive(
    session: &mut Session,
    stream: &mut TcpStream,
    enough: impl Fn(&Session, usize) -> bool,
) -> usize {
    let (mut len, mut payload, mut bytes) = (0, 0, [0; 1 << 14]);
    while !enough(session, payload) {
        let read = stream.read(&mut bytes).expect("a server that answers");
        assert!(read > 0, "the server left");
        len += read;
        payload += session.receive(&bytes[..read]);
    }
    len
}
