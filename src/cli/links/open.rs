//! From specifications to one link for the gateway.
//!
//! Descriptors are taken over first ([`adopt`]): what is opened later must not be
//! mistaken for one of them. Children are started last: they need not be ended
//! when another link fails.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat, major, minor};

use super::error::{FdError, Reason};
use super::{Descriptors, Framing, Handed, Interface, LinkError, LinkKind, LinkSpec};
use crate::config::{Config, InterfaceConfig};
use crate::net::AddressPlan;
use crate::tap::fd::{DatagramLink, Ends, StreamLink};
use crate::tap::listen::{Listener, UnixgramLink};
use crate::tap::netns::{Attached, Helper, attach, attach_tun, make_here, make_tun_here};
use crate::tap::process::{ProcessLink, ProcessOptions, ProcessSource, Restart, environment};
use crate::tap::switch::{NewPort, PortSource, Switch};
use crate::tap::udp::{UdpLink, UdpOptions};
use crate::tap::vde::client::VdeClient;
use crate::tap::vde::switch::VdeSwitch;
use crate::tap::{IpEther, IpGuest, IpPorts, Link, Medium, Tap, Watch, sys};

/// The device number of /dev/net/tun (Documentation/admin-guide/devices.txt).
const TUN_DEVICE: (u64, u64) = (10, 200);

/// What the links come to.
#[derive(Debug)]
pub(super) struct Opened {
    /// For the gateway.
    pub(super) link: Box<dyn Link>,
    /// Of the only link, or of all.
    pub(super) medium: Medium,
    /// The namespace of the only link, when it has one.
    pub(super) watch: Option<Watch>,
    /// What did not go as asked but does not stand in the way, one line each.
    pub(super) warnings: Vec<String>,
    /// To be dropped when there is time.
    pub(super) helpers: Vec<Helper>,
}

/// Descriptors that were handed down, for each link its own.
#[derive(Debug)]
pub(super) struct Adopted(Vec<Option<AdoptedFd>>);

#[derive(Debug)]
enum AdoptedFd {
    One(OwnedFd),
    Two(OwnedFd, OwnedFd),
}

/// A link, or what makes links.
enum Part {
    Link(Box<dyn Link>),
    Source(Box<dyn PortSource>),
}

/// Takes the descriptors over. To be called before anything else is opened; no
/// two links have one of the same number.
pub(super) fn adopt(links: &[LinkSpec]) -> Result<Adopted, LinkError> {
    let adopt = |link: &LinkSpec| {
        let LinkKind::Fd(handed) = &link.kind else {
            return Ok(None);
        };
        let adopted = match handed.at {
            Descriptors::Told => Ok(None),
            Descriptors::One(fd) => adopt_one(fd).map(|fd| Some(AdoptedFd::One(fd))),
            Descriptors::Two(input, output) => adopt_one(input)
                .and_then(|input| Ok(Some(AdoptedFd::Two(input, adopt_one(output)?)))),
        };
        adopted.map_err(|e| failed(link, e))
    };
    links
        .iter()
        .map(adopt)
        .collect::<Result<_, _>>()
        .map(Adopted)
}

fn adopt_one(fd: RawFd) -> Result<OwnedFd, FdError> {
    sys::adopt_fd(fd).map_err(|_| FdError::NotOpen(fd))
}

fn failed(link: &LinkSpec, reason: impl Into<Reason>) -> LinkError {
    LinkError {
        link: link.to_string(),
        reason: reason.into(),
    }
}

/// Opens the links. The process must have a single thread.
pub(super) fn open(
    links: &[LinkSpec],
    Adopted(adopted): Adopted,
    config: &Config,
) -> Result<Opened, LinkError> {
    let mut opener = Opener {
        config,
        watch: None,
        warnings: Vec::new(),
        helpers: Vec::new(),
    };
    let is_child = |link: &LinkSpec| matches!(link.kind, LinkKind::Exec(_));
    let (children, others): (Vec<_>, Vec<_>) = links
        .iter()
        .zip(adopted)
        .partition(|(link, _)| is_child(link));
    let mut parts = Vec::new();
    for (link, adopted) in others.into_iter().chain(children) {
        let part = opener.part(&link.kind, adopted);
        parts.push((link, part.map_err(|reason| failed(link, reason))?));
    }
    let (link, medium) = join(parts, opener.config)?;
    Ok(Opened {
        link,
        medium,
        // One of several namespaces may go; the others are still served.
        watch: opener.watch.filter(|_| links.len() == 1),
        warnings: opener.warnings,
        helpers: opener.helpers,
    })
}

/// One link of all, and what they carry.
fn join(
    parts: Vec<(&LinkSpec, Part)>,
    config: &Config,
) -> Result<(Box<dyn Link>, Medium), LinkError> {
    let plan = &config.plan;
    let parts = match <[_; 1]>::try_from(parts) {
        Ok([(spec, Part::Link(link))]) => {
            let medium = link.caps().medium;
            let link = match medium {
                Medium::Ethernet => link,
                Medium::Ip => ethernet(link, plan).map_err(|e| failed(spec, e))?,
            };
            return Ok((link, medium));
        }
        Ok(one) => Vec::from(one),
        Err(parts) => parts,
    };
    let mut switch = None;
    for (spec, part) in parts {
        let fail = |e| failed(spec, e);
        let switch = match &mut switch {
            Some(switch) => switch,
            None => switch.insert(Switch::new(plan.gateway_mac).map_err(fail)?),
        };
        match part {
            Part::Link(link) => {
                let name = spec.to_string();
                switch.plug(NewPort { link, name }).map_err(fail)?;
            }
            Part::Source(source) => switch.add_source(source).map_err(fail)?,
        }
    }
    match switch {
        Some(switch) => Ok((Box::new(switch), Medium::Ethernet)),
        // Without links there is nothing to open, which the command line refuses.
        None => Err(LinkError {
            link: String::new(),
            reason: io::Error::from(io::ErrorKind::InvalidInput).into(),
        }),
    }
}

/// Makes a link that carries bare IP one that carries Ethernet.
fn ethernet(link: Box<dyn Link>, plan: &AddressPlan) -> io::Result<Box<dyn Link>> {
    Ok(Box::new(IpEther::new(link, IpGuest::new(plan)?)?))
}

struct Opener<'a> {
    config: &'a Config,
    watch: Option<Watch>,
    warnings: Vec<String>,
    helpers: Vec<Helper>,
}

impl Opener<'_> {
    fn part(&mut self, kind: &LinkKind, adopted: Option<AdoptedFd>) -> Result<Part, Reason> {
        let gateway = self.config.plan.gateway_mac;
        Ok(match kind {
            LinkKind::Tap(interface) => {
                Part::Link(Box::new(self.interface(Medium::Ethernet, interface)?))
            }
            LinkKind::Tun(interface) => {
                Part::Link(Box::new(self.interface(Medium::Ip, interface)?))
            }
            LinkKind::Fd(handed) => match adopted {
                Some(fds) => Part::Link(handed_down(handed, fds)?),
                None => return Err(io::Error::from(io::ErrorKind::NotFound).into()),
            },
            LinkKind::Exec(options) => self.child(options)?,
            LinkKind::Udp {
                bind,
                framing,
                peer,
            } => Part::Link(Box::new(UdpLink::new(&UdpOptions {
                framing: *framing,
                peer: *peer,
                ..UdpOptions::new(*bind, gateway)
            })?)),
            LinkKind::Vde(options) => Part::Source(Box::new(VdeClient::new(options.clone())?)),
            LinkKind::VdeSwitch(options) => Part::Source(Box::new(VdeSwitch::new(options)?)),
            LinkKind::Qemu(at) => Part::Source(Box::new(Listener::qemu(at)?)),
            LinkKind::Bess(at) => Part::Source(Box::new(Listener::bess(&at.path, &at.access)?)),
            LinkKind::Unixgram(at) => {
                Part::Link(Box::new(UnixgramLink::new(&at.path, &at.access)?))
            }
        })
    }

    fn interface(&mut self, medium: Medium, interface: &Interface) -> Result<Tap, Reason> {
        let plan = &self.config.plan;
        let config = InterfaceConfig {
            name: interface.name.clone(),
            configure: interface.configure,
            ..self.config.interface.clone()
        };
        let Some(target) = &interface.netns else {
            let (handed, made) = match medium {
                Medium::Ethernet => make_here(&config, plan)?,
                Medium::Ip => make_tun_here(&config, plan)?,
            };
            self.warnings.extend(made.warnings);
            return Ok(Tap::from_fd(handed.tap)?);
        };
        let userns = interface.userns.as_deref();
        let Attached {
            tap,
            sockets: _,
            owners: _,
            made,
            watch,
            helper,
        } = match medium {
            Medium::Ethernet => attach(target, userns, &config, plan)?,
            Medium::Ip => attach_tun(target, userns, &config, plan)?,
        };
        self.warnings.extend(made.warnings);
        self.helpers.push(helper);
        self.watch = Some(watch);
        Ok(tap)
    }

    fn child(&self, options: &ProcessOptions) -> Result<Part, Reason> {
        let options = ProcessOptions {
            environment: environment(&self.config.plan),
            ..options.clone()
        };
        Ok(match options.restart {
            Restart::Never => Part::Link(Box::new(ProcessLink::start(&options)?)),
            Restart::Always => {
                let medium = options.medium;
                let source = Box::new(ProcessSource::start(options)?);
                Part::Source(match medium {
                    Medium::Ethernet => source,
                    // The only port there is: the command line sees to that.
                    Medium::Ip => {
                        let guest = IpGuest::new(&self.config.plan)?;
                        Box::new(IpPorts::new(source, guest))
                    }
                })
            }
        })
    }
}

/// What a descriptor is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// Keeps messages apart.
    Messages,
    /// A stream socket.
    Stream,
    /// A pipe: a stream, or messages with `O_DIRECT`.
    Pipe,
    /// Something with descriptors that say what they carry.
    Interface,
    /// Another device: whatever its user says.
    Device,
    /// Has an end and no other side.
    File,
}

impl Nature {
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::Stream) => return Ok(Self::Stream),
            Ok(_) => return Ok(Self::Messages),
            Err(Errno::ENOTSOCK) => {}
            Err(e) => return Err(e.into()),
        }
        let stat = fstat(fd)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        Ok(match kind {
            SFlag::S_IFIFO => Self::Pipe,
            SFlag::S_IFCHR if (major(stat.st_rdev), minor(stat.st_rdev)) == TUN_DEVICE => {
                Self::Interface
            }
            SFlag::S_IFCHR => Self::Device,
            _ => Self::File,
        })
    }

    /// How frames go through it, when `asked` is what its user says.
    fn framing(self, fd: RawFd, asked: Option<Framing>) -> Result<Framing, FdError> {
        match (self, asked) {
            (Self::Messages, None | Some(Framing::Messages)) => Ok(Framing::Messages),
            (Self::Messages, Some(Framing::Lengths(_))) => Err(FdError::IsDatagram(fd)),
            (Self::Stream, None | Some(Framing::Messages)) => Err(FdError::IsStream(fd)),
            (Self::Pipe | Self::Device, None) => Err(FdError::IsStream(fd)),
            (Self::Stream | Self::Pipe | Self::Device, Some(framing)) => Ok(framing),
            (Self::Interface, _) => Err(FdError::IsInterface(fd)),
            (Self::File, _) => Err(FdError::IsFile(fd)),
        }
    }
}

fn handed_down(handed: &Handed, fds: AdoptedFd) -> Result<Box<dyn Link>, Reason> {
    let number = match handed.at {
        Descriptors::One(fd) | Descriptors::Two(fd, _) => fd,
        Descriptors::Told => 0,
    };
    let medium = handed.medium.unwrap_or(Medium::Ethernet);
    let (ends, framing) = match fds {
        AdoptedFd::One(fd) => {
            let nature = Nature::of(fd.as_fd())?;
            if nature == Nature::Interface {
                return interface_handed_down(handed, number, fd);
            }
            (Ends::one(fd)?, nature.framing(number, handed.framing)?)
        }
        AdoptedFd::Two(input, output) => {
            if let Descriptors::Two(_, number) = handed.at {
                Nature::of(output.as_fd())?.framing(number, handed.framing)?;
            }
            let framing = Nature::of(input.as_fd())?.framing(number, handed.framing)?;
            (Ends::two(input, output)?, framing)
        }
    };
    Ok(match framing {
        Framing::Messages => Box::new(DatagramLink::new(ends, medium)?),
        Framing::Lengths(prefix) => Box::new(StreamLink::new(ends, prefix, medium)?),
    })
}

/// A TAP or TUN that somebody else has attached.
fn interface_handed_down(
    handed: &Handed,
    number: RawFd,
    fd: OwnedFd,
) -> Result<Box<dyn Link>, Reason> {
    let tap = Tap::from_fd(fd)?;
    let is_as_said = handed.medium.is_none_or(|said| said == tap.caps().medium);
    if !is_as_said || handed.framing.is_some_and(|f| f != Framing::Messages) {
        return Err(FdError::IsInterface(number).into());
    }
    Ok(Box::new(tap))
}
