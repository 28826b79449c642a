//! Reads how forwards are written; see [`super::spec`] for the forms.
//!
//! The text is taken apart at its colons, those in brackets left alone. What the
//! parts are then follows from their number and from which of them look like
//! addresses (they hold a dot, a bracket or a percent sign), so that no form can
//! be taken for another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::spec::{
    AutoPublish, Expose, ExposeTo, HostAddr, Publish, PublishAt, PublishOption, SYSTEMS_CHOICE,
};
use super::spec_error::{Forms, MAX_EXCEPT, MAX_UNIX_PATH, SpecError, SpecProblem};
use crate::policy::{PortRange, Protocol};

/// Longest name of an interface, in bytes (`IFNAMSIZ`, less the zero).
const MAX_INTERFACE: usize = 15;

/// Longest name of a passed socket, in characters (`sd_listen_fds(3)`).
const MAX_PASSED_NAME: usize = 255;

type Parsed<T> = Result<T, SpecProblem>;

impl FromStr for PublishOption {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.strip_prefix("auto") {
            Some(rest) if rest.is_empty() || rest.starts_with([':', ',']) => auto(rest)
                .map(Self::Auto)
                .map_err(|problem| Forms::Publish.error(problem)),
            _ => text.parse().map(Self::Publish),
        }
    }
}

impl FromStr for Publish {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let publish = publish(text).map_err(|problem| Forms::Publish.error(problem))?;
        publish.check()?;
        Ok(publish)
    }
}

impl FromStr for Expose {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let expose = expose(text).map_err(|problem| Forms::Expose.error(problem))?;
        expose.check()?;
        Ok(expose)
    }
}

impl Publish {
    /// Says whether it can be done, wherever it comes from.
    ///
    /// # Errors
    /// As [`Publish::ports`].
    pub fn check(&self) -> Result<(), SpecError> {
        check_publish(self).map_err(|problem| Forms::Publish.error(problem))
    }
}

impl Expose {
    /// Says whether it can be done, wherever it comes from.
    ///
    /// # Errors
    /// When a port is 0 or beyond the last, or a unix socket is to carry more
    /// than one TCP port.
    pub fn check(&self) -> Result<(), SpecError> {
        check_expose(self).map_err(|problem| Forms::Expose.error(problem))
    }
}

fn publish(text: &str) -> Parsed<Publish> {
    if let Some(rest) = text.strip_prefix("unix:") {
        let (path, guest_port) = unix(rest)?;
        return Ok(Publish {
            protocol: Protocol::Tcp,
            host: PublishAt::Unix(path),
            guest: None,
            guest_ports: PortRange::one(guest_port),
        });
    }
    let (text, protocol) = protocol(text)?;
    if let Some(rest) = text.strip_prefix("systemd:") {
        let (name, guest_port) = match rest.rsplit_once(':') {
            Some((name, port)) => (Some(name.to_owned()), port),
            None => (None, rest),
        };
        return Ok(Publish {
            protocol,
            host: PublishAt::Passed { name },
            guest: None,
            guest_ports: PortRange::one(port(guest_port)?),
        });
    }
    published_ports(text, protocol)
}

fn published_ports(text: &str, protocol: Protocol) -> Parsed<Publish> {
    let parts = parts(text)?;
    let bare = !text.contains(['.', '[', '%']);
    if bare && (text.contains("::") || parts.len() > 4) {
        return Err(SpecProblem::NeedsBrackets(text.to_owned()));
    }
    let (addr, interface, rest) = match &parts[..] {
        [first, rest @ ..] if is_addr(first) || (!rest.is_empty() && is_name(first)) => {
            let (addr, interface) = host_addr(first)?;
            (addr, interface, rest)
        }
        all => (None, None, all),
    };
    let has_addr = addr.is_some() || interface.is_some();
    let (ports, guest, guest_ports) = match *rest {
        [] | [""] if !has_addr => return Err(SpecProblem::Empty),
        [] => return Err(SpecProblem::NotAPort(String::new())),
        [ports] => (range(ports)?, None, range(ports)?),
        [_, guest] if is_addr(guest) => return Err(SpecProblem::NoGuestPort(guest.to_owned())),
        [ports, guest] => (host_ports(ports, has_addr)?, None, range(guest)?),
        [ports, guest, guest_ports] if is_addr(guest) || is_name(guest) => (
            host_ports(ports, has_addr)?,
            Some(guest_addr(guest)?),
            range(guest_ports)?,
        ),
        _ => return Err(SpecProblem::TooManyParts(text.to_owned())),
    };
    Ok(Publish {
        protocol,
        host: PublishAt::Ports {
            addr,
            interface,
            ports,
        },
        guest,
        guest_ports,
    })
}

fn check_publish(publish: &Publish) -> Parsed<()> {
    let guest_ports = publish.guest_ports;
    check_range(guest_ports)?;
    check_protocol(publish.protocol)?;
    match &publish.host {
        PublishAt::Ports {
            addr,
            interface,
            ports,
        } => {
            if *ports != SYSTEMS_CHOICE {
                check_range(*ports)?;
            } else if guest_ports.count() > 1 {
                return Err(SpecProblem::ZeroPort);
            }
            if ports.count() != guest_ports.count() {
                return Err(SpecProblem::DifferentLengths {
                    host: *ports,
                    guest: guest_ports,
                });
            }
            check_interface(interface.as_deref())?;
            check_host_addr(HostAddr {
                addr: *addr,
                interface: interface.as_deref(),
            })?;
            publish.guest.map_or(Ok(()), check_guest_addr)
        }
        _ if publish.guest.is_some() || guest_ports.count() > 1 => {
            Err(SpecProblem::TooManyParts(publish.to_string()))
        }
        PublishAt::Unix(path) => check_path(path).and(tcp_only(publish.protocol)),
        PublishAt::Passed { name: None } => Ok(()),
        PublishAt::Passed { name: Some(name) } => check_passed_name(name),
    }
}

fn expose(text: &str) -> Parsed<Expose> {
    if let Some(rest) = text.strip_prefix("unix:") {
        let (path, guest_port) = unix(rest)?;
        return Ok(Expose {
            protocol: Protocol::Tcp,
            ports: PortRange::one(guest_port),
            to: ExposeTo::Unix(path),
        });
    }
    let (text, protocol) = protocol(text)?;
    let (host, guest) = text.split_once(':').unwrap_or((text, text));
    if guest.contains(':') {
        return Err(SpecProblem::TooManyParts(text.to_owned()));
    }
    let (host, ports) = (range(host)?, range(guest)?);
    if host.count() != ports.count() {
        return Err(SpecProblem::DifferentLengths { host, guest: ports });
    }
    Ok(Expose {
        protocol,
        ports,
        to: ExposeTo::Loopback(host.first),
    })
}

fn check_expose(expose: &Expose) -> Parsed<()> {
    check_range(expose.ports)?;
    check_protocol(expose.protocol)?;
    match &expose.to {
        ExposeTo::Loopback(0) => Err(SpecProblem::NotAPort("0".to_owned())),
        ExposeTo::Loopback(first) => {
            match first.checked_add(expose.ports.last - expose.ports.first) {
                Some(_) => Ok(()),
                None => Err(SpecProblem::BeyondLastPort(*first, expose.ports)),
            }
        }
        ExposeTo::Unix(_) if expose.ports.count() > 1 => Err(SpecProblem::UnixCarriesTcp),
        ExposeTo::Unix(path) => check_path(path).and(tcp_only(expose.protocol)),
    }
}

/// What stands behind `auto`.
fn auto(text: &str) -> Parsed<AutoPublish> {
    let (at, except) = match text.split_once(',') {
        Some((at, except)) => (at, Some(except)),
        None => (text, None),
    };
    let addr = at.strip_prefix(':').map(|addr| {
        let (addr, interface) = host_addr(addr)?;
        check_host_addr(HostAddr {
            addr,
            interface: interface.as_deref(),
        })?;
        match interface {
            Some(name) => Err(SpecProblem::NotAnAddress(format!("%{name}"))),
            None => addr.ok_or_else(|| SpecProblem::NotAnAddress(at.to_owned())),
        }
    });
    let except = match except {
        None => Vec::new(),
        Some(text) => text
            .strip_prefix("except=")
            .ok_or_else(|| SpecProblem::NotExcept(text.to_owned()))?
            .split(',')
            .map(range)
            .collect::<Parsed<Vec<_>>>()?,
    };
    if except.len() > MAX_EXCEPT {
        return Err(SpecProblem::TooManyExcept);
    }
    for range in &except {
        check_range(*range)?;
    }
    Ok(AutoPublish {
        addr: addr.transpose()?,
        except,
    })
}

/// Cuts the protocol off; TCP when there is none.
fn protocol(text: &str) -> Parsed<(&str, Protocol)> {
    let Some((rest, name)) = text.rsplit_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok((rest, Protocol::Tcp)),
        "udp" => Ok((rest, Protocol::Udp)),
        "sctp" => Err(SpecProblem::Sctp),
        _ => Err(SpecProblem::NotAProtocol(name.to_owned())),
    }
}

/// Takes `PATH:GUESTPORT[/tcp]` apart. The path may hold colons.
fn unix(text: &str) -> Parsed<(PathBuf, u16)> {
    let (path, guest) = text
        .rsplit_once(':')
        .ok_or_else(|| SpecProblem::NotAPort(String::new()))?;
    let (guest, protocol) = protocol(guest)?;
    tcp_only(protocol)?;
    let guest = range(guest)?;
    if guest.count() > 1 {
        return Err(SpecProblem::UnixCarriesTcp);
    }
    Ok((PathBuf::from(path), guest.first))
}

/// Splits at the colons outside of brackets. Never empty.
fn parts(text: &str) -> Parsed<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end = if rest.starts_with('[') {
            let close = rest.find(']').map(|at| at + 1);
            let end = close.ok_or_else(|| SpecProblem::NotAnAddress(rest.to_owned()))?;
            if !matches!(rest.as_bytes().get(end), None | Some(b':')) {
                return Err(SpecProblem::NotAnAddress(rest.to_owned()));
            }
            end
        } else {
            rest.find(':').unwrap_or(rest.len())
        };
        parts.push(&rest[..end]);
        match rest[end..].strip_prefix(':') {
            Some(more) => rest = more,
            None => return Ok(parts),
        }
    }
}

/// Whether a part is meant as an address: no port holds any of these.
fn is_addr(part: &str) -> bool {
    part.contains(['.', '[', '%'])
}

/// Whether a part is meant as a name, such as `localhost`, in place of an address.
fn is_name(part: &str) -> bool {
    part.starts_with(char::is_alphabetic)
}

/// `ADDR`, `[ADDR]`, `ADDR%IFACE`, `[ADDR%IFACE]`, `%IFACE`.
fn host_addr(part: &str) -> Parsed<(Option<IpAddr>, Option<String>)> {
    let (text, brackets) = unbracket(part);
    let (addr, interface) = match text.split_once('%') {
        Some((addr, interface)) => (addr, Some(interface.to_owned())),
        None => (text, None),
    };
    if addr.is_empty() && interface.is_some() && brackets == Brackets::None {
        return Ok((None, interface));
    }
    Ok((Some(address(addr, brackets)?), interface))
}

fn guest_addr(part: &str) -> Parsed<IpAddr> {
    let (text, brackets) = unbracket(part);
    address(text, brackets)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brackets {
    Around,
    None,
}

fn unbracket(part: &str) -> (&str, Brackets) {
    match part.strip_prefix('[').and_then(|p| p.strip_suffix(']')) {
        Some(inner) => (inner, Brackets::Around),
        None => (part, Brackets::None),
    }
}

fn address(text: &str, brackets: Brackets) -> Parsed<IpAddr> {
    let wrong = || SpecProblem::NotAnAddress(text.to_owned());
    match brackets {
        Brackets::Around => text.parse::<Ipv6Addr>().map(Into::into),
        Brackets::None => text.parse::<Ipv4Addr>().map(Into::into),
    }
    .map_err(|_| match text.parse::<Ipv6Addr>() {
        Ok(_) => SpecProblem::NeedsBrackets(text.to_owned()),
        Err(_) => wrong(),
    })
}

/// The host's ports where the guest's are given too.
fn host_ports(part: &str, has_addr: bool) -> Parsed<PortRange> {
    match part {
        "" if has_addr => Ok(SYSTEMS_CHOICE),
        "0" => Ok(SYSTEMS_CHOICE),
        _ => range(part),
    }
}

fn range(part: &str) -> Parsed<PortRange> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(SpecProblem::EmptyRange(first, last));
    }
    Ok(PortRange { first, last })
}

/// A number from 0 to 65535; what 0 means is decided later.
fn port(part: &str) -> Parsed<u16> {
    if part.bytes().all(|b| b.is_ascii_digit())
        && let Ok(port) = part.parse()
    {
        return Ok(port);
    }
    Err(SpecProblem::NotAPort(part.to_owned()))
}

fn check_range(range: PortRange) -> Parsed<()> {
    match range {
        PortRange { first: 0, .. } => Err(SpecProblem::ZeroPort),
        PortRange { first, last } if first > last => Err(SpecProblem::EmptyRange(first, last)),
        PortRange { .. } => Ok(()),
    }
}

fn check_protocol(protocol: Protocol) -> Parsed<()> {
    match protocol {
        Protocol::Tcp | Protocol::Udp => Ok(()),
        Protocol::Echo => Err(SpecProblem::NotAProtocol("icmp".to_owned())),
    }
}

fn tcp_only(protocol: Protocol) -> Parsed<()> {
    match protocol {
        Protocol::Tcp => Ok(()),
        _ => Err(SpecProblem::UnixCarriesTcp),
    }
}

fn check_interface(name: Option<&str>) -> Parsed<()> {
    let Some(name) = name else {
        return Ok(());
    };
    let bad =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%' | '[' | ']');
    if name.is_empty() || name.len() > MAX_INTERFACE || name.contains(bad) || name.starts_with('.')
    {
        return Err(SpecProblem::NotAnInterface(name.to_owned()));
    }
    Ok(())
}

fn check_host_addr(at: HostAddr<'_>) -> Parsed<()> {
    match at.addr {
        None => Ok(()),
        Some(IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => Err(SpecProblem::Mapped(a)),
        Some(addr @ IpAddr::V6(a)) if a.is_unicast_link_local() && at.interface.is_none() => {
            Err(SpecProblem::NeedsInterface(addr))
        }
        Some(addr) if addr.is_multicast() || addr == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Err(SpecProblem::NotToListenOn(addr))
        }
        Some(_) => Ok(()),
    }
}

fn check_guest_addr(addr: IpAddr) -> Parsed<()> {
    match addr {
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Err(SpecProblem::Mapped(a)),
        _ if addr.is_loopback() => Err(SpecProblem::GuestLoopback(addr)),
        _ if addr.is_multicast()
            || addr.is_unspecified()
            || addr == IpAddr::V4(Ipv4Addr::BROADCAST) =>
        {
            Err(SpecProblem::NotAGuest(addr))
        }
        _ => Ok(()),
    }
}

fn check_path(path: &Path) -> Parsed<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let text = || path.display().to_string();
    match bytes {
        [b'@', ..] => Err(SpecProblem::Abstract(text())),
        [] => Err(SpecProblem::NotAPath(text())),
        _ if bytes.len() > MAX_UNIX_PATH || bytes.contains(&0) => {
            Err(SpecProblem::NotAPath(text()))
        }
        _ => Ok(()),
    }
}

fn check_passed_name(name: &str) -> Parsed<()> {
    let bad = |c: char| c.is_control() || c == ':';
    if name.is_empty() || name.chars().count() > MAX_PASSED_NAME || name.contains(bad) {
        return Err(SpecProblem::NotAPassedName(name.to_owned()));
    }
    Ok(())
}

/// A door for the fuzz targets: what is read must be written so that it is read
/// as the same again.
#[doc(hidden)]
pub fn fuzz(text: &str) {
    if let Ok(publish) = text.parse::<Publish>() {
        assert_eq!(publish.to_string().parse(), Ok(publish));
    }
    if let Ok(PublishOption::Auto(auto)) = text.parse() {
        assert_eq!(auto.to_string().parse(), Ok(PublishOption::Auto(auto)));
    }
    if let Ok(expose) = text.parse::<Expose>() {
        assert_eq!(expose.to_string().parse(), Ok(expose));
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
