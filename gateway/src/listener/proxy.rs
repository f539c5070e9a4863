//! PROXY protocol, version 2: a load balancer says for whom it connects.
//!
//! Off unless proxies are listed. From a listed address the header must come first, and is read to its last byte and no
//! further; from any other address it is garbage before a greeting, as it must be, for it is an assertion without proof. Its
//! type-length-values are skipped. Version 1 is text without a bound and not spoken.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError, Protocol};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Settings of the PROXY protocol; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    from: Vec<IpNet>,
    pub(super) timeout: Duration,
}

/// The section `[tcp.proxy]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Addresses or networks of the proxies, such as `"10.1.2.0/24"`: from there each connection must begin with a header
    /// of version 2, from anywhere else none may. Default none, at most 256.
    from: Vec<String>,
    /// How long a proxy may take for the header. Default 2 s, 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    timeout: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self { from: Vec::new(), timeout: Duration::from_secs(2) }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if !(Duration::from_millis(100)..=Duration::from_mins(1)).contains(&file.timeout) {
            return Err("timeout must be 100 ms to 1 min".to_owned());
        }
        if file.from.len() > 256 {
            return Err("from must list at most 256 networks".to_owned());
        }
        let network = |text: &String| {
            let one = || text.parse::<IpAddr>().map(IpNet::from);
            let network = text.parse::<IpNet>().or_else(|_| one());
            network
                .map_err(|_| format!("{text:?} in from is no address and no network such as \"10.1.2.0/24\""))
        };
        let from = file.from.iter().map(network).collect::<Result<Vec<_>, _>>()?;
        if from.iter().any(|network| network.prefix_len() == 0) {
            return Err("from must not be everybody: anyone could then come under any address".to_owned());
        }
        Ok(Self { from, timeout: file.timeout })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

impl Config {
    /// Whether `address` is a proxy's.
    pub(super) fn lists(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.from.iter().any(|network| network.contains(&address))
    }
}

/// Reads the header; returns for whom the proxy connects, or `None` if it does so for itself.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Malformed> {
    let mut header = vec![0; FIXED];
    io.read_exact(&mut header).await?;
    let length = match header.as_slice() {
        [prefix @ .., high, low] if prefix.starts_with(PROTOCOL_PREFIX) => u16::from_be_bytes([*high, *low]),
        _ => return Err(Malformed::Prefix),
    };
    if length > LONGEST {
        return Err(Malformed::Long(length));
    }
    header.resize(FIXED.saturating_add(length.into()), 0);
    io.read_exact(header.get_mut(FIXED..).unwrap_or_default()).await?;
    source(&header)
}

/// For whom a whole header speaks.
fn source(header: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let header = Header::try_from(header)?;
    if header.command == Command::Local {
        return Ok(None);
    }
    if header.protocol != Protocol::Stream {
        return Err(Malformed::Address);
    }
    match header.addresses {
        Addresses::IPv4(of) => Ok(Some(SocketAddr::from((of.source_address, of.source_port)))),
        Addresses::IPv6(of) => Ok(Some(SocketAddr::from((of.source_address, of.source_port)))),
        // It connects for somebody, and does not say for whom: no rate could be kept.
        Addresses::Unspecified | Addresses::Unix(_) => Err(Malformed::Address),
    }
}

/// Bytes of a header whose length is known.
const FIXED: usize = 16;

/// Most bytes after them. Addresses take 36; type-length-values of known proxies, certificates' names included, a few
/// hundred.
const LONGEST: u16 = 2048;

/// Why what a proxy sent is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// It speaks for nobody that could be reached over TCP.
    #[error("its header names no TCP address")]
    Address,
    /// It broke off.
    #[error("it broke off before its header was whole")]
    Io(#[from] io::Error),
    /// More than is read.
    #[error("its header is {0} bytes long, more than {LONGEST}")]
    Long(u16),
    /// Against the specification.
    #[error("its header is malformed: {0}")]
    Parse(#[from] ParseError),
    /// Version 1, or no header at all.
    #[error("it did not begin with a header of version 2")]
    Prefix,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with this version and command, family and protocol, and what follows.
    fn header(version_command: u8, family_protocol: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[version_command, family_protocol], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 9, 127, 0, 0, 1, 0x30, 0x39, 0x20, 0xfb];

    #[tokio::test]
    async fn the_header_is_read_to_its_last_byte_and_no_further() {
        let with_values = [IPV4.as_slice(), &[4, 0, 3, b'a', b'b', b'c']].concat();
        for rest in [IPV4.as_slice(), &with_values] {
            let sent = [header(0x21, 0x11, rest).as_slice(), b"greeting"].concat();
            let mut io = sent.as_slice();
            let source = read(&mut io).await.unwrap();
            assert_eq!(source, Some("192.0.2.9:12345".parse().unwrap()));
            assert_eq!(io, b"greeting");
        }
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        let source = read(&mut header(0x21, 0x21, &six).as_slice()).await.unwrap();
        assert_eq!(source, Some("[2001:db8::]:0".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_proxy_that_connects_for_itself_says_so() {
        assert_eq!(read(&mut header(0x20, 0x00, &[]).as_slice()).await.unwrap(), None);
        assert_eq!(read(&mut header(0x20, 0x11, &IPV4).as_slice()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_header_of_version_2_is_refused() {
        let refused = async |sent: &[u8]| read(&mut &*sent).await.unwrap_err().to_string();
        assert!(refused(b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n").await.contains("version 2"));
        assert!(refused(&[22; 600]).await.contains("version 2"));
        assert!(refused(PROTOCOL_PREFIX).await.contains("broke off"));
        assert!(refused(&header(0x21, 0x11, &IPV4)[..20]).await.contains("broke off"));
        assert!(refused(&header(0x21, 0x11, &IPV4[..11])).await.contains("malformed"));
        assert!(refused(&header(0x11, 0x11, &IPV4)).await.contains("malformed"));
        assert!(refused(&header(0x22, 0x11, &IPV4)).await.contains("malformed"));
        assert!(refused(&header(0x21, 0x00, &[])).await.contains("no TCP address"));
        assert!(refused(&header(0x21, 0x12, &IPV4)).await.contains("no TCP address"));
        assert!(refused(&header(0x21, 0x31, &[0; 216])).await.contains("no TCP address"));
        assert!(refused(&header(0x21, 0x11, &[0; 2049])).await.contains("2049"));
    }

    #[tokio::test]
    async fn no_bytes_make_it_read_on_or_fall_over() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let mut sent = header(random.u8(..), random.u8(..), &IPV4);
            for _ in 0..random.usize(0..4) {
                let place = random.usize(0..sent.len());
                sent[place] = random.u8(..);
            }
            sent.truncate(random.usize(0..=sent.len()));
            let announced = sent.get(14..16).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
            let mut io = sent.as_slice();
            if read(&mut io).await.is_ok() {
                assert_eq!(sent.len() - io.len(), FIXED + announced);
            }
        }
    }

    #[test]
    fn proxies_are_listed_by_address_or_network_and_never_everybody() {
        let config: Config = toml::from_str(r#"from = ["10.1.0.0/16", "2001:db8::7"]"#).unwrap();
        for (address, listed) in [
            ("10.1.255.3", true),
            ("::ffff:10.1.0.1", true),
            ("10.2.0.1", false),
            ("2001:db8::7", true),
            ("2001:db8::8", false),
        ] {
            assert_eq!(config.lists(address.parse().unwrap()), listed, "{address}");
        }
        let complaint = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(complaint(r#"from = ["0.0.0.0/0"]"#).contains("everybody"));
        assert!(complaint(r#"from = ["lb.example.com"]"#).contains("no address"));
        assert!(complaint(r#"timeout = "0s""#).contains("timeout"));
    }
}
