//! What a seed means: who connects, what everybody does, and what goes wrong.

use std::net::SocketAddr;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::connection::Greeting;
use ringgate::limits::BLOCK_LEN;

use crate::cast::Who;
use crate::introduction::{binary, block, line, tlv};
use crate::rng::Rng;
use crate::wire::{Cut, End, Trouble};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Two or three of the others.
    Anything,
    /// Nothing: every byte must arrive, and the end must be clean.
    Calm,
    ClientCut,
    ClientEnds,
    ClientFlips,
    Command,
    Connects,
    Garbage,
    KeyUpdates,
    /// A load balancer is in front.
    Proxied,
    Refused,
    SmallPool,
    Stalls,
    TimeJump,
    UpstreamBreaks,
    UpstreamCut,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::Anything,
        Self::Calm,
        Self::ClientCut,
        Self::ClientEnds,
        Self::ClientFlips,
        Self::Command,
        Self::Connects,
        Self::Garbage,
        Self::KeyUpdates,
        Self::Proxied,
        Self::Refused,
        Self::SmallPool,
        Self::Stalls,
        Self::TimeJump,
        Self::UpstreamBreaks,
        Self::UpstreamCut,
    ];
}

/// How many bytes move at a time.
#[derive(Clone, Copy, Debug)]
pub enum Grain {
    One,
    Few,
    Mixed,
    Packet,
    Whole,
}

impl Grain {
    pub fn draw(self, rng: &mut Rng) -> usize {
        match self {
            Self::One => 1,
            Self::Few => rng.within(1, 16),
            Self::Mixed => rng.magnitude(BLOCK_LEN),
            Self::Packet => rng.within(1, 1500),
            Self::Whole => BLOCK_LEN,
        }
    }

    /// One that moves `volume` bytes in a bounded number of steps.
    fn for_volume(volume: usize, rng: &mut Rng) -> Self {
        match volume {
            0..2_000 => rng.pick(&[Self::One, Self::Few, Self::Mixed, Self::Packet, Self::Whole]),
            2_000..20_000 => rng.pick(&[Self::Few, Self::Mixed, Self::Packet, Self::Whole]),
            _ => rng.pick(&[Self::Mixed, Self::Whole, Self::Whole]),
        }
    }
}

/// What the client says first.
#[derive(Clone, Debug)]
pub enum Opening {
    Bytes(Vec<u8>),
    Tls,
}

/// How the client ends once it has said everything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finish {
    /// close_notify at once.
    Clean,
    /// close_notify when the reply is there.
    CleanAfterReply,
    /// A FIN, or a reset, without close_notify.
    Cut(End),
    /// Not before the terminator does.
    Stay,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpstreamEnds {
    AfterClient,
    AfterSpeaking,
    Never,
}

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectOutcome {
    Accepted,
    /// Ends only when it is abandoned: as cancelled, or as a success that comes too late.
    Hangs {
        late: bool,
    },
    /// Fails before the driver has gone on to the next action.
    NothingLeft,
    Refused,
    /// Does not even end when it is abandoned.
    Stuck,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub who: Who,
    pub tls12: bool,
    pub opening: Opening,
    /// A header that introduces the client must come in front of that.
    pub introduced: bool,
    pub header: Vec<u8>,
    /// Where the client comes from by it.
    pub claims: Option<SocketAddr>,
    pub greeting: Greeting,
    pub client_volume: usize,
    pub chunk_max: usize,
    /// One KeyUpdate in so many writes.
    pub key_updates: Option<usize>,
    pub key_update_flood: bool,
    pub finish: Finish,
    /// Whether a FIN follows the client's close_notify at once.
    pub fin_follows: bool,
    /// Whether the client is gone with its FIN, so that what is sent to it then fails.
    pub leaves: bool,
    /// What happens to what the client and the upstream send.
    pub trouble: [Trouble; 2],
    /// Bytes after which the client and the upstream read no more.
    pub reads_until: [Option<usize>; 2],
    pub upstream_volume: usize,
    pub echo: bool,
    pub upstream_ends: UpstreamEnds,
    /// The upstream resets once it has received so many bytes.
    pub breaks_at: Option<usize>,
    pub connects: [ConnectOutcome; 3],
    pub receives: [Grain; 2],
    pub sends: [Grain; 2],
    /// Receives that are still delivered after each StopReceiving, at most.
    pub late_receives: usize,
    pub pool: usize,
    pub command: Option<(usize, CloseReason)>,
    pub jump: Option<(usize, Duration)>,
    /// How likely each step is against the others.
    pub weights: [usize; 9],
}

/// More blocks than any run can use.
pub const POOL_PLENTY: usize = 256;

impl Scenario {
    pub fn of_kind(kind: Kind, rng: &mut Rng) -> Self {
        let mut scenario = Self::calm(rng);
        match kind {
            Kind::Anything => {
                for _ in 0..rng.within(2, 3) {
                    let kind = rng.pick(&Kind::ALL);
                    scenario.worsen(kind, rng);
                }
            }
            kind => scenario.worsen(kind, rng),
        }
        scenario
    }

    /// Everything may be slow and in pieces, but nothing goes wrong.
    pub fn calm(rng: &mut Rng) -> Self {
        let volumes = [(); 2].map(|()| match rng.below(20) {
            0..2 => 0,
            2..16 => rng.magnitude(2_000),
            16..19 => rng.magnitude(20_000),
            _ => rng.magnitude(400_000),
        });
        let echo = rng.once_in(3);
        let back = if echo { volumes[0] } else { volumes[1] };
        let (finish, upstream_ends) = rng.pick(&[
            (Finish::Clean, UpstreamEnds::AfterClient),
            (Finish::Clean, UpstreamEnds::AfterSpeaking),
            (Finish::CleanAfterReply, UpstreamEnds::AfterClient),
            (Finish::CleanAfterReply, UpstreamEnds::AfterSpeaking),
            (Finish::Stay, UpstreamEnds::AfterSpeaking),
        ]);
        // An echo and a client that waits for it to end would wait for each other.
        let finish = if echo && finish == Finish::Stay {
            Finish::Clean
        } else {
            finish
        };
        // The handshake goes the same way as the data.
        let grains =
            |rng: &mut Rng| [volumes[0] + 1_500, back].map(|volume| Grain::for_volume(volume, rng));
        let (receives, sends) = (grains(rng), grains(rng));
        Self {
            who: Who::LetIn,
            tls12: rng.once_in(5),
            opening: Opening::Tls,
            introduced: false,
            header: Vec::new(),
            claims: None,
            greeting: match rng.below(4) {
                0 => Greeting::Off,
                1 => Greeting::ProxyV2 {
                    client_certificate: true,
                },
                _ => Greeting::ProxyV2 {
                    client_certificate: false,
                },
            },
            client_volume: volumes[0],
            chunk_max: rng.magnitude(1 << 14),
            key_updates: rng.once_in(4).then(|| rng.within(1, 8)),
            key_update_flood: false,
            finish,
            fin_follows: rng.once_in(2),
            leaves: false,
            trouble: [Trouble::default(); 2],
            reads_until: [None; 2],
            upstream_volume: volumes[1],
            echo,
            upstream_ends,
            breaks_at: None,
            connects: [ConnectOutcome::Accepted; 3],
            receives,
            sends: [sends[1], sends[0]],
            late_receives: rng.below(4),
            pool: POOL_PLENTY,
            command: None,
            jump: None,
            weights: [(); 9].map(|()| rng.pick(&[1, 2, 4, 8, 32])),
        }
        .within_steps()
    }

    /// Keeps one-byte writes of the client from making thousands of records.
    fn within_steps(mut self) -> Self {
        self.chunk_max = self.chunk_max.max(self.client_volume / 256);
        self
    }

    fn worsen(&mut self, kind: Kind, rng: &mut Rng) {
        match kind {
            Kind::Anything | Kind::Calm => {}
            Kind::ClientCut => {
                self.trouble[0].cut = Some(Cut {
                    at: rng.below(1_400 + self.client_volume),
                    end: rng.pick(&[Some(End::Fin), Some(End::Reset), None]),
                });
                self.leaves = rng.once_in(2);
                self.trouble[0].reset_drops = rng.once_in(2);
            }
            Kind::ClientEnds => {
                self.finish = rng.pick(&[
                    Finish::Clean,
                    Finish::Cut(End::Fin),
                    Finish::Cut(End::Fin),
                    Finish::Cut(End::Reset),
                ]);
                self.leaves = rng.once_in(2);
                self.trouble[0].reset_drops = rng.once_in(2);
            }
            Kind::ClientFlips => {
                self.trouble[0].flipped = Some(rng.below(1_400 + self.client_volume));
            }
            Kind::Command => {
                let reason = rng.pick(&[
                    CloseReason::AccessWithdrawn,
                    CloseReason::BufferLimit,
                    CloseReason::Drained,
                    CloseReason::Shutdown,
                ]);
                self.command = Some((rng.magnitude(2_000), reason));
            }
            Kind::Connects => self.connects = [(); 3].map(|()| connect_outcome(rng)),
            Kind::Garbage => self.opening = Opening::Bytes(garbage(rng)),
            Kind::KeyUpdates => {
                self.key_updates = Some(rng.within(1, 3));
                self.key_update_flood = rng.once_in(4);
                self.tls12 = false;
            }
            Kind::Proxied => self.introduce(rng),
            Kind::Refused => self.who = rng.pick(&Who::REFUSED),
            Kind::SmallPool => self.pool = rng.below(7),
            Kind::Stalls => {
                let side = rng.below(2);
                if rng.once_in(2) {
                    // More than may be held for the side that stalls.
                    (self.client_volume, self.upstream_volume) = (600_000, 600_000);
                    self.chunk_max = 1 << 14;
                    self.receives = [Grain::Mixed, Grain::Whole];
                    self.sends = [Grain::Mixed, Grain::Whole];
                }
                let volume = [self.upstream_volume, self.client_volume][side];
                self.reads_until[side] = Some(rng.below(volume + 1_000));
                if rng.once_in(2) {
                    self.upstream_ends = UpstreamEnds::Never;
                }
            }
            Kind::TimeJump => {
                let by = rng.pick(&[1, 900, 4_900, 10_000, 61_000, 3_600_000, 1 << 32]);
                self.jump = Some((rng.magnitude(2_000), Duration::from_millis(by)));
            }
            Kind::UpstreamBreaks => {
                self.breaks_at = Some(rng.below(self.client_volume + 500));
                self.trouble[1].reset_drops = rng.once_in(2);
            }
            Kind::UpstreamCut => {
                self.trouble[1].cut = Some(Cut {
                    at: rng.below(self.upstream_volume + 1),
                    end: rng.pick(&[Some(End::Fin), Some(End::Reset), None]),
                });
                self.trouble[1].reset_drops = rng.once_in(2);
            }
        }
    }
}

impl Scenario {
    fn introduce(&mut self, rng: &mut Rng) {
        let [client, local] = rng.pick(&[
            ["192.0.2.7:4711", "198.51.100.1:443"],
            ["[2001:db8::7]:4711", "[2001:db8::1]:443"],
        ]);
        let [client, local] = [client, local].map(|text| text.parse().unwrap());
        let noise = rng.magnitude(1_000);
        let tlvs = tlv(0xea, &rng.bytes(noise));
        let claims = Some(client);
        (self.header, self.claims) = match rng.below(6) {
            0 => (Vec::new(), None),
            1 => (b"PROXY UNKNOWN\r\n".to_vec(), None),
            2 => (block(0x20, 0x11, &tlvs), None),
            3 => (line(client, local), claims),
            4 => (binary(client, local, &[]), claims),
            _ => (binary(client, local, &tlvs), claims),
        };
        self.introduced = true;
    }
}

fn connect_outcome(rng: &mut Rng) -> ConnectOutcome {
    match rng.below(8) {
        0 | 1 => ConnectOutcome::Accepted,
        2 | 3 => ConnectOutcome::Refused,
        4 => ConnectOutcome::NothingLeft,
        5 => ConnectOutcome::Hangs { late: true },
        6 => ConnectOutcome::Hangs { late: false },
        _ => ConnectOutcome::Stuck,
    }
}

fn garbage(rng: &mut Rng) -> Vec<u8> {
    let len = rng.magnitude(3_000);
    let mut bytes = rng.bytes(len);
    match rng.below(4) {
        0 => {}
        1 => bytes
            .splice(0..0, *b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .for_each(drop),
        // The start of a record, and of one that holds a ClientHello.
        2 => bytes.splice(0..0, [22, 3, 1]).for_each(drop),
        _ => {
            let hello = [22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
            bytes.splice(0..0, hello).for_each(drop);
        }
    }
    bytes
}
