//! Greetings (`ClientHello`) that no TLS library of today would send, put together by hand: RFC 5246, section 7.4.1.2.

/// What a client says it speaks.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// Highest version, as on the wire: 0x0302 is TLS 1.1, 0x0303 TLS 1.2.
    pub version: u16,
    /// Cipher suites.
    pub suites: &'static [u16],
    /// Whether it offers the extended master secret (RFC 7627).
    pub extended_master_secret: bool,
}

/// ECDHE with ECDSA or RSA, AES-128-GCM.
pub const ECDHE_AEAD: &[u16] = &[0xc02b, 0xc02f];

/// ECDHE with CBC.
pub const ECDHE_CBC: &[u16] = &[0xc009, 0xc013, 0xc023, 0xc027];

/// RSA key exchange, AES-128-GCM and CBC.
pub const RSA: &[u16] = &[0x009c, 0x002f];

impl Greeting {
    /// The record.
    ///
    /// # Panics
    ///
    /// Never: it is short.
    pub fn record(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        extension(&mut extensions, 10, &[0, 4, 0, 29, 0, 23]); // x25519, P-256
        extension(&mut extensions, 11, &[1, 0]); // uncompressed points
        extension(&mut extensions, 13, &[0, 6, 4, 3, 8, 4, 4, 1]); // ECDSA, RSA-PSS, RSA, each with SHA-256
        extension(&mut extensions, 16, b"\x00\x03\x02h2");
        if self.extended_master_secret {
            extension(&mut extensions, 23, &[]);
        }
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0); // no session
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        body.extend(length(suites.len()));
        body.extend(suites);
        body.extend([1, 0]); // no compression
        body.extend(length(extensions.len()));
        body.extend(extensions);
        let mut record = vec![22, 3, 1];
        record.extend(length(body.len() + 4));
        record.extend([1, 0]);
        record.extend(length(body.len()));
        record.extend(body);
        record
    }
}

fn extension(extensions: &mut Vec<u8>, kind: u16, content: &[u8]) {
    extensions.extend(kind.to_be_bytes());
    extensions.extend(length(content.len()));
    extensions.extend(content);
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("greetings are short").to_be_bytes()
}
