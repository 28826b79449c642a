//! `gw serve`: a gateway with no namespace of its own, behind the links that
//! `--link` names.
//!
//! # Theory of operation
//!
//! [`parse()`] makes a [`LinkSpec`] of what was written, [`open`] opens it, and
//! [`serve`] serves what that comes to:
//!
//! | links | the gateway has |
//! |---|---|
//! | one that carries Ethernet and is there once | that |
//! | one that carries bare IP | the same, made Ethernet ([`crate::tap::IpEther`]) |
//! | one that others connect to, or that comes back | a switch with it as the only source of ports |
//! | several, all Ethernet | a switch with them as ports ([`crate::tap::switch`]) |
//!
//! **How it is written.** A kind, a colon, what to open, and options behind commas:
//! see [`FORMS`]. A backslash in front of a character takes its meaning away:
//! `vde:/run/a\,b` is a directory with a comma in its name, and `vde:/run/a\[1\]`
//! one that ends in a bracket. A path may have colons; one for `qemu:` that has, and
//! no slash, begins with `./`, which tells it from an address. What follows the colon of `exec` is the
//! command, all of it; so its options stand in front: `exec,restart:CMD ARGS`. It
//! is split into words as a shell does, quotes and backslashes included, but no
//! shell runs, unless `shell` asks for one.
//!
//! **The end.** A gateway with one link that cannot come back ends with it. With
//! several it goes on, whatever becomes of them.

mod error;
mod fields;
mod open;
mod parse;
pub(crate) mod serve;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

pub(crate) use self::error::{LinkError, LinkSpecError};
pub(crate) use self::parse::parse;
use crate::config::Configure;
use crate::tap::framing::Prefix;
use crate::tap::listen::ListenAddress;
use crate::tap::netns::NetnsTarget;
use crate::tap::process::ProcessOptions;
use crate::tap::udp::UdpFraming;
use crate::tap::vde::client::ClientOptions;
use crate::tap::vde::switch::SwitchOptions;
use crate::tap::{Access, Medium};

/// The forms of a specification, by kind.
pub(crate) const FORMS: [(&str, &str); 10] = [
    (
        "tap",
        "tap:NAME[,netns=PID|PATH|NAME][,userns=PATH][,static]",
    ),
    ("tun", "tun:NAME[,netns=PID|PATH|NAME][,userns=PATH]"),
    (
        "fd",
        "fd[:N|:IN,OUT][,framing=dgram|len16|len32][,medium=ether|ip]",
    ),
    (
        "exec",
        "exec[,restart][,shell][,dgram][,medium=ether|ip]:COMMAND",
    ),
    ("udp", "udp:ADDR:PORT[,framing=raw|len16][,peer=ADDR:PORT]"),
    (
        "vde",
        "vde:DIR or vde:DIR[PORT], or vde: for the default switch",
    ),
    ("vdeswitch", "vdeswitch:DIR[,mode=OCTAL][,group=GROUP]"),
    (
        "qemu",
        "qemu:PATH[,mode=OCTAL][,group=GROUP] or qemu:ADDR:PORT",
    ),
    ("bess", "bess:PATH[,mode=OCTAL][,group=GROUP]"),
    ("unixgram", "unixgram:PATH[,mode=OCTAL][,group=GROUP]"),
];

/// What `--link` takes.
#[derive(Debug, Clone)]
pub(crate) struct LinkSpec {
    /// As it was written: what messages call it.
    text: String,
    pub(crate) kind: LinkKind,
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What to open.
#[derive(Debug, Clone)]
pub(crate) enum LinkKind {
    /// An interface that carries Ethernet.
    Tap(Interface),
    /// One that carries bare IP.
    Tun(Interface),
    /// Descriptors that were handed down.
    Fd(Handed),
    /// A child.
    Exec(ProcessOptions),
    /// Datagrams with frames.
    Udp {
        bind: SocketAddr,
        framing: UdpFraming,
        peer: Option<SocketAddr>,
    },
    /// A port of somebody's VDE switch.
    Vde(ClientOptions),
    /// A VDE switch.
    VdeSwitch(SwitchOptions),
    /// Where QEMU connects to.
    Qemu(ListenAddress),
    /// Where User-Mode Linux connects to.
    Bess(UnixSocket),
    /// Where datagrams with frames go to.
    Unixgram(UnixSocket),
}

/// A TAP or TUN.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// `None`: the namespace of `gw` itself.
    pub(crate) netns: Option<NetnsTarget>,
    /// As for `--netns`.
    pub(crate) userns: Option<PathBuf>,
    pub(crate) configure: Configure,
}

/// Descriptors, and what goes through them.
#[derive(Debug, Clone)]
pub(crate) struct Handed {
    pub(crate) at: Descriptors,
    /// `None`: what suits them.
    pub(crate) framing: Option<Framing>,
    /// `None`: Ethernet, unless they say otherwise.
    pub(crate) medium: Option<Medium>,
}

/// Which descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Descriptors {
    /// The one that `VPNFD` names, else standard input and output.
    Told,
    One(RawFd),
    /// To read from, and to write to.
    Two(RawFd, RawFd),
}

/// How frames stand in what is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A message is a frame.
    Messages,
    /// Behind their lengths.
    Lengths(Prefix),
}

/// A unix socket that is made here.
#[derive(Debug, Clone)]
pub(crate) struct UnixSocket {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

impl LinkSpec {
    /// True when it is known to carry bare IP packets.
    pub(crate) fn carries_ip(&self) -> bool {
        let medium = match &self.kind {
            LinkKind::Tun(_) => Some(Medium::Ip),
            LinkKind::Fd(handed) => handed.medium,
            LinkKind::Exec(options) => Some(options.medium),
            _ => None,
        };
        medium == Some(Medium::Ip)
    }

    /// True when the guest's addresses are set from here, or by hand: it does
    /// not ask for them.
    pub(crate) fn is_configured(&self) -> bool {
        match &self.kind {
            LinkKind::Tap(interface) => interface.configure == Configure::Static,
            _ => self.carries_ip(),
        }
    }

    /// Puts numbers in the place of [`Descriptors::Told`]; `told` is `VPNFD`.
    pub(crate) fn settle(&mut self, told: Option<&OsStr>) -> Result<(), LinkSpecError> {
        let LinkKind::Fd(handed) = &mut self.kind else {
            return Ok(());
        };
        if handed.at == Descriptors::Told {
            handed.at = match told {
                Some(text) => Descriptors::One(parse::vpnfd(text)?),
                None => Descriptors::Two(0, 1),
            };
        }
        Ok(())
    }

    /// The descriptors that it uses, by number.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        match &self.kind {
            LinkKind::Fd(handed) => match handed.at {
                Descriptors::Told => Vec::new(),
                Descriptors::One(fd) => vec![fd],
                Descriptors::Two(input, output) => vec![input, output],
            },
            _ => Vec::new(),
        }
    }
}
