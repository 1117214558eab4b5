//! The admin interface: HTTP on a Unix socket, and where configured over TCP. It reads everything
//! and changes little; what it is asked is answered by the control loop, see [`desk`].

pub mod client;
mod desk;
mod metrics;
mod observation;
mod service;
mod socket;
mod status;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::{Task, timer::Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::config::AdminOptions;

pub(super) use desk::{Answer, Asker, Desk, Question};
pub(super) use metrics::metrics;
pub use observation::Stage;
pub(super) use observation::{Known, Observation, observe};
pub use socket::AdminError;
use socket::{Listening, Published, Unpublished};
pub(super) use status::status;
pub use status::{Counts, Listener, Reloaded, Shard, Status};
use stream::{Socket, Stream};

/// Connections that may be open; the oldest gives way to a new one.
const CONNECTIONS_MAX: usize = 64;

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
    /// publishes it. With `takes_over` the process that answers there now is replaced.
    ///
    /// # Errors
    ///
    /// When one of both cannot be had.
    ///
    /// [`Control::run`]: super::Control::run
    pub fn bind(options: &AdminOptions, takes_over: bool) -> Result<Self, AdminError> {
        let unix = options.socket.as_deref();
        Ok(Self {
            unix: unix
                .map(|path| socket::unix(path, takes_over))
                .transpose()?,
            tcp: options.address.map(socket::tcp).transpose()?,
            writes_over_tcp: options.writes_over_tcp,
        })
    }

    /// Serves on the current executor until what is returned is dropped.
    pub(super) fn serve(self, desk: &Desk) -> Result<Serving, AdminError> {
        let mut acceptors = Vec::new();
        let connections = Connections::default();
        let mut accept = |listening, may_write| {
            let (desk, connections) = (desk.clone(), connections.clone());
            let task = glommio::spawn_local(accept(listening, desk, connections, may_write));
            acceptors.push(task);
        };
        if let Some(listener) = self.tcp {
            accept(Listening::Tcp(listener), self.writes_over_tcp);
        }
        let mut published = None;
        if let Some(unpublished) = self.unix {
            let (listener, name) = unpublished.publish()?;
            accept(Listening::Unix(listener), true);
            published = Some(name);
        }
        Ok(Serving {
            _acceptors: acceptors,
            _published: published,
        })
    }
}

/// The admin interface, while it serves.
#[derive(Debug)]
pub(super) struct Serving {
    /// Dropped, they end.
    _acceptors: Vec<Task<()>>,
    _published: Option<Published>,
}

/// Connections that are open, the oldest first, each with whether it is over.
#[derive(Clone, Default)]
struct Connections(Rc<RefCell<VecDeque<(Rc<Cell<bool>>, Task<()>)>>>);

impl Connections {
    fn spawn(&self, connection: impl Future<Output = ()> + 'static) {
        let mut open = self.0.borrow_mut();
        open.retain(|(over, _)| !over.get());
        if open.len() >= CONNECTIONS_MAX {
            // Dropped, it ends.
            open.pop_front();
        }
        let over = Rc::new(Cell::new(false));
        let is_over = Rc::clone(&over);
        let task = glommio::spawn_local(async move {
            connection.await;
            is_over.set(true);
        });
        open.push_back((over, task));
    }
}

async fn accept(listening: Listening, desk: Desk, connections: Connections, may_write: bool) {
    let Ok(listening) = PollableFd::new(listening) else {
        return tracing::error!("the admin interface cannot be waited for: it does not answer");
    };
    loop {
        match listening.get_ref().accept() {
            Ok(socket) => {
                connections.spawn(serve(socket, desk.clone(), may_write));
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
async fn serve(socket: Socket, desk: Desk, may_write: bool) {
    let Ok(socket) = PollableFd::new(socket) else {
        return;
    };
    let (socket, answered) = (Rc::new(socket), Rc::new(Cell::new(false)));
    let asked = Rc::new(Cell::new(false));
    let was_asked = Rc::clone(&asked);
    let service = service_fn(move |request| {
        asked.set(true);
        service::serve(request, desk.clone(), may_write)
    });
    let stream = Stream::new(Rc::clone(&socket), Rc::clone(&answered));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(HEAD_MAX)
            .serve_connection(stream, service)
    );
    for (patience, goes_on) in [(REQUEST_MAX, true), (ANSWER_MAX, false)] {
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
async fn is_done_within<F: Future>(patience: Duration, mut work: Pin<&mut F>) -> bool {
    let mut timer = Timer::new(patience);
    poll_fn(|context| {
        if work.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        Pin::new(&mut timer).poll(context).map(|_| false)
    })
    .await
}
