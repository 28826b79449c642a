//! What a DHCP client says.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{DhcpOptionIterator, Message};
use dhcproto::v4::{Flags, HType, MessageType, Opcode, OptionCode};

use super::leases::{Client, ClientKey};
use crate::net::MacAddr;
use crate::services::neighbourhood::Reason;

/// Least message every client takes, in bytes of IP packet (RFC 2131 section 2).
const MIN_MAX_MESSAGE: u16 = 576;
/// Longest client identifier kept, in bytes: what one option holds.
const MAX_IDENTIFIER: usize = 255;
/// Longest host name kept, in bytes: one DNS label (RFC 1035 section 2.3.4).
const MAX_HOSTNAME: usize = 63;

/// Bit of option 52 that says `file` holds options.
const OVERLOAD_FILE: u8 = 1;
/// Bit of option 52 that says `sname` holds options.
const OVERLOAD_SNAME: u8 = 2;

/// A message from a client on this link, with the options that matter.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) kind: MessageType,
    pub(super) xid: u32,
    pub(super) flags: Flags,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) client: Client,
    /// Option 61, to be returned (RFC 6842).
    pub(super) identifier: Option<Vec<u8>>,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 51, in seconds.
    pub(super) lease_secs: Option<u32>,
    /// Option 57, at least 576: greatest IP packet the client takes, in bytes.
    pub(super) max_message: u16,
}

/// The options that matter, as found.
#[derive(Debug, Default)]
struct Options {
    kind: Option<MessageType>,
    identifier: Option<Vec<u8>>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    lease_secs: Option<u32>,
    max_message: Option<u16>,
    hostname: Option<String>,
    overload: u8,
}

impl Request {
    /// Reads the payload of a datagram to port 67.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let message = Message::new(bytes).map_err(|_| Reason::Malformed)?;
        // The length is checked before `chaddr` is asked for: it is its bound.
        if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth {
            return Err(Reason::Unsupported);
        }
        if message.hlen() != 6 {
            return Err(Reason::Malformed);
        }
        if !message.giaddr().is_unspecified() {
            return Err(Reason::Relayed);
        }
        let mac = MacAddr(message.chaddr().try_into().map_err(|_| Reason::Malformed)?);
        if !mac.is_unicast() {
            return Err(Reason::Malformed);
        }
        let options = Options::read(&message, bytes)?;
        let key = options
            .identifier
            .as_deref()
            .map_or(ClientKey::Hardware(mac), |identifier| {
                ClientKey::Identifier(identifier.into())
            });
        Ok(Self {
            // Without a message type it is BOOTP.
            kind: options.kind.ok_or(Reason::Unsupported)?,
            xid: message.xid(),
            flags: message.flags(),
            ciaddr: message.ciaddr(),
            client: Client {
                key,
                mac,
                hostname: options.hostname,
            },
            identifier: options.identifier,
            requested: options.requested,
            server: options.server,
            lease_secs: options.lease_secs,
            max_message: options
                .max_message
                .unwrap_or(MIN_MAX_MESSAGE)
                .max(MIN_MAX_MESSAGE),
        })
    }
}

impl Options {
    /// Reads the options, then those in `file` and `sname` if they are said to
    /// be there (RFC 2131 section 4.1).
    fn read(message: &Message<'_>, bytes: &[u8]) -> Result<Self, Reason> {
        let mut options = Self::default();
        options.take_all(message.opts())?;
        if options.overload & OVERLOAD_FILE != 0 {
            let file = bytes.get(108..236).unwrap_or_default();
            options.take_all(DhcpOptionIterator::new(file))?;
        }
        if options.overload & OVERLOAD_SNAME != 0 {
            let sname = bytes.get(44..108).unwrap_or_default();
            options.take_all(DhcpOptionIterator::new(sname))?;
        }
        Ok(options)
    }

    fn take_all(&mut self, options: DhcpOptionIterator<'_>) -> Result<(), Reason> {
        for option in options {
            self.take(option.code(), option.data())?;
        }
        Ok(())
    }

    fn take(&mut self, code: OptionCode, data: &[u8]) -> Result<(), Reason> {
        match code {
            OptionCode::MessageType => {
                let [kind] = array(data)?;
                self.kind = Some(MessageType::from(kind));
            }
            OptionCode::ClientIdentifier if data.len() > MAX_IDENTIFIER => {
                return Err(Reason::Malformed);
            }
            // Some clients send it empty and mean that they have none.
            OptionCode::ClientIdentifier => {
                self.identifier = (!data.is_empty()).then(|| data.to_vec());
            }
            OptionCode::RequestedIpAddress => {
                self.requested = Some(Ipv4Addr::from(array::<4>(data)?));
            }
            OptionCode::ServerIdentifier => self.server = Some(Ipv4Addr::from(array::<4>(data)?)),
            OptionCode::AddressLeaseTime => {
                self.lease_secs = Some(u32::from_be_bytes(array(data)?));
            }
            OptionCode::MaxMessageSize => {
                self.max_message = Some(u16::from_be_bytes(array(data)?));
            }
            OptionCode::OptionOverload => [self.overload] = array(data)?,
            OptionCode::Hostname => self.hostname = sanitised_hostname(data),
            _ => {}
        }
        Ok(())
    }
}

fn array<const N: usize>(data: &[u8]) -> Result<[u8; N], Reason> {
    data.try_into().map_err(|_| Reason::Malformed)
}

/// The first label of a host name, in lower case; `None` unless it consists of
/// letters, digits and hyphens, with no hyphen at either end (RFC 1123 section 2.1).
fn sanitised_hostname(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let label = text.split('.').next()?;
    let usable = (1..=MAX_HOSTNAME).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    usable.then(|| label.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_one_safe_label() {
        let table: [(&[u8], Option<&str>); 10] = [
            (b"Box1", Some("box1")),
            (b"box.example.org", Some("box")),
            (b"nul-ended\0", Some("nul-ended")),
            (b"", None),
            (b".org", None),
            (b"-x", None),
            (b"x-", None),
            (b"a b", None),
            (b"$(reboot)", None),
            (b"\xff\xfe", None),
        ];
        for (given, expected) in table {
            assert_eq!(sanitised_hostname(given).as_deref(), expected, "{given:?}");
        }
        assert_eq!(sanitised_hostname(&[b'a'; 64]), None);
        assert_eq!(sanitised_hostname(&[b'a'; 63]), Some("a".repeat(63)));
    }
}
