//! A look at a client's first message before anything is spent on it.
//!
//! It decides only who is answered first when not all can be: what is found here is not proven, and
//! a client that lies is answered a little sooner, once.

use crate::limits::RECORD_HEADER_LEN;

/// Type of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Type of a ClientHello (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

/// Extensions that offer to resume: session_ticket of TLS 1.2, where it holds a ticket (RFC 5077
/// section 3.2), and pre_shared_key (RFC 8446 section 4.2.11).
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

/// What a client's first message seems to want.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hello {
    /// A full handshake; so does what is no ClientHello in one record.
    Full,
    /// The first record is not whole.
    Partial,
    /// To resume a session.
    Resuming,
}

impl Hello {
    /// Whether what a client sent first may be TLS, by its first byte.
    pub fn may_begin(sent: &[u8]) -> bool {
        sent.first().is_none_or(|&first| first == HANDSHAKE)
    }

    /// Looks at what a client sent first.
    pub fn peek(sent: &[u8]) -> Self {
        if !Self::may_begin(sent) {
            return Self::Full;
        }
        let Some((header, rest)) = sent.split_at_checked(RECORD_HEADER_LEN) else {
            return Self::Partial;
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some(record) = rest.get(..len) else {
            return Self::Partial;
        };
        match Reader(record).offers_resumption() {
            Some(true) => Self::Resuming,
            _ => Self::Full,
        }
    }
}

/// What is left to read. Every step is `None` where there is too little.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of `len` bytes.
    fn number(&mut self, len: usize) -> Option<usize> {
        let bytes = self.take(len)?.iter();
        Some(bytes.fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// What stands behind its length, which has `len` bytes.
    fn vector(&mut self, len: usize) -> Option<&'a [u8]> {
        let len = self.number(len)?;
        self.take(len)
    }

    /// Whether a handshake message is a ClientHello (RFC 8446 section 4.1.2) that offers a session.
    fn offers_resumption(mut self) -> Option<bool> {
        if self.number(1)? != usize::from(CLIENT_HELLO) {
            return None;
        }
        let mut hello = Reader(self.vector(3)?);
        let (version, random) = (2, 32);
        hello.take(version + random)?;
        let (session_id, cipher_suites, compression_methods) = (1, 2, 1);
        for length_of in [session_id, cipher_suites, compression_methods] {
            hello.vector(length_of)?;
        }
        let mut extensions = Reader(hello.vector(2)?);
        while !extensions.0.is_empty() {
            let kind = extensions.number(2)?;
            let body = extensions.vector(2)?;
            let offers = kind == usize::from(PRE_SHARED_KEY)
                || kind == usize::from(SESSION_TICKET) && !body.is_empty();
            if offers {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record with a ClientHello that has these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let sized = |len: usize, bytes: &[u8]| {
            let count = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            [&count[4 - len..], bytes].concat()
        };
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &sized(2, body)].concat())
            .collect();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &sized(1, &[9; 32]),
            &sized(2, &[0x13, 1, 0x13, 2]),
            &sized(1, &[0]),
            &sized(2, &extensions),
        ]
        .concat();
        let message = [&[CLIENT_HELLO][..], &sized(3, &body)].concat();
        [&[HANDSHAKE, 3, 1][..], &sized(2, &message)].concat()
    }

    #[test]
    fn who_offers_a_session_wants_to_resume() {
        for (extensions, expected) in [
            (&[][..], Hello::Full),
            (&[(0, &[1, 2][..]), (SESSION_TICKET, &[])], Hello::Full),
            (&[(SESSION_TICKET, &[1])], Hello::Resuming),
            (&[(0, &[1, 2]), (PRE_SHARED_KEY, &[1])], Hello::Resuming),
            (&[(45, &[1, 1]), (51, &[0; 1200])], Hello::Full),
        ] {
            let sent = hello(extensions);
            assert_eq!(Hello::peek(&sent), expected, "{extensions:?}");
            let more = [&sent[..], b"more"].concat();
            assert_eq!(Hello::peek(&more), expected, "{extensions:?} and more");
        }
    }

    #[test]
    fn what_is_cut_short_is_partial() {
        let sent = hello(&[(PRE_SHARED_KEY, &[1; 100])]);
        for len in 0..sent.len() {
            assert_eq!(Hello::peek(&sent[..len]), Hello::Partial, "{len} bytes");
        }
    }

    #[test]
    fn what_is_no_client_hello_wants_nothing_special() {
        let mut server_hello = hello(&[(PRE_SHARED_KEY, &[1])]);
        server_hello[RECORD_HEADER_LEN] = 2;
        for sent in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4", &server_hello] {
            assert_eq!(Hello::peek(sent), Hello::Full);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(sent in prop::collection::vec(any::<u8>(), 0..300)) {
            Hello::peek(&sent);
            let len = u16::try_from(sent.len()).unwrap().to_be_bytes();
            Hello::peek(&[&[HANDSHAKE, 3, 1, len[0], len[1]][..], &sent].concat());
        }

        /// A byte that is another, or one that is missing, changes at most the answer.
        #[test]
        fn a_hello_with_a_fault_is_looked_at(
            kinds in prop::collection::vec((0..60_u16, 0..40_usize), 0..8),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let bodies: Vec<_> = kinds.iter().map(|&(kind, len)| (kind, vec![1; len])).collect();
            let extensions: Vec<_> = bodies.iter().map(|(kind, body)| (*kind, &body[..])).collect();
            let mut sent = hello(&extensions);
            let offers = bodies.iter().any(|(kind, body)| {
                *kind == PRE_SHARED_KEY || *kind == SESSION_TICKET && !body.is_empty()
            });
            let expected = if offers { Hello::Resuming } else { Hello::Full };
            prop_assert_eq!(Hello::peek(&sent), expected);
            let at = at.index(sent.len());
            sent[at] = byte;
            Hello::peek(&sent);
            sent.remove(at);
            Hello::peek(&sent);
        }
    }
}
