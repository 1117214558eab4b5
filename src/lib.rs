//! Ringgate terminates mutual TLS for high-volume internal traffic.
//!
//! A client connects with its own certificate; Ringgate proves who it is, decides whether it may
//! enter, connects to the upstream, tells it who came, and relays bytes. Each shard is one thread,
//! pinned to one CPU, that blocks only in its own io_uring.
//!
//! # The floor plan
//!
//! A connection passes these rooms, in this order:
//!
//! | room | what lives there |
//! |---|---|
//! | [`terminator`] | the one public way to start: listening sockets, threads, rings |
//! | [`ring`] | io_uring: the only unsafe code, the only room that names the kernel's interface |
//! | [`shard`] | the event loop: completions become events, actions become submissions |
//! | [`connection`] | one connection as a state machine without sockets or clock |
//! | [`tls`] | bytes of TLS in and out: rustls drives the handshake, our record layer the rest |
//! | [`trust`] | who may come in: chain, revocation, identity, policy |
//!
//! What it works from, and who looks after it:
//!
//! | room | what lives there |
//! |---|---|
//! | [`config`] | TOML to a configuration that is valid by construction |
//! | [`layout`] | where shards run: a layout file, or planned for this host by `ringgate-tune` |
//! | [`snapshot`] | its immutable runtime form, every file read and checked |
//! | [`explain`] | whether a client would be let in, offline |
//! | [`confinement`] | what the process gives up once it is set up |
//! | [`control`] | signals, reload, logs: one asynchronous executor that the data plane never waits for |
//!
//! And what everybody may use: [`limits`], [`close_reason`], [`clock`], [`block`].
//!
//! # What holds everywhere
//!
//! - No plaintext byte reaches an upstream before the client is authorised, and no upstream
//!   connection is opened for a client that is not: [`connection::Action::Connect`] carries a
//!   permit that only an [`trust::Authorized`] client makes, and only [`trust`] makes those.
//! - Every connection ends with exactly one [`close_reason::CloseReason`].
//! - Nothing is unbounded ([`limits`]), and nothing on the data path blocks.
//!
//! Who may import whom is held by `tests/house`.
#![deny(unsafe_code)]

pub mod block;
pub mod clock;
pub mod close_reason;
pub mod limits;

pub mod terminator;

pub mod connection;
pub mod ring;
pub mod shard;
pub mod tls;
pub mod trust;

pub mod config;
pub mod confinement;
pub mod control;
pub mod explain;
pub mod layout;
pub mod snapshot;

pub use terminator::Terminator;
