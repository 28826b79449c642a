//! From what was written to a [`LinkSpec`].

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::unistd::{Gid, Group};

use super::fields::{Fields, plain, significant, split};
use super::{
    Descriptors, FORMS, Framing, Handed, Interface, LinkKind, LinkSpec, LinkSpecError, UnixSocket,
};
use crate::cli::values;
use crate::config::Configure;
use crate::tap::framing::Prefix;
use crate::tap::listen::ListenAddress;
use crate::tap::process::{PairType, ProcessCommand, ProcessOptions, Restart};
use crate::tap::switch::MAX_PORTS;
use crate::tap::udp::UdpFraming;
use crate::tap::vde::client::ClientOptions;
use crate::tap::vde::switch::SwitchOptions;
use crate::tap::{Access, Medium};

type Parsed<T> = Result<T, LinkSpecError>;

const MEDIA: [(&str, Medium); 2] = [("ether", Medium::Ethernet), ("ip", Medium::Ip)];

/// Reads what `--link` takes.
pub(crate) fn parse(text: &str) -> Parsed<LinkSpec> {
    let end = text.find([':', ',']).unwrap_or(text.len());
    let (kind, rest) = text.split_at(end);
    if !FORMS.iter().any(|(name, _)| *name == kind) {
        return Err(LinkSpecError::unknown(kind));
    }
    let kind = if kind == "exec" {
        LinkKind::Exec(exec(rest)?)
    } else {
        let (main, options) = main_and_options(rest);
        let at = Fields::new(kind, &options);
        match kind {
            "fd" => LinkKind::Fd(fd(main, &options)?),
            "tap" => LinkKind::Tap(tap(main, at?)?),
            "tun" => LinkKind::Tun(tun(main, at?)?),
            "udp" => udp(main, at?)?,
            "vde" => LinkKind::Vde(vde(main, at?)?),
            "vdeswitch" => LinkKind::VdeSwitch(vdeswitch(main, at?)?),
            "qemu" => LinkKind::Qemu(qemu(main, at?)?),
            "bess" => LinkKind::Bess(unix_socket(main, at?)?),
            "unixgram" => LinkKind::Unixgram(unix_socket(main, at?)?),
            _ => return Err(LinkSpecError::unknown(kind)),
        }
    };
    Ok(LinkSpec {
        text: text.to_owned(),
        kind,
    })
}

/// The descriptor that `VPNFD` names.
pub(super) fn vpnfd(text: &OsStr) -> Parsed<RawFd> {
    let number = text.to_str().and_then(|text| values::fd(text).ok());
    number.ok_or_else(|| {
        let what = format!("VPNFD is {text:?}, which is no descriptor: unset it, or set it to one");
        LinkSpecError::of("fd", what)
    })
}

/// `:MAIN,OPTION,...`, or without `:MAIN`.
fn main_and_options(rest: &str) -> (&str, Vec<&str>) {
    let mut parts = split(rest, ',');
    let main = parts.remove(0);
    (main.strip_prefix(':').unwrap_or(main), parts)
}

fn tap(main: &str, mut fields: Fields<'_>) -> Parsed<Interface> {
    let configure = if fields.flag("static")? {
        Configure::Static
    } else {
        Configure::LeaveAlone
    };
    let interface = interface(main, fields, configure)?;
    if configure == Configure::Static && interface.netns.is_none() {
        return Err(LinkSpecError::of(
            "tap",
            "'static' sets addresses and routes, which this host's namespace keeps as they are: \
             it needs 'netns'",
        ));
    }
    Ok(interface)
}

fn tun(main: &str, fields: Fields<'_>) -> Parsed<Interface> {
    let mut interface = interface(main, fields, Configure::LeaveAlone)?;
    if interface.netns.is_some() {
        // There is no DHCP without Ethernet.
        interface.configure = Configure::Static;
    }
    Ok(interface)
}

fn interface(main: &str, mut fields: Fields<'_>, configure: Configure) -> Parsed<Interface> {
    let name = fields.text("the name of the interface", main)?;
    let name = values::ifname(&name).map_err(|e| fields.error(e.to_string()))?;
    let netns = match fields.value("netns")? {
        Some(text) => Some(values::netns(&text).map_err(|e| fields.error(e.to_string()))?),
        None => None,
    };
    let userns = fields.value("userns")?.map(PathBuf::from);
    if userns.is_some() && netns.is_none() {
        return Err(fields.error("'userns' needs 'netns'"));
    }
    fields.finish()?;
    Ok(Interface {
        name,
        netns,
        userns,
        configure,
    })
}

fn fd(main: &str, options: &[&str]) -> Parsed<Handed> {
    let number = |text: &str| {
        values::fd(text).map_err(|_| {
            LinkSpecError::of("fd", format!("'{text}' is not the number of a descriptor"))
        })
    };
    // Nothing but a second descriptor is a number.
    let second = options
        .first()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let options = if second.is_some() {
        &options[1..]
    } else {
        options
    };
    let at = match (main, second) {
        ("", None) => Descriptors::Told,
        (one, None) => Descriptors::One(number(one)?),
        (one, Some(two)) => match (number(one)?, number(two)?) {
            (input, output) if input == output => Descriptors::One(input),
            (input, output) => Descriptors::Two(input, output),
        },
    };
    let mut fields = Fields::new("fd", options)?;
    let framing = fields.choice(
        "framing",
        &[
            ("dgram", Framing::Messages),
            ("len16", Framing::Lengths(Prefix::Len16)),
            ("len32", Framing::Lengths(Prefix::Len32)),
        ],
    )?;
    let medium = fields.choice("medium", &MEDIA)?;
    fields.finish()?;
    Ok(Handed {
        at,
        framing,
        medium,
    })
}

fn exec(rest: &str) -> Parsed<ProcessOptions> {
    let colon = significant(rest).find(|(_, c)| *c == ':');
    let Some((colon, _)) = colon else {
        return Err(LinkSpecError::of("exec", "the command is missing"));
    };
    let (options, command) = (&rest[..colon], &rest[colon + 1..]);
    let options: Vec<&str> = split(options, ',').into_iter().skip(1).collect();
    let mut fields = Fields::new("exec", &options)?;
    let restart = if fields.flag("restart")? {
        Restart::Always
    } else {
        Restart::Never
    };
    let pair = if fields.flag("dgram")? {
        PairType::Datagram
    } else {
        PairType::SeqPacket
    };
    let in_shell = fields.flag("shell")?;
    let medium = fields.choice("medium", &MEDIA)?;
    if command.contains('\0') {
        return Err(fields.error("the command has a zero byte in it"));
    }
    let command = if command.trim().is_empty() {
        return Err(fields.error("the command is missing"));
    } else if in_shell {
        ProcessCommand::Shell(command.into())
    } else {
        words(command).ok_or_else(|| {
            fields.error(format!(
                "the command '{command}' has a quote that is not closed, or a '\\' at its end"
            ))
        })?
    };
    fields.finish()?;
    Ok(ProcessOptions {
        medium: medium.unwrap_or(Medium::Ethernet),
        pair,
        restart,
        ..ProcessOptions::new(command)
    })
}

/// A program and its arguments, split as a shell splits them.
fn words(command: &str) -> Option<ProcessCommand> {
    let mut words = shlex::split(command)?.into_iter().map(OsString::from);
    Some(ProcessCommand::Program {
        program: words.next()?,
        arguments: words.collect(),
    })
}

fn udp(main: &str, mut fields: Fields<'_>) -> Parsed<LinkKind> {
    let bind = address(&fields, main)?;
    let framing = fields.choice(
        "framing",
        &[("raw", UdpFraming::Raw), ("len16", UdpFraming::Len16)],
    )?;
    let peer = match fields.value("peer")? {
        Some(text) => Some(address(&fields, &text)?),
        None => None,
    };
    if let Some(peer) = peer {
        if peer.is_ipv4() != bind.is_ipv4() {
            return Err(fields.error(format!(
                "{bind} cannot talk to {peer}: both must be IPv4, or both IPv6"
            )));
        }
        if peer.ip().is_unspecified() {
            return Err(fields.error(format!("'{}' is nobody's address", peer.ip())));
        }
    }
    fields.finish()?;
    Ok(LinkKind::Udp {
        bind,
        framing: framing.unwrap_or_default(),
        peer,
    })
}

fn address(fields: &Fields<'_>, text: &str) -> Parsed<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(fields.error(format!(
            "'{text}' has port 0; choose one, which the other end is told"
        ))),
        Ok(address) => Ok(address),
        Err(_) => Err(fields.error(format!(
            "'{text}' is not an address and a port, like 127.0.0.1:5555 or [::1]:5555"
        ))),
    }
}

fn vde(main: &str, fields: Fields<'_>) -> Parsed<ClientOptions> {
    let (directory, port) = match bracket(main) {
        Some((directory, port)) => (directory, Some(port)),
        None => (main, None),
    };
    let most = u32::try_from(MAX_PORTS).unwrap_or(u32::MAX);
    let port = match port.map(str::parse::<u32>) {
        None => None,
        Some(Ok(port)) if (1..=most).contains(&port) => Some(port),
        Some(_) => {
            return Err(fields.error(format!(
                "the port in brackets is a number from 1 to {most}; a directory whose name ends \
                 so is written with '\\[' and '\\]'"
            )));
        }
    };
    let switch = match directory {
        "" => None,
        directory => Some(PathBuf::from(fields.text("the directory", directory)?)),
    };
    fields.finish()?;
    Ok(ClientOptions {
        switch,
        port,
        description: None,
    })
}

/// `DIR[PORT]` in two.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (end, last) = significant(text).last()?;
    if last != ']' || end + 1 != text.len() {
        return None;
    }
    let (begin, _) = significant(text).filter(|(_, c)| *c == '[').last()?;
    Some((&text[..begin], &text[begin + 1..end]))
}

fn vdeswitch(main: &str, mut fields: Fields<'_>) -> Parsed<SwitchOptions> {
    let directory = PathBuf::from(fields.text("the directory", main)?);
    let access = access(&mut fields)?;
    fields.finish()?;
    let options = SwitchOptions::new(directory);
    // Whoever may use the sockets must get to them, and leave its own there.
    let members = if access.mode & 0o060 == 0 { 0 } else { 0o070 };
    let others = if access.mode & 0o006 == 0 { 0 } else { 0o007 };
    Ok(SwitchOptions {
        directory_mode: options.directory_mode | members | others,
        access,
        ..options
    })
}

fn qemu(main: &str, mut fields: Fields<'_>) -> Parsed<ListenAddress> {
    // What looks like an address or a port is no path, unless it has a slash.
    let is_number = main.bytes().all(|b| b.is_ascii_digit());
    let is_path = plain(main).is_some_and(|text| text.contains('/'));
    if is_path || !(is_number || main.contains(':')) {
        let UnixSocket { path, access } = unix_socket(main, fields)?;
        return Ok(ListenAddress::Unix { path, access });
    }
    let text = fields.text("the path or address", main)?;
    let address = address(&fields, &text).map_err(|_| {
        fields.error(format!(
            "'{text}' is not an address and a port, like 127.0.0.1:5555; a path that looks like one \
             begins with './'"
        ))
    })?;
    if fields.value("mode")?.is_some() || fields.value("group")?.is_some() {
        return Err(fields.error("a TCP port has neither mode nor group"));
    }
    fields.finish()?;
    Ok(ListenAddress::Tcp(address))
}

fn unix_socket(main: &str, mut fields: Fields<'_>) -> Parsed<UnixSocket> {
    let path = PathBuf::from(fields.text("the path", main)?);
    let access = access(&mut fields)?;
    fields.finish()?;
    Ok(UnixSocket { path, access })
}

fn access(fields: &mut Fields<'_>) -> Parsed<Access> {
    let mut access = Access::default();
    if let Some(text) = fields.value("mode")? {
        access.mode = match u32::from_str_radix(&text, 8) {
            Ok(mode @ ..=0o777) => mode,
            _ => {
                let what = format!("'{text}' is not a mode in octal, like 0660");
                return Err(fields.error(what));
            }
        };
    }
    if let Some(name) = fields.value("group")? {
        let Some(group) = group(&name) else {
            return Err(fields.error(format!("there is no group '{name}' on this host")));
        };
        access.group = Some(group);
    }
    Ok(access)
}

/// A group by number or name.
fn group(name: &str) -> Option<Gid> {
    match name.parse() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Group::from_name(name).ok()?.map(|group| group.gid),
    }
}
