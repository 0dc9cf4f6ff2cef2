//! Packets of the examples' protocols, made from their specifications.

/// A protocol, and the example that is for it.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    /// File of the example, without `.c`.
    pub(crate) example: &'static str,
    /// A packet of a session; those with other numbers are of other kinds, or of another form.
    pub(crate) packet: fn(session: u32, nth: u32) -> Vec<u8>,
    /// Kinds and forms of packets of a session.
    pub(crate) kinds: u32,
    /// Packets that belong to no session.
    pub(crate) others: fn() -> Vec<Vec<u8>>,
}

pub(crate) const ALL: [Protocol; 6] = [RTP, GTPU, SIP, GAME, WIREGUARD, DTLS];

pub(crate) const RTP: Protocol = Protocol { example: "rtp", packet: rtp, kinds: 4, others: no_rtp };
pub(crate) const GTPU: Protocol = Protocol { example: "gtpu", packet: gtpu, kinds: 4, others: no_gtpu };
pub(crate) const SIP: Protocol = Protocol { example: "sip", packet: sip, kinds: 6, others: no_sip };
pub(crate) const GAME: Protocol = Protocol { example: "game", packet: game, kinds: 3, others: no_game };
pub(crate) const WIREGUARD: Protocol =
    Protocol { example: "wireguard", packet: wireguard, kinds: 3, others: no_wireguard };
pub(crate) const DTLS: Protocol = Protocol { example: "dtls", packet: dtls, kinds: 3, others: no_dtls };

/// Numbers that have nothing in common.
fn scattered(session: u32) -> u32 {
    session.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995
}

/// RFC 3550: RTP with payload types 0 and 111 (5.1), a sender report (6.4.1) and a receiver report (6.4.2).
fn rtp(session: u32, nth: u32) -> Vec<u8> {
    let ssrc = scattered(session).to_be_bytes();
    let sequence = (nth as u16).to_be_bytes();
    let time = (nth * 160).to_be_bytes();
    match nth % 4 {
        0 => [&[0x80, 0][..], &sequence, &time, &ssrc, &[0xff; 160]].concat(),
        // The first packet of a talkspurt, with a contributing source.
        1 => [&[0x81, 0x80 | 111][..], &sequence, &time, &ssrc, &[1, 2, 3, 4], &[0x78; 40]].concat(),
        2 => [&[0x80, 200, 0, 6][..], &ssrc, &[0xe0; 8], &time, &[0, 0, 0, 9, 0, 0, 5, 0xa0]].concat(),
        _ => [&[0x80, 201, 0, 1][..], &ssrc].concat(),
    }
}

/// A binding request of STUN, for which the port is used as well (RFC 8489, 5); and what is too short.
fn no_rtp() -> Vec<Vec<u8>> {
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    vec![stun, rtp(1, 0)[..11].to_vec(), rtp(1, 3)[..7].to_vec(), vec![]]
}

/// 3GPP TS 29.281: G-PDUs (5.1) with a sequence number, with an extension header for PDU sessions (5.2.2.7), and without either;
/// an end marker (7.3.2). Tunnels are numbered one after the other, as gateways do.
fn gtpu(session: u32, nth: u32) -> Vec<u8> {
    let teid = session.to_be_bytes();
    let inner = [&[0x45, 0, 0, 20][..], &[0; 16]].concat();
    let message = |flags: u8, kind: u8, optional: &[u8], payload: &[u8]| {
        let length = ((optional.len() + payload.len()) as u16).to_be_bytes();
        [&[flags, kind][..], &length, &teid, optional, payload].concat()
    };
    match nth % 4 {
        0 => message(0x30, 255, &[], &inner),
        1 => message(0x32, 255, &[0, nth as u8, 0, 0], &inner),
        2 => message(0x34, 255, &[0, 0, 0, 0x85, 1, 0, 9, 0], &inner),
        _ => message(0x30, 254, &[], &[]),
    }
}

/// An echo request (7.2.1), an error indication about a tunnel (7.3.1), and packets of GTP' and of GTPv2-C.
fn no_gtpu() -> Vec<Vec<u8>> {
    let echo = vec![0x32, 1, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0];
    let error = [&[0x32, 26, 0, 16, 0, 0, 0, 0, 0, 1, 0, 0][..], &[16, 0, 0, 0, 7, 133, 0, 4, 127, 0, 0, 1]];
    let of_prime = vec![0x20, 255, 0, 0, 0, 0, 0, 1];
    let of_version_2 = vec![0x48, 255, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0];
    vec![echo, error.concat(), of_prime, of_version_2, gtpu(1, 0)[..7].to_vec()]
}

/// RFC 3261: requests and responses of one call, its Call-ID (20.8) written in the ways that 7.3.1 and 7.3.3 allow.
fn sip(session: u32, nth: u32) -> Vec<u8> {
    let (first, method) = match nth % 3 {
        0 => ("INVITE sip:bob@biloxi.example SIP/2.0", "INVITE"),
        1 => ("SIP/2.0 200 OK", "INVITE"),
        _ => ("BYE sip:bob@192.0.2.4 SIP/2.0", "BYE"),
    };
    let call_id = match nth % 6 {
        0 => "Call-ID: ",
        1 => "CALL-ID:",
        2 => "i: ",
        3 => "Call-Id :\t",
        4 => "I:",
        _ => "call-id  :  ",
    };
    // What comes before it is of various lengths, so that it lies anywhere, also across the function's windows.
    let branch = "x".repeat((session as usize * 7 + nth as usize * 13) % 90);
    format!(
        "{first}\r\nVia: SIP/2.0/UDP pc33.atlanta.example;branch=z9hG4bK776asdhds{branch}\r\nMax-Forwards: 70\r\n\
         To: Bob <sip:bob@biloxi.example>\r\nFrom: Alice <sip:alice@atlanta.example>;tag=1928301774\r\n\
         {call_id}{}@pc33.atlanta.example\r\nCSeq: {nth} {method}\r\nContent-Length: 0\r\n\r\n",
        scattered(session)
    )
    .into_bytes()
}

/// A keep-alive (RFC 5626, 3.5.1), a message whose Call-ID is missing, and one where it comes too late.
fn no_sip() -> Vec<Vec<u8>> {
    let via = "OPTIONS sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/UDP pc33.atlanta.example\r\n";
    let late = format!("{via}Subject: {}\r\nCall-ID: 7@x\r\n\r\n", "x".repeat(1_024));
    vec![b"\r\n\r\n".to_vec(), format!("{via}Info: Call-ID: 7\r\n\r\n").into_bytes(), late.into_bytes()]
}

/// As examples/key/game.c has it, with a UUID of version 7 (RFC 9562, 5.7): the time comes first.
fn game(session: u32, nth: u32) -> Vec<u8> {
    let time = (0x0190_0000_0000 + u64::from(session)).to_be_bytes();
    let random = scattered(session).to_be_bytes();
    [&b"GAME"[..], &[1 + (nth % 3) as u8], &time[2..], &[0x7a, 0xbc, 0x80, 0, 0, 0], &random, &[3; 30]]
        .concat()
}

fn no_game() -> Vec<Vec<u8>> {
    let mut hello = game(1, 0);
    hello[4] = 0;
    let mut other = game(1, 0);
    other[3] = b'R';
    vec![hello, other, game(1, 0)[..20].to_vec()]
}

/// <https://www.wireguard.com/protocol/>: transport data, a handshake's response and a cookie's reply, by their receiver index,
/// little-endian. They are numbered one after the other.
fn wireguard(session: u32, nth: u32) -> Vec<u8> {
    let receiver = session.to_le_bytes();
    match nth % 3 {
        0 => [&[4, 0, 0, 0][..], &receiver, &u64::from(nth).to_le_bytes(), &[0xee; 48]].concat(),
        1 => [&[2, 0, 0, 0][..], &nth.to_le_bytes(), &receiver, &[0xee; 80]].concat(),
        _ => [&[3, 0, 0, 0][..], &receiver, &[0xee; 56]].concat(),
    }
}

/// A handshake's initiation, for which the server has no index yet, and what is too short.
fn no_wireguard() -> Vec<Vec<u8>> {
    let initiation = [&[1, 0, 0, 0][..], &[0xee; 144]].concat();
    vec![initiation, wireguard(1, 0)[..7].to_vec(), wireguard(1, 1)[..11].to_vec()]
}

/// Records with a connection id of eight bytes: of DTLS 1.2 (RFC 9146, 4), and of DTLS 1.3 with long and short headers
/// (RFC 9147, 4).
fn dtls(session: u32, nth: u32) -> Vec<u8> {
    let cid = (u64::from(scattered(session)) << 32 | u64::from(session)).to_be_bytes();
    let number = u64::from(nth).to_be_bytes();
    match nth % 3 {
        0 => [&[25, 0xfe, 0xfd, 0, 1][..], &number[2..], &cid, &[0, 24], &[0xdd; 24]].concat(),
        1 => [&[0x30 | 0x0c | 2][..], &cid, &number[6..], &[0, 24], &[0xdd; 24]].concat(),
        _ => [&[0x30 | 3][..], &cid, &number[7..], &[0xdd; 24]].concat(),
    }
}

/// A record of a handshake (RFC 6347, 4.1), one of DTLS 1.3 without an id, and one that is too short for its own.
fn no_dtls() -> Vec<Vec<u8>> {
    let handshake = [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40][..], &[1; 40]].concat();
    let plain = [&[0x20 | 0x0c | 2][..], &[0; 40]].concat();
    vec![handshake, plain, dtls(1, 0)[..18].to_vec()]
}
