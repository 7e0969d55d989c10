//! The PROXY protocol's headers, versions 1 and 2: <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>.
//!
//! [`parse`] is pure and looks at what has come so far; [`read_header`] reads exactly the header from a socket and no byte of what
//! follows it, which may be TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest header, bytes: what a sender may count on (section 2.2), TLVs included.
const HEADER_BYTES_MAX: usize = 536;
/// Longest header of version 1, bytes with its CRLF.
const V1_BYTES_MAX: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2, bytes.
const V2_FIXED_BYTES: usize = 16;

/// What bytes from the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A part of a header: more must come.
    Part,
    /// A header of that many bytes.
    Whole(usize, Client),
    /// No header.
    No(&'static str),
}

/// Who a header says the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// Who the connection comes from: a proxy that speaks for itself (LOCAL, as health checks do), or that cannot say (UNKNOWN).
    Connected,
    /// The client behind the proxy.
    At(SocketAddr),
}

/// Looks for a header at the beginning of what has come.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(V1_BEGIN) {
        parse_v1(bytes)
    } else {
        Parsed::No("not a PROXY header")
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().take(V1_BYTES_MAX).position(|b| *b == b'\n') else {
        return if bytes.len() < V1_BYTES_MAX { Parsed::Part } else { Parsed::No("a PROXY line of more than 107 bytes") };
    };
    let line = bytes.get(V1_BEGIN.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let client = line.and_then(|line| std::str::from_utf8(line).ok()).and_then(v1_client);
    client.map_or(Parsed::No("a malformed PROXY line"), |client| Parsed::Whole(end + 1, client))
}

/// What stands behind `PROXY `: `TCP4 192.0.2.1 192.0.2.2 40000 143`, or `UNKNOWN` and whatever.
fn v1_client(text: &str) -> Option<Client> {
    let mut words = text.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Client::Connected);
    }
    let mut address = || -> Option<IpAddr> {
        match family {
            "TCP4" => words.next()?.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => words.next()?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _) = (address()?, address()?);
    let mut port = || v1_port(words.next()?);
    let (source_port, _) = (port()?, port()?);
    words.next().is_none().then(|| client(source, source_port))
}

fn v1_port(digits: &str) -> Option<u16> {
    let lawful = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    lawful.then(|| digits.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else { return Parsed::Part };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 0x0f, fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || command > 1 {
        return Parsed::No("a PROXY header of an unknown version or command");
    }
    let whole = V2_FIXED_BYTES + length;
    if whole > HEADER_BYTES_MAX {
        return Parsed::No("a PROXY header of more than 536 bytes");
    }
    let Some(rest) = rest.get(..length) else { return Parsed::Part };
    let client = match (command, family) {
        (0, _) => Some(Client::Connected),
        // No family, or a Unix socket at the proxy: there is no address.
        (_, 0x00 | 0x31) => Some(Client::Connected),
        (_, 0x11) => rest.first_chunk::<12>().map(|block| {
            let [a, b, c, d, .., high, low, _, _] = *block;
            client(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))
        }),
        (_, 0x21) => rest.first_chunk::<36>().and_then(|block| {
            let (source, _) = block.split_first_chunk::<16>()?;
            Some(client(Ipv6Addr::from(*source).into(), u16::from_be_bytes([block[32], block[33]])))
        }),
        // Datagrams, and what nobody has defined.
        _ => None,
    };
    // What follows the addresses are TLVs: nothing here depends on them.
    client.map_or(Parsed::No("a malformed PROXY header"), |client| Parsed::Whole(whole, client))
}

fn client(address: IpAddr, port: u16) -> Client {
    Client::At(SocketAddr::new(address.to_canonical(), port))
}

/// Reads a header, exactly.
///
/// # Errors
/// `InvalidData` for anything else than a header, `UnexpectedEof` and `TimedOut` when it does not come whole in time.
pub(crate) async fn read_header(stream: &mut TcpStream, limit: Duration) -> io::Result<Client> {
    timeout(limit, read_whole(stream)).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time")))
}

async fn read_whole(stream: &mut TcpStream) -> io::Result<Client> {
    let mut header = [0; HEADER_BYTES_MAX];
    let mut have = 0;
    loop {
        let room = header.get_mut(have..).unwrap_or_default();
        let seen = stream.peek(room).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A part of a header is taken out of the socket, so that the next look waits for more.
        let (take, client) = match parse(header.get(..have + seen).unwrap_or_default()) {
            Parsed::Part => (have + seen, None),
            Parsed::Whole(length, client) => (length, Some(client)),
            Parsed::No(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        };
        stream.read_exact(header.get_mut(have..take).unwrap_or_default()).await?;
        have = take;
        if let Some(client) = client {
            return Ok(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn v1(source: SocketAddr) -> Vec<u8> {
        let (family, here) = if source.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "2001:db8::1") };
        format!("PROXY {family} {} {here} {} 143\r\n", source.ip(), source.port()).into_bytes()
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    fn v2_of(source: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => v2(1, 0x11, &[&ip.octets()[..], &[192, 0, 2, 1], &port, &[0, 143], tlvs].concat()),
            IpAddr::V6(ip) => v2(1, 0x21, &[&ip.octets()[..], &[7; 16], &port, &[0, 143], tlvs].concat()),
        }
    }

    /// Whole at its end, a part before it, whatever follows.
    fn holds_at_every_cut(header: &[u8], client: Client) {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Parsed::Part, "{header:?} cut at {cut}");
        }
        let followed = [header, b"a1 LOGIN ann secret\r\n"].concat();
        for end in header.len()..=followed.len() {
            assert_eq!(parse(&followed[..end]), Parsed::Whole(header.len(), client));
        }
    }

    #[test]
    fn both_versions_and_clients_that_are_not_told() {
        for source in ["203.0.113.9:40000", "[2001:db8::9]:1", "255.255.255.255:65535"] {
            let source: SocketAddr = source.parse().unwrap();
            holds_at_every_cut(&v1(source), Client::At(source));
            holds_at_every_cut(&v2_of(source, &[]), Client::At(source));
            holds_at_every_cut(&v2_of(source, &[3, 0, 4, 1, 2, 3, 4]), Client::At(source));
        }
        holds_at_every_cut(b"PROXY UNKNOWN\r\n", Client::Connected);
        holds_at_every_cut(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535 and whatever\r\n", Client::Connected);
        holds_at_every_cut(&v2(0, 0x00, &[]), Client::Connected);
        holds_at_every_cut(&v2(0, 0x11, &[1; 12]), Client::Connected);
        holds_at_every_cut(&v2(1, 0x00, &[9; 40]), Client::Connected);
        holds_at_every_cut(&v2(1, 0x31, &[0; 216]), Client::Connected);
        let mapped = v2_of("[::ffff:192.0.2.7]:5".parse().unwrap(), &[]);
        assert_eq!(parse(&mapped), Parsed::Whole(52, Client::At("192.0.2.7:5".parse().unwrap())));
    }

    #[test]
    fn everything_else_is_no_header() {
        let long_line = [b"PROXY UNKNOWN ", &[b'x'; 120][..], b"\r\n"].concat();
        let too_long = v2(1, 0x11, &[0; 521]);
        assert_eq!(parse(&v2(1, 0x11, &[0; 520])), Parsed::Whole(536, Client::At("0.0.0.0:0".parse().unwrap())));
        let cases: [&[u8]; 20] = [
            b"a1 NOOP\r\n",
            b"\x16\x03\x01",
            b"proxy UNKNOWN\r\n",
            b"PROXY  UNKNOWN\r\n",
            b"PROXY UNKNOWN\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 mx1 mx2 1 2\r\n",
            b"PROXY \xff\r\n",
            &long_line,
            &too_long,
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b0123456789a",
        ];
        for case in cases {
            assert!(matches!(parse(case), Parsed::No(_)), "{case:?}");
        }
        for family in [0x12, 0x22, 0x32, 0x13, 0x41] {
            assert!(matches!(parse(&v2(1, family, &[0; 216])), Parsed::No(_)), "{family:#x}");
        }
    }

    fn sources() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn what_is_told_is_read_however_it_is_cut(source in sources(), tlvs in prop::collection::vec(any::<u8>(), 0..484)) {
            holds_at_every_cut(&v1(source), Client::At(source));
            holds_at_every_cut(&v2_of(source, &tlvs), Client::At(source));
        }

        /// Whatever comes: no panic, never more than the bound, and what was decided once stays decided.
        #[test]
        fn no_bytes_confuse_it(begin in 0usize..3, noise in prop::collection::vec(any::<u8>(), 0..700), ends in prop::collection::vec(0usize..700, 0..8)) {
            let begin: &[u8] = [&b""[..], V1_BEGIN, V2_SIGNATURE][begin];
            let bytes = [begin, &noise].concat();
            let whole = parse(&bytes);
            if bytes.len() >= HEADER_BYTES_MAX {
                prop_assert_ne!(whole, Parsed::Part);
            }
            for end in ends {
                let seen = parse(&bytes[..end.min(bytes.len())]);
                prop_assert!(seen == Parsed::Part || seen == whole, "{:?} then {:?}", seen, whole);
            }
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let client = client.unwrap();
        client.set_nodelay(true).unwrap();
        (client, accepted.unwrap().0)
    }

    #[tokio::test]
    async fn no_byte_behind_the_header_is_taken() {
        let source: SocketAddr = "203.0.113.9:40000".parse().unwrap();
        for header in [v1(source), v2_of(source, &[1, 2, 3])] {
            for cut in [1, 7, 13, 16, 20, header.len() - 1, header.len()] {
                let (mut client, mut server) = pair().await;
                let sending = async {
                    client.write_all(&header[..cut]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    client.write_all(&[&header[cut..], b"hello"].concat()).await.unwrap();
                };
                let (read, ()) = tokio::join!(read_header(&mut server, Duration::from_secs(5)), sending);
                assert_eq!(read.unwrap(), Client::At(source));
                let mut rest = [0; 5];
                server.read_exact(&mut rest).await.unwrap();
                assert_eq!(&rest, b"hello");
            }
        }
    }

    #[tokio::test]
    async fn silence_ends_and_nonsense_are_errors() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"PROXY TCP4").await.unwrap();
        let silent = read_header(&mut server, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        drop(client);
        let ended = read_header(&mut server, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        let (mut client, mut server) = pair().await;
        client.write_all(b"a1 NOOP\r\n").await.unwrap();
        let nonsense = read_header(&mut server, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(nonsense.kind(), io::ErrorKind::InvalidData);
    }
}
