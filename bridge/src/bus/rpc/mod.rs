//! Remote procedure calls of BUS/RT: what stands in a message that is sent by name.
//!
//! Pure: bytes to calls and back. Who relays calls keeps them in [`Calls`], so that each ends once: answered, given up, or
//! overdue. Kept true: what decodes encodes to the same bytes, and what is no call is told from one that is broken.

use bytes::{BufMut, Bytes, BytesMut};

mod calls;

pub use calls::{Budget, Calls, Gauge, Refused};

const NOTIFICATION: u8 = 0x00;
pub(crate) const REQUEST: u8 = 0x01;
pub(crate) const REPLY: u8 = 0x11;
pub(crate) const ERROR: u8 = 0x12;

/// What a message that is sent by name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// The call failed.
    Error {
        /// The id of the call.
        id: u32,
        /// Why, for machines.
        code: i16,
        /// Why, for people; any bytes.
        message: Bytes,
    },
    /// Nobody waits for an answer, and there is no method.
    Notification(Bytes),
    /// The call succeeded.
    Reply {
        /// The id of the call.
        id: u32,
        /// Any bytes.
        result: Bytes,
    },
    /// A call.
    Request {
        /// Unique among the open calls of its sender; 0: nobody waits for an answer.
        id: u32,
        /// UTF-8 without NUL.
        method: Box<str>,
        /// Any bytes.
        params: Bytes,
    },
}

impl Rpc {
    /// Reads the payload of a message.
    ///
    /// # Errors
    ///
    /// [`RpcError`] says that it is no call at all, or in which way it is broken.
    pub fn decode(payload: &Bytes) -> Result<Self, RpcError> {
        let id = || {
            let field = payload.get(1..5).and_then(|field| field.try_into().ok());
            field.map(u32::from_le_bytes).ok_or(RpcError::Short)
        };
        match payload.first() {
            Some(&NOTIFICATION) => Ok(Self::Notification(payload.slice(1..))),
            Some(&REQUEST) => {
                let id = id()?;
                let rest = payload.slice(5..);
                let end = rest.iter().position(|byte| *byte == 0).ok_or(RpcError::Short)?;
                let method = rest.get(..end).unwrap_or_default();
                let method = str::from_utf8(method).map_err(|_| RpcError::Method)?;
                Ok(Self::Request { id, method: method.into(), params: rest.slice(end.saturating_add(1)..) })
            }
            Some(&REPLY) => Ok(Self::Reply { id: id()?, result: payload.slice(5..) }),
            Some(&ERROR) => {
                let id = id()?;
                let code = payload.get(5..7).and_then(|code| code.try_into().ok()).ok_or(RpcError::Short)?;
                Ok(Self::Error { id, code: i16::from_le_bytes(code), message: payload.slice(7..) })
            }
            Some(_) | None => Err(RpcError::NotRpc),
        }
    }

    /// Writes the payload of a message. A method ends at its first NUL.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = |kind: u8, id: u32, more: usize| {
            let mut bytes = BytesMut::with_capacity(more.saturating_add(8));
            bytes.put_u8(kind);
            bytes.put_u32_le(id);
            bytes
        };
        let bytes = match self {
            Self::Error { id, code, message } => {
                let mut bytes = head(ERROR, *id, message.len());
                bytes.put_i16_le(*code);
                bytes.put_slice(message);
                bytes
            }
            Self::Notification(payload) => {
                let mut bytes = BytesMut::with_capacity(payload.len().saturating_add(1));
                bytes.put_u8(NOTIFICATION);
                bytes.put_slice(payload);
                bytes
            }
            Self::Reply { id, result } => {
                let mut bytes = head(REPLY, *id, result.len());
                bytes.put_slice(result);
                bytes
            }
            Self::Request { id, method, params } => {
                let mut bytes = head(REQUEST, *id, method.len().saturating_add(params.len()));
                bytes.put_slice(method.split('\0').next().unwrap_or_default().as_bytes());
                bytes.put_u8(0);
                bytes.put_slice(params);
                bytes
            }
        };
        bytes.freeze()
    }

    /// The failure of call `id`, as its caller is told.
    #[must_use]
    pub fn failure(id: u32, code: i16, message: &str) -> Self {
        Self::Error { id, code, message: Bytes::copy_from_slice(message.as_bytes()) }
    }
}

/// Why a payload is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The method is not UTF-8.
    #[error("the method of a call is not UTF-8")]
    Method,
    /// It does not begin as one.
    #[error("not a call")]
    NotRpc,
    /// It ends too early.
    #[error("a call ends before its parts do")]
    Short,
}

/// Codes of the errors that the federation itself answers with, beside those of the RPC layer.
pub mod code {
    /// What was asked for makes no sense.
    pub const INVALID: i16 = -32600;
    /// The callee failed in some other way.
    pub const INTERNAL: i16 = -32603;
    /// No such method.
    pub const METHOD: i16 = -32601;
    /// The policy does not permit it.
    pub const DENIED: i16 = -32000;
    /// No such client, or not connected.
    pub const ABSENT: i16 = -32001;
    /// The budget is used up.
    pub const TIMED_OUT: i16 = -32002;
    /// Too many calls at once.
    pub const TOO_MANY: i16 = -32003;
    /// The link was cut while the call was out.
    pub const CUT: i16 = -32004;
    /// The caller gave it up.
    pub const CANCELLED: i16 = -32005;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_survives_the_wire_as_busrt_writes_it() {
        let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let script = [
            (Rpc::Notification(bytes(b"hi\0")), &b"\x00hi\0"[..]),
            (
                Rpc::Request { id: 0x0403_0201, method: "HealthCheck".into(), params: bytes(b"\0p") },
                b"\x01\x01\x02\x03\x04HealthCheck\0\0p",
            ),
            (Rpc::Request { id: 0, method: "".into(), params: Bytes::new() }, b"\x01\0\0\0\0\0"),
            (Rpc::Reply { id: 1, result: bytes(b"ok") }, b"\x11\x01\0\0\0ok"),
            (Rpc::failure(1, code::METHOD, "no"), b"\x12\x01\0\0\0\xa7\x80no"),
        ];
        for (rpc, wire) in script {
            assert_eq!(&rpc.encode()[..], wire);
            assert_eq!(Rpc::decode(&Bytes::copy_from_slice(wire)), Ok(rpc));
        }
    }

    #[test]
    fn what_is_no_call_is_told_from_a_broken_one() {
        let decode = |wire: &'static [u8]| Rpc::decode(&Bytes::from_static(wire));
        assert_eq!(decode(b""), Err(RpcError::NotRpc));
        assert_eq!(decode(b"{\"text\": 1}"), Err(RpcError::NotRpc));
        for short in [&b"\x01\x01\0"[..], b"\x01\x01\0\0\0no end", b"\x11\x01\0\0", b"\x12\x01\0\0\0\0"] {
            assert_eq!(decode(short), Err(RpcError::Short), "{short:?}");
        }
        assert_eq!(decode(b"\x01\x01\0\0\0\xff\0"), Err(RpcError::Method));
    }

    #[test]
    fn random_bytes_never_panic_and_what_decodes_encodes_to_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut wire: Vec<u8> = (0..random.usize(..16)).map(|_| random.u8(..)).collect();
            if let Some(first) = wire.first_mut() {
                *first = [NOTIFICATION, REQUEST, REPLY, ERROR, 7][random.usize(..5)];
            }
            let wire = Bytes::from(wire);
            if let Ok(rpc) = Rpc::decode(&wire) {
                assert_eq!(rpc.encode(), wire);
            }
        }
    }
}
