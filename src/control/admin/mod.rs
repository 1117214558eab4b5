//! The admin interface: HTTP on a Unix socket, and where configured over TCP. It reads everything
//! and changes little; what it is asked is answered by the control loop, see [`desk`].

pub mod client;
mod desk;
mod handover;
mod metrics;
mod observation;
mod service;
mod socket;
mod status;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::PollableFd;
use glommio::{Task, timer::Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::takeover::Succession;
use crate::config::AdminOptions;

pub(super) use desk::{Answer, Asker, Desk, Lent, Question};
pub(super) use metrics::metrics;
pub use observation::Stage;
pub(super) use observation::{Known, Observation, observe};
pub use socket::AdminError;
use socket::{Listening, Published, Unpublished};
pub(super) use socket::{connect, is_late};
pub(super) use status::status;
pub use status::{Counts, DryRun, Listener, Name, Reloaded, Shard, Status, Upstream, Withdrawn};
use stream::{Socket, Stream};

/// Connections that may be open over each of TCP and the Unix socket; the oldest gives way to a new
/// one. Clients over TCP do not cut the operator off.
const CONNECTIONS_MAX: usize = 64;

/// Connections that are accepted before others on this executor have their turn.
const ACCEPTED_AT_ONCE: usize = 16;

/// How long one may take, from its first byte to the end of its answer. A reload may take as long as
/// files take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;

/// After a failed accept: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The admin interface, ready to serve.
#[derive(Debug, Default)]
pub struct Admin {
    tcp: Option<TcpListener>,
    unix: Option<Unpublished>,
    writes_over_tcp: bool,
}

impl Admin {
    /// Listens where `options` say; nobody can find the Unix socket before [`Control::run`]
    /// publishes it. A predecessor is replaced, and its socket for TCP goes on being used.
    ///
    /// # Errors
    ///
    /// When one of both cannot be had.
    ///
    /// [`Control::run`]: super::Control::run
    pub fn bind(options: &AdminOptions, succession: &mut Succession) -> Result<Self, AdminError> {
        let unix = options.socket.as_deref();
        let takes_over = succession.has_predecessor();
        let passed = succession.take_admin_socket().map(TcpListener::from);
        let tcp = |address: SocketAddr| match passed {
            Some(listener) if listener.local_addr().is_ok_and(|it| it == address) => Ok(listener),
            _ => socket::tcp(address),
        };
        Ok(Self {
            unix: unix
                .map(|path| socket::unix(path, takes_over))
                .transpose()?,
            tcp: options.address.map(tcp).transpose()?,
            writes_over_tcp: options.writes_over_tcp,
        })
    }

    /// Serves on the current executor until what is returned is dropped.
    pub(super) fn serve(self, desk: &Desk) -> Result<Serving, AdminError> {
        let house = Rc::new(House::new(desk));
        if let Some(listener) = self.tcp.map(Rc::new) {
            let listening = Listening::Tcp(Rc::clone(&listener));
            let task = accept(listening, Rc::clone(&house), self.writes_over_tcp);
            *house.tcp.borrow_mut() = Some((listener, glommio::spawn_local(task)));
        }
        let (mut acceptor, mut published) = (None, None);
        if let Some(unpublished) = self.unix {
            let (listener, name) = unpublished.publish()?;
            let task = accept(Listening::Unix(listener), Rc::clone(&house), true);
            acceptor = Some(glommio::spawn_local(task));
            published = Some(name);
        }
        Ok(Serving {
            house,
            _acceptor: acceptor,
            published,
        })
    }
}

/// The admin interface, while it serves.
#[derive(Debug)]
pub(super) struct Serving {
    house: Rc<House>,
    /// Dropped, it ends.
    _acceptor: Option<Task<()>>,
    published: Option<Published>,
}

impl Serving {
    /// This process serves, and so this interface is what is found from here on.
    pub(super) fn settle(&mut self) {
        if let Some(published) = &mut self.published {
            published.settle();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its task holds the house.
        self.house.tcp.borrow_mut().take();
    }
}

/// What connections share.
#[derive(Debug)]
struct House {
    desk: Desk,
    over_tcp: Connections,
    over_unix: Connections,
    /// The listening socket over TCP, and who accepts from it.
    tcp: RefCell<Option<(Rc<TcpListener>, Task<()>)>>,
    /// Who is being given the sockets: there is one.
    successor: RefCell<Option<String>>,
}

impl House {
    fn new(desk: &Desk) -> Self {
        Self {
            desk: desk.clone(),
            over_tcp: Connections::default(),
            over_unix: Connections::default(),
            tcp: RefCell::default(),
            successor: RefCell::default(),
        }
    }
}

/// Connections that are open, the oldest first, each with whether it is over.
#[derive(Debug, Default)]
struct Connections(RefCell<VecDeque<Connection>>);

/// Its task ends when it is dropped.
type Connection = (Rc<State>, Task<()>);

/// What becomes of a connection.
#[derive(Debug, Default)]
struct State {
    is_over: Cell<bool>,
    /// It hands the process's sockets over: it gives way to nobody.
    hands_over: Cell<bool>,
}

impl Connections {
    /// Serves one that has come. The oldest gives way where there are too many.
    fn add(&self, socket: Socket, house: &Rc<House>, may_write: bool) {
        let mut open = self.0.borrow_mut();
        open.retain(|(state, _)| !state.is_over.get());
        if open.len() >= CONNECTIONS_MAX {
            let oldest = open.iter().position(|(state, _)| !state.hands_over.get());
            oldest.and_then(|oldest| open.remove(oldest));
        }
        let state = Rc::new(State::default());
        let (serving, house) = (Rc::clone(&state), Rc::clone(house));
        let task = glommio::spawn_local(async move {
            serve(socket, house, &serving, may_write).await;
            serving.is_over.set(true);
        });
        open.push_back((state, task));
    }
}

async fn accept(listening: Listening, house: Rc<House>, may_write: bool) {
    let Ok(listening) = PollableFd::new(listening) else {
        return tracing::error!("the admin interface cannot be waited for: it does not answer");
    };
    let connections = match listening.get_ref() {
        Listening::Tcp(_) => &house.over_tcp,
        Listening::Unix(_) => &house.over_unix,
    };
    let mut accepted = 0_usize;
    loop {
        match listening.get_ref().accept() {
            Ok(socket) => {
                connections.add(socket, &house, may_write);
                accepted = accepted.wrapping_add(1);
                if accepted.is_multiple_of(ACCEPTED_AT_ONCE) {
                    glommio::executor().yield_now().await;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if listening.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => glommio::timer::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one request.
async fn serve(socket: Socket, house: Rc<House>, state: &State, may_write: bool) {
    let is_unix = matches!(socket, Socket::Unix(_));
    let Ok(socket) = PollableFd::new(socket) else {
        return;
    };
    let since = Instant::now();
    if is_unix {
        let mut wanted = false;
        let look = async { wanted = handover::is_wanted(&socket).await };
        is_done_within(REQUEST_MAX, std::pin::pin!(look)).await;
        if wanted {
            state.hands_over.set(true);
            return handover::hand_over(&socket, &house).await;
        }
    }
    let (socket, answered) = (Rc::new(socket), Rc::new(Cell::new(false)));
    let asked = Rc::new(Cell::new(false));
    let was_asked = Rc::clone(&asked);
    let service = service_fn(move |request| {
        asked.set(true);
        service::serve(request, house.desk.clone(), may_write)
    });
    let stream = Stream::new(Rc::clone(&socket), Rc::clone(&answered));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(HEAD_MAX)
            .serve_connection(stream, service)
    );
    // Whether it was a takeover has taken a part of that time.
    let request_max = REQUEST_MAX.saturating_sub(since.elapsed());
    for (patience, goes_on) in [(request_max, true), (ANSWER_MAX, false)] {
        if is_done_within(patience, connection.as_mut()).await {
            return;
        }
        if !(goes_on && was_asked.get()) {
            break;
        }
    }
    if !answered.get() {
        // It may have left.
        let _ = socket.get_ref().write(SLOW);
    }
}

/// Whether `work` ends within `patience`, well or not: a client that errs or leaves ends its own
/// connection and no more.
async fn is_done_within<F: Future>(patience: Duration, work: Pin<&mut F>) -> bool {
    within(patience, work).await.is_some()
}

/// What comes of `work`, where it ends within `patience`.
async fn within<F: Future>(patience: Duration, mut work: Pin<&mut F>) -> Option<F::Output> {
    let mut timer = Timer::new(patience);
    poll_fn(|context| {
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut timer).poll(context).map(|_| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    fn in_an_executor(work: impl Future<Output = ()>) {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .ring_depth(16)
            .io_memory(64 << 10)
            .make()
            .unwrap();
        executor.run(work);
    }

    /// A listening socket, at which so many clients wait.
    fn awaited(name: &str, clients: usize) -> (UnixListener, Vec<UnixStream>) {
        let name = format!("ringgate-admin-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let connect = |_| UnixStream::connect(&path).unwrap();
        let clients = (0..clients).map(connect).collect();
        std::fs::remove_file(&path).unwrap();
        (listener, clients)
    }

    #[test]
    fn others_have_their_turn_while_connections_wait() {
        let (listener, _clients) = awaited("turns", 2 * ACCEPTED_AT_ONCE);
        in_an_executor(async {
            let house = Rc::new(House::new(&Desk::default()));
            let (at_first, seen) = (Rc::new(Cell::new(0)), Rc::clone(&house));
            let task = accept(Listening::Unix(listener), Rc::clone(&house), true);
            let _task = glommio::spawn_local(task);
            let noted = Rc::clone(&at_first);
            glommio::spawn_local(async move {
                noted.set(seen.over_unix.0.borrow().len());
            })
            .await;
            assert_eq!(at_first.get(), ACCEPTED_AT_ONCE);
        });
    }
}
