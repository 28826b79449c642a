//! The messages of a VDE switch's control socket, versions 1 and 3.
//!
//! A switch is a directory; `ctl` in it is a stream socket. A client makes a
//! datagram socket of its own, sends one request that names it, and is answered
//! with the name of the datagram socket that is its port. Frames then go between
//! the two, one a datagram; the stream stays open as long as both are there.
//!
//! All numbers are in host byte order: the sockets are local. Sizes are those of
//! Linux, where a socket's address (`sockaddr_un`) has 110 bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Begins every request of versions 1 and 3.
const MAGIC: u32 = 0xfeed_face;
/// `AF_UNIX`.
const FAMILY: u16 = 1;
/// Bytes of a path in an address.
const PATH_LEN: usize = 108;
/// Bytes of an address.
pub const ADDRESS_LEN: usize = 2 + PATH_LEN;
/// Bytes of a description at most.
pub const MAX_DESCRIPTION: usize = 128;
/// Bytes before the description in version 3.
const V3_LEN: usize = 12 + ADDRESS_LEN;
/// Bytes before the description in version 1.
const V1_LEN: usize = 14 + ADDRESS_LEN;
/// Bytes of a request at most.
pub const MAX_REQUEST: usize = V1_LEN + MAX_DESCRIPTION;

/// What a request is for; the lower 8 bits of its type.
const NEW_CONTROL: u32 = 0;
const NEW_PORT0: u32 = 1;

/// A client that wants a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its datagram socket.
    pub client: PathBuf,
    /// The port it wants to have; `None`: any.
    pub port: Option<u32>,
    /// What it says about itself; printable text.
    pub description: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Fewer bytes than any request has.
    #[error("the request is cut short")]
    Short,
    /// It begins with something else: version 0, or another protocol.
    #[error("the request is of a version older than 1, or none at all")]
    Magic,
    /// Neither 1 nor 3.
    #[error("the request is of version {0}; 1 and 3 are understood")]
    Version(u32),
    /// The management port, which there is none of.
    #[error("the client asks for the management port, which this switch does not have")]
    ManagementPort,
    /// Another type.
    #[error("the request is of type {0}, which is not known")]
    Type(u32),
    /// The address is not that of a socket with a path.
    #[error("the client names no socket of its own")]
    Address,
}

impl Request {
    /// Reads a request of version 1 or 3.
    ///
    /// # Errors
    /// [`BadRequest`]; the connection is then closed, which is how this protocol
    /// says no.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        if word(bytes, 0)? != MAGIC {
            return Err(BadRequest::Magic);
        }
        // In version 1 the type stands where version 3 has its number.
        let second = word(bytes, 4)?;
        let (kind, address, fixed) = match second {
            3 => (word(bytes, 8)?, 12, V3_LEN),
            other if other & 0xff <= NEW_PORT0 => (other, 14, V1_LEN),
            version => return Err(BadRequest::Version(version)),
        };
        match kind & 0xff {
            NEW_CONTROL => {}
            NEW_PORT0 => return Err(BadRequest::ManagementPort),
            _ => return Err(BadRequest::Type(kind)),
        }
        let address = bytes
            .get(address..fixed)
            .and_then(|bytes| bytes.first_chunk())
            .ok_or(BadRequest::Short)?;
        let description = &bytes[fixed..bytes.len().min(fixed + MAX_DESCRIPTION)];
        Ok(Self {
            client: decode_address(address).ok_or(BadRequest::Address)?,
            port: Some(kind >> 8).filter(|port| *port != 0),
            description: printable(description),
        })
    }

    /// The request in version 3; `None` when the path is too long for an
    /// address. The description is cut at [`MAX_DESCRIPTION`] bytes.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let kind = NEW_CONTROL | self.port.unwrap_or(0) << 8;
        let mut out = Vec::with_capacity(V3_LEN + MAX_DESCRIPTION);
        out.extend_from_slice(&MAGIC.to_ne_bytes());
        out.extend_from_slice(&3u32.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&encode_address(&self.client)?);
        let description = self.description.as_bytes();
        out.extend_from_slice(&description[..description.len().min(MAX_DESCRIPTION)]);
        Some(out)
    }
}

/// An address as it is on the wire; `None` when the path is empty, too long, or
/// holds a zero byte.
#[must_use]
pub fn encode_address(path: &Path) -> Option<[u8; ADDRESS_LEN]> {
    let path = path.as_os_str().as_bytes();
    let mut out = [0; ADDRESS_LEN];
    out[..2].copy_from_slice(&FAMILY.to_ne_bytes());
    // One zero byte stays at its end.
    let room = out
        .get_mut(2..2 + path.len())
        .filter(|_| !path.is_empty() && path.len() < PATH_LEN && !path.contains(&0))?;
    room.copy_from_slice(path);
    Some(out)
}

/// The path in an address; `None` when it has none.
#[must_use]
pub fn decode_address(bytes: &[u8; ADDRESS_LEN]) -> Option<PathBuf> {
    let (family, path) = bytes.split_first_chunk()?;
    let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
    let path = &path[..end];
    if u16::from_ne_bytes(*family) != FAMILY || path.is_empty() {
        return None;
    }
    Some(OsStr::from_bytes(path).into())
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BadRequest> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    bytes
        .map(|b| u32::from_ne_bytes(*b))
        .ok_or(BadRequest::Short)
}

/// What a stranger says about itself, fit for a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request {
            client: "/run/vde.ctl/.00042-00001".into(),
            port: Some(7),
            description: "gw user=me PID=42".to_owned(),
        }
    }

    fn v1(kind: u32, request: &Request) -> Vec<u8> {
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 6]);
        out.extend(encode_address(&request.client).expect("fits"));
        out.extend(request.description.as_bytes());
        out
    }

    #[test]
    fn both_versions_are_understood() {
        let request = request();
        let v3 = request.encode().expect("fits");
        assert_eq!(v3.len(), 122 + request.description.len());
        assert_eq!(Request::parse(&v3), Ok(request.clone()));
        let v1 = v1(7 << 8, &request);
        assert_eq!(v1.len(), 124 + request.description.len());
        assert_eq!(Request::parse(&v1), Ok(request));
    }

    #[test]
    fn any_port_is_zero_on_the_wire() {
        let request = Request {
            port: None,
            ..request()
        };
        let bytes = request.encode().expect("fits");
        assert_eq!(bytes[8..12], [0; 4]);
        assert_eq!(Request::parse(&bytes), Ok(request));
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let good = request().encode().expect("fits");
        let with = |at: usize, word: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            bytes
        };
        for (bytes, reason) in [
            (Vec::new(), BadRequest::Short),
            (good[..11].to_vec(), BadRequest::Short),
            (good[..121].to_vec(), BadRequest::Short),
            (v1(0, &request())[..123].to_vec(), BadRequest::Short),
            (with(0, 0), BadRequest::Magic),
            (with(4, 2), BadRequest::Version(2)),
            (with(4, 4), BadRequest::Version(4)),
            (with(8, 1), BadRequest::ManagementPort),
            (v1(1, &request()), BadRequest::ManagementPort),
            (with(8, 2), BadRequest::Type(2)),
            (with(12, 0), BadRequest::Address),
        ] {
            assert_eq!(Request::parse(&bytes), Err(reason));
        }
    }

    #[test]
    fn a_strangers_text_cannot_write_to_the_terminal() {
        let mut request = request();
        request.description = "a\u{1b}[2Jb\nc".to_owned();
        let parsed = Request::parse(&request.encode().expect("fits")).expect("valid");
        assert_eq!(parsed.description, "a?[2Jb?c");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn any_change_to_a_request_is_read_or_refused(at in 0..139usize, to: u8, cut in 0..140usize) {
            let mut bytes = request().encode().expect("fits");
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn addresses_round_trip(path in "[^\\x00]{1,40}") {
            let bytes = encode_address(Path::new(&path)).expect("fits");
            prop_assert_eq!(decode_address(&bytes), Some(path.into()));
        }
    }

    #[test]
    fn paths_that_do_not_fit_are_refused() {
        for path in [String::new(), "x".repeat(108), "a\0b".to_owned()] {
            assert_eq!(encode_address(Path::new(&path)), None);
        }
        assert!(encode_address(Path::new(&"x".repeat(107))).is_some());
    }
}
