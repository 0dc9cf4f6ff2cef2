//! Connection ids of QUIC by which reuseport-lb finds the worker that a connection lives in, whatever address and port
//! its client has by then. A worker of a service with `quic` learns from its environment what its ids begin with:
//!
//! ```no_run
//! # fn main() -> Result<(), reuseport_lb_quic::Error> {
//! if let Some(ids) = reuseport_lb_quic::Ids::from_env()? {
//!     let id = ids.generate(); // For the QUIC implementation, each time that it wants one.
//!     assert_eq!(id.len(), ids.length());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `quinn`, [`Ids`] is quinn's `ConnectionIdGenerator`. The ids are those of QUIC-LB, not encrypted
//! (draft-ietf-quic-load-balancers-21): who sees them sees which connections share a worker.

#[cfg(feature = "quinn")]
mod quinn;

/// How the ids of this process look, as picoquic writes it: `0N11C-` and the server id as hexadecimal digits.
pub const VARIABLE: &str = "REUSEPORT_LB_QUIC_LB";

/// Where the server id begins in an id: behind the first octet, unless this variable says something else.
pub const OFFSET: &str = "REUSEPORT_LB_QUIC_OFFSET";

/// Most bytes of a connection id (RFC 9000, 17.2).
pub const LONGEST: usize = 20;

/// The first octet's upper three bits are the config rotation, 0; all of them set would mean that nobody is named.
const ROTATION: u8 = 0b1110_0000;

/// Why the environment does not say what ids look like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?} is not understood: {why}")]
pub struct Error {
    variable: &'static str,
    value: String,
    why: &'static str,
}

/// Makes the connection ids of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    server_id: Vec<u8>,
    offset: usize,
    length: usize,
}

impl Ids {
    /// Those that the environment asks for; `None` where nothing does: outside of reuseport-lb, or without `quic`.
    pub fn from_env() -> Result<Option<Self>, Error> {
        let read = |variable| std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned());
        let Some(form) = read(VARIABLE) else { return Ok(None) };
        let offset = match read(OFFSET) {
            None => 1,
            Some(offset) => offset.parse().map_err(|_| Error {
                variable: OFFSET,
                value: offset,
                why: "it is a number of bytes",
            })?,
        };
        Self::new(&form, offset).map(Some)
    }

    /// Those of this form ([`VARIABLE`]), with the server id at this place.
    pub fn new(form: &str, offset: usize) -> Result<Self, Error> {
        let wrong = |why| Error { variable: VARIABLE, value: form.to_owned(), why };
        let (length, server_id) = form
            .strip_prefix("0N")
            .and_then(|rest| rest.split_once("C-"))
            .ok_or_else(|| wrong("it is 0N, a length, C- and digits"))?;
        let length = length.parse().map_err(|_| wrong("the length is a number of bytes"))?;
        let server_id =
            bytes(server_id).ok_or_else(|| wrong("the server id is hexadecimal digits, two a byte"))?;
        if length > LONGEST || offset == 0 || server_id.is_empty() || offset + server_id.len() > length {
            return Err(wrong(
                "the server id is within the id, which has at most 20 bytes, behind its first octet",
            ));
        }
        Ok(Self { server_id, offset, length })
    }

    /// Bytes of each id.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// A new one. All that is not the server id is random, so that two ids of one connection have nothing else in common.
    ///
    /// # Panics
    /// If the machine gives no random bytes.
    #[must_use]
    pub fn generate(&self) -> Vec<u8> {
        let mut id = vec![0; self.length];
        getrandom::fill(&mut id).expect("the kernel gives random bytes");
        id[0] &= !ROTATION;
        id[self.offset..][..self.server_id.len()].copy_from_slice(&self.server_id);
        id
    }

    /// Whether an id may be one of this service's, of whichever worker: so that one which leads here although its
    /// connection does not live here is answered, with a stateless reset.
    #[must_use]
    pub fn may_be_ours(&self, id: &[u8]) -> bool {
        id.len() == self.length
    }
}

/// The bytes of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_server_id_at_its_place_and_differ_in_all_else() {
        let ids = Ids::new("0N11C-c4605e00", 1).unwrap();
        let (one, other) = (ids.generate(), ids.generate());
        for id in [&one, &other] {
            assert_eq!((id.len(), &id[1..5], id[0] & ROTATION), (11, &[0xc4, 0x60, 0x5e, 0][..], 0));
            assert!(ids.may_be_ours(id));
        }
        assert_ne!(one[5..], other[5..]);
        assert!(!ids.may_be_ours(&one[..8]));
        assert_eq!(
            Ids::new("0N20C-0102030405060708", 8).unwrap().generate()[8..16],
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (form, offset, why) in [
            ("", 1, "0N, a length"),
            ("1N11C-00", 1, "0N, a length"),
            ("0N11S-00", 1, "0N, a length"),
            ("0NxC-00", 1, "number of bytes"),
            ("0N11C-0", 1, "hexadecimal"),
            ("0N11C-0g", 1, "hexadecimal"),
            ("0N11C-", 1, "within the id"),
            ("0N21C-00", 1, "within the id"),
            ("0N8C-0001020304050607", 1, "within the id"),
            ("0N8C-00", 0, "within the id"),
        ] {
            let error = Ids::new(form, offset).unwrap_err();
            assert!(error.to_string().contains(why), "{form}: {error}");
        }
    }
}
