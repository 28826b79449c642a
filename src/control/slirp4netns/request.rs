//! What clients of slirp4netns's API ask for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::forward::{ForwardId, Publish};
use crate::policy::{PortRange, Protocol};

/// Where the guest is, unless a request says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guests {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Guests {
    /// The address that clients are led to. The IPv4 one, of IPv6 clients too:
    /// its IPv6 address the guest may have chosen itself.
    pub(super) fn default_addr(&self) -> Option<IpAddr> {
        self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6))
    }
}

/// Why a request is not done. The texts are slirp4netns's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// Not JSON, or not all of it.
    #[error("bad request: cannot parse JSON")]
    NotJson,
    /// JSON, but no object.
    #[error("bad request: json_object() failed")]
    NotAnObject,
    /// No `execute`, or none that is a string.
    #[error("bad request: no execute found")]
    NoExecute,
    /// An `execute` that is not known.
    #[error("bad request: unknown execute")]
    UnknownExecute,
    /// 4096 bytes or more.
    #[error("bad request: too large message")]
    TooLarge,
    /// An argument of `add_hostfwd`.
    #[error("bad request: add_hostfwd: bad arguments.{0}")]
    BadArgument(&'static str),
    /// The port cannot be forwarded; the log says why.
    #[error("bad request: add_hostfwd: slirp_add_hostfwd failed")]
    NotAdded,
    /// No forward of that id.
    #[error("bad request: remove_hostfwd: bad arguments.id")]
    BadId,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Execute {
    /// `add_hostfwd`.
    Add(Publish),
    /// `list_hostfwd`.
    List,
    /// `remove_hostfwd`.
    Remove(ForwardId),
}

/// The first JSON value in `bytes`; `None` when more may complete it. What is
/// behind it is ignored.
pub(super) fn value(bytes: &[u8]) -> Option<Result<Value, Problem>> {
    match serde_json::Deserializer::from_slice(bytes)
        .into_iter::<Strict>()
        .next()?
    {
        Ok(Strict(value)) => Some(Ok(value)),
        Err(error) if error.is_eof() => None,
        Err(_) => Some(Err(Problem::NotJson)),
    }
}

/// A value in which no object has a member twice: that is no JSON to
/// slirp4netns.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Strict(array.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Strict, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice"));
            }
        }
        Ok(Strict(object.into()))
    }
}

/// Makes sense of a request.
///
/// # Errors
/// [`Problem`].
pub(super) fn parse(request: &Value, guests: &Guests) -> Result<Execute, Problem> {
    let request = request.as_object().ok_or(Problem::NotAnObject)?;
    let execute = request.get("execute").and_then(Value::as_str);
    let arguments = request.get("arguments").and_then(Value::as_object);
    match execute.ok_or(Problem::NoExecute)? {
        "add_hostfwd" => parse_add(arguments.unwrap_or(&Map::new()), guests).map(Execute::Add),
        "list_hostfwd" => Ok(Execute::List),
        "remove_hostfwd" => arguments
            .and_then(|arguments| id(arguments.get("id")?))
            .map(Execute::Remove)
            .ok_or(Problem::BadId),
        _ => Err(Problem::UnknownExecute),
    }
}

fn parse_add(arguments: &Map<String, Value>, guests: &Guests) -> Result<Publish, Problem> {
    let get = |name| arguments.get(name);
    let protocol = match get("proto").and_then(Value::as_str) {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => return Err(Problem::BadArgument("proto")),
    };
    let host = addr(get("host_addr"))
        .ok_or(Problem::BadArgument("host_addr"))?
        .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let host_port = port(get("host_port")).ok_or(Problem::BadArgument("host_port"))?;
    let guest = addr(get("guest_addr"))
        .ok_or(Problem::BadArgument("guest_addr"))?
        .or(guests.default_addr());
    let guest_port = port(get("guest_port")).ok_or(Problem::BadArgument("guest_port"))?;
    let to = |guest| {
        Publish::ports(
            protocol,
            Some(host),
            PortRange::one(host_port),
            guest,
            PortRange::one(guest_port),
        )
    };
    to(guest).map_err(|_| match to(None) {
        Ok(_) => Problem::BadArgument("guest_addr"),
        // No address to listen on, which slirp4netns learns from bind(2).
        Err(_) => Problem::NotAdded,
    })
}

/// An address, or none; `None` when it is neither.
fn addr(value: Option<&Value>) -> Option<Option<IpAddr>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(Value::String(text)) => text.parse().ok().map(Some),
        Some(_) => None,
    }
}

fn port(value: Option<&Value>) -> Option<u16> {
    let port = u16::try_from(whole(value?)?).ok()?;
    (port > 0).then_some(port)
}

fn id(value: &Value) -> Option<ForwardId> {
    let id = u32::try_from(whole(value)?).ok()?;
    NonZeroU32::new(id).map(ForwardId)
}

/// A number without fraction: clients may write 80 as 80.0, for in JSON they are
/// the same.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        // Exact: a whole number of 32 bits, written without its fraction.
        fits.then(|| format!("{number:.0}").parse().ok())?
    })
}
