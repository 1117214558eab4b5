//! Every bound of the data plane, in one place, with assertions on how they relate.
//!
//! Bounds that an operator may lower or raise are configuration; the values here are their
//! defaults and the hard limits behind them.

use std::time::Duration;

/// Plaintext bytes that one TLS record may carry (RFC 8446 section 5.1, RFC 5246 section 6.2.1).
pub const RECORD_PLAINTEXT_MAX: usize = 1 << 14;

/// Bytes of a record header: type, version, length.
pub const RECORD_HEADER_LEN: usize = 5;

/// Bytes of a record body that TLS 1.3 allows (RFC 8446 section 5.2).
pub const RECORD_BODY_MAX_TLS13: usize = RECORD_PLAINTEXT_MAX + 256;

/// Bytes of a record body that TLS 1.2 allows (RFC 5246 section 6.2.3).
pub const RECORD_BODY_MAX_TLS12: usize = RECORD_PLAINTEXT_MAX + 2048;

/// Bytes on the wire of a full record as peers write it with TLS 1.3 and a 16-byte tag: header,
/// plaintext, content type, tag.
pub const RECORD_FULL_LEN: usize = RECORD_HEADER_LEN + RECORD_PLAINTEXT_MAX + 1 + 16;

/// Full records that a receive buffer and a pool block hold, so that full records do not straddle.
pub const RECORDS_PER_BLOCK: usize = 4;

/// Bytes of a pool block and of a receive buffer.
pub const BLOCK_LEN: usize = RECORDS_PER_BLOCK * RECORD_FULL_LEN;

/// Receive buffers that a shard lends to the kernel; a power of two.
pub const RECEIVE_BUFFERS: u16 = 16;

/// Blocks that one direction of a relay may hold before it stops receiving.
pub const BLOCKS_PER_DIRECTION: usize = 2;

/// Blocks that one direction may hold at all: what the watermark allows, and what a receive that is
/// being cancelled can still deliver.
pub const BLOCKS_PER_DIRECTION_MAX: usize = BLOCKS_PER_DIRECTION + 2 * RECEIVE_BUFFERS as usize;

/// Bytes of TLS input that a handshake may hold while a flight is incomplete.
pub const HANDSHAKE_INPUT_MAX: usize = 64 * 1024;

/// Bytes that a client may send in one handshake; past it the client is refused.
pub const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// Certificates in a client's chain, the leaf included.
pub const CHAIN_LEN_MAX: usize = 8;

/// Bytes of a client's chain, all certificates together.
pub const CHAIN_BYTES_MAX: usize = 48 * 1024;

/// Bits of an RSA modulus in a client's chain (CVE-2023-29409).
pub const RSA_MODULUS_BITS_MAX: usize = 8192;

/// Names of each kind that are read from a client's certificate.
pub const NAMES_PER_CERTIFICATE_MAX: usize = 256;

/// Verdicts that a shard remembers unless configured.
pub const VERDICTS_PER_SHARD: usize = 16_384;

/// Verdicts that a shard may be configured to remember.
pub const VERDICTS_PER_SHARD_MAX: usize = 1 << 20;

/// Bytes of certificates for each verdict that a shard may remember, all of them together.
pub const BYTES_PER_VERDICT: usize = 4096;

/// How long a verdict stands at most before the chain is checked again, unless configured.
pub const VERDICT_TTL: Duration = Duration::from_secs(3600);

/// Bytes of a session ticket; a client whose chain makes it longer gets none.
pub const TICKET_BYTES_MAX: usize = 16 * 1024;

/// Tickets that are judged in one handshake; clients offer one or two.
pub const TICKETS_JUDGED_MAX: u8 = 4;

/// Tickets that a TLS 1.3 client gets after each handshake.
pub const TICKETS_MAX: usize = 4;

/// How often ticket keys change unless configured.
pub const STEK_ROTATION: Duration = Duration::from_secs(6 * 3600);

/// How long after a full handshake a client may resume unless configured.
pub const RESUMPTION_CAP: Duration = Duration::from_secs(8 * 3600);

/// How far the clocks of hosts that share a secret may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Bytes of a secret for session tickets.
pub const STEK_BYTES_MIN: usize = 32;
pub const STEK_BYTES_MAX: usize = 4096;

/// KeyUpdate messages that a peer may send without application data between them, and in all
/// within [`KEY_UPDATE_WINDOW_RECORDS`] records.
pub const KEY_UPDATES_PER_WINDOW_MAX: u32 = 32;

/// Records over which a peer's KeyUpdate messages are counted.
pub const KEY_UPDATE_WINDOW_RECORDS: u64 = 4096;

/// Records that carry nothing which a peer may send in a row.
pub const EMPTY_RECORDS_MAX: u32 = 32;

/// Records sealed under one AES-GCM key before our own KeyUpdate. RFC 8446 section 5.5 allows 2^24.5.
pub const RECORDS_PER_KEY_MAX: u64 = 1 << 23;

/// Upstream addresses tried for one connection.
pub const CONNECT_ATTEMPTS_MAX: usize = 3;

/// How long an upstream that does not answer is left out at most.
pub const EJECTED_MAX: Duration = Duration::from_secs(300);

/// Health checks of a process under way at once.
pub const HEALTH_CHECKS_IN_FLIGHT_MAX: usize = 64;

/// How long the first look-up of names may take, all of a configuration together.
pub const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// Addresses of a name that are used.
pub const ADDRESSES_PER_NAME_MAX: usize = 256;

/// Upstreams of a route that were replaced and are kept while there are connections to them.
pub const UPSTREAMS_LEFT_MAX: usize = 1024;

/// Bytes of a PROXY v2 header (its length field has 16 bits).
pub const GREETING_MAX: usize = 16 + u16::MAX as usize;

/// Bytes of a PROXY v1 header that is accepted, CRLF included (PROXY protocol section 2.1).
pub const PROXY_HEADER_V1_MAX: usize = 107;

/// Bytes of a PROXY header that is accepted in front of TLS.
pub const PROXY_HEADER_MAX: usize = 4096;

/// Networks of load balancers of a listener.
pub const PROXY_NETWORKS_MAX: usize = 256;

/// Events that wait for the control plane per shard (access lines, refusals).
pub const REPORT_QUEUE_LEN: usize = 4096;

/// Connections that a shard names after a dry run of revocation.
pub const REVIEW_EXAMPLES_MAX: usize = 16;

/// Single-shot accepts in flight per listener and shard.
pub const ACCEPTS_IN_FLIGHT: usize = 8;

/// Connections per shard unless configured.
pub const CONNECTIONS_PER_SHARD: usize = 8192;

/// Handshakes in progress per shard unless configured.
pub const HANDSHAKES_PER_SHARD: usize = 2048;

/// The part of the handshakes of a shard that one source may have, unless configured.
pub const HANDSHAKES_PER_SOURCE_SHARE: usize = 4;

/// Handshakes that one source may have in any case, unless configured or there are fewer in all.
pub const HANDSHAKES_PER_SOURCE_MIN: usize = 64;

/// Bits of an IPv4 address that tell sources apart, unless configured.
pub const SOURCE_PREFIX_V4: u8 = 32;

/// Bits of an IPv6 address that tell sources apart, unless configured: one site often has as many
/// addresses as it likes below a /64.
pub const SOURCE_PREFIX_V6: u8 = 64;

/// How long a client's first message waits for its answer unless configured. All the handshakes that
/// a shard takes on can be answered by then.
pub const HANDSHAKE_QUEUE: Duration = Duration::from_secs(2);

/// Connections a second, and at once, that may be configured as a limit.
pub const RATE_MAX: u32 = 1_000_000;

/// Clients whose rate a shard keeps; a power of two.
pub const IDENTITY_BUCKETS_PER_SHARD: usize = 1 << 14;

/// Connections per shard that may be configured.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 1 << 20;

/// Bytes of blocks per shard unless configured.
pub const BUFFER_BYTES_PER_SHARD: u64 = 256 << 20;

/// Shards of a process.
pub const SHARDS_MAX: usize = 1024;

/// The longest that a shard rests, so that the figures it publishes do not go stale.
pub const TURN_MAX: Duration = Duration::from_secs(1);

/// After so long without a turn a shard no longer counts as alive.
pub const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// Snapshots and listeners that are no longer served and are kept until nobody holds them.
pub const RETIRED_MAX: usize = 4096;

/// Directories that are watched for changes.
pub const WATCHED_DIRECTORIES_MAX: usize = 4096;

/// Errors of a reload that are logged one by one.
pub const RELOAD_ERRORS_LOGGED_MAX: usize = 64;

/// Listeners of a configuration.
pub const LISTENERS_MAX: usize = 1024;

/// Listening sockets that a process is started with: each shard's at each of 64 addresses.
pub const INHERITED_SOCKETS_MAX: usize = SHARDS_MAX * 64;

/// Routes of a listener.
pub const ROUTES_PER_LISTENER_MAX: usize = 4096;

/// Bytes of a configuration file.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a file of certificates, keys or CRLs.
pub const PEM_BYTES_MAX: u64 = 64 << 20;

/// Files of a directory of CRLs, those aside that are hidden.
pub const CRL_FILES_PER_DIRECTORY_MAX: usize = 1024;

/// Keys of an issuer's name of which is kept that they did not sign a CRL.
pub const CRL_OTHER_KEYS_MAX: usize = 4;

/// Bytes of the files of a directory of CRLs, all together.
pub const CRL_DIRECTORY_BYTES_MAX: u64 = 256 << 20;

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());
const _: () = assert!(BLOCK_LEN < 1 << 17, "block offsets are stored in 32 bits");
const _: () = assert!(HANDSHAKE_INPUT_MAX <= HANDSHAKE_BYTES_MAX);
const _: () = assert!(CHAIN_BYTES_MAX < HANDSHAKE_INPUT_MAX);
const _: () = assert!(TICKET_BYTES_MAX <= RECORD_PLAINTEXT_MAX && TICKETS_MAX > 0);
const _: () = assert!(RECORD_BODY_MAX_TLS12 + RECORD_HEADER_LEN < BLOCK_LEN);
const _: () = assert!(RECORDS_PER_KEY_MAX < 23_726_566, "2^24.5");
const _: () = assert!(HANDSHAKES_PER_SHARD <= CONNECTIONS_PER_SHARD);
const _: () = assert!(HANDSHAKES_PER_SOURCE_MIN <= HANDSHAKES_PER_SHARD);
const _: () = assert!(IDENTITY_BUCKETS_PER_SHARD.is_power_of_two());
const _: () = assert!(CONNECTIONS_PER_SHARD <= CONNECTIONS_PER_SHARD_MAX);
const _: () = assert!(PROXY_HEADER_V1_MAX <= PROXY_HEADER_MAX && PROXY_HEADER_MAX < BLOCK_LEN);
const _: () = assert!(SHARD_PATIENCE.as_millis() >= 2 * TURN_MAX.as_millis());
const _: () = assert!(ADDRESSES_PER_NAME_MAX <= UPSTREAMS_LEFT_MAX);
const _: () = assert!(PEM_BYTES_MAX <= CRL_DIRECTORY_BYTES_MAX);
