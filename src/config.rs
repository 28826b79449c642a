//! What a run of the gateway was asked to do, checked and complete.
//!
//! The command line (and, later, other front doors) produces a [`Config`];
//! nothing behind it parses text again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::Socket;

use crate::capture::CaptureSpec;
use crate::forward::{AutoPublish, ForwardSpec};
use crate::impair::Rule;
use crate::net::{AddressPlan, MacAddr};
use crate::observe::{LogTarget, MetricsAt};
use crate::policy::HostLoopback;

/// Default of [`Config::memory`]: 256 MiB.
pub const DEFAULT_MEMORY: usize = 256 << 20;

/// A validated gateway configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses on the guest's network, MTU and the gateway's MAC.
    pub plan: AddressPlan,
    /// Where the TAP is made and how.
    pub interface: InterfaceConfig,
    /// What of the host's loopback the gateway address reaches. Default: nothing.
    pub host_loopback: HostLoopback,
    /// Source address or interface of outgoing IPv4 flows; `None`: the host decides.
    pub outbound4: Option<Outbound<Ipv4Addr>>,
    /// Source address or interface of outgoing IPv6 flows; `None`: the host decides.
    pub outbound6: Option<Outbound<Ipv6Addr>>,
    /// The resolver at the plan's DNS address; `None`: switched off.
    pub dns: Option<DnsConfig>,
    /// Whether echo requests are passed on.
    pub icmp: IcmpPolicy,
    /// Forwards to set up before traffic flows, in order.
    pub forwards: Vec<ForwardSpec>,
    /// The guest's ports that are published as programs there listen on them;
    /// `None`: none are. Takes [`InterfaceConfig::guest_sockets`].
    pub auto_publish: Option<AutoPublish>,
    /// What is told of the traffic. Default: nothing.
    pub observe: ObserveConfig,
    /// Impairments, in order. Default: none.
    pub impairments: Vec<Rule>,
    /// Bytes that all flows' buffers together may hold. Default [`DEFAULT_MEMORY`].
    pub memory: usize,
    /// Written `1` when traffic flows, then closed.
    pub ready_fd: Option<RawFd>,
    /// The gateway ends when the other end of this pipe hangs up.
    pub exit_fd: Option<RawFd>,
    /// Holds the gateway's process id while it runs.
    pub pid_file: Option<PathBuf>,
    /// Where the control socket is made; `None`: nowhere.
    pub control: Option<PathBuf>,
    /// Where the socket with slirp4netns's API is made; `None`: nowhere.
    pub slirp4netns_api: Option<PathBuf>,
}

/// What is told of the traffic.
#[derive(Debug, Clone, Default)]
pub struct ObserveConfig {
    /// Captures from the start.
    pub captures: Vec<CaptureSpec>,
    /// Where each flow's beginning and end are told; `None`: nowhere.
    pub flow_log: Option<LogTarget>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<MetricsAt>,
    /// Whether a summary is printed at the end.
    pub summary: Summary,
    /// Files that say what a command did on the network, by their endings.
    pub reports: Vec<PathBuf>,
}

/// Whether a summary is printed at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Summary {
    /// It is not. The default.
    #[default]
    No,
    /// It is.
    AtTheEnd,
}

/// The TAP interface in the guest's namespace.
#[derive(Debug, Clone)]
pub struct InterfaceConfig {
    /// Its name. Default `tap0`.
    pub name: String,
    /// The guest side's MAC address; `None`: the kernel's choice.
    pub mac: Option<MacAddr>,
    /// Who gives it addresses and routes.
    pub configure: Configure,
    /// Whether the namespace's sockets are to be seen.
    pub guest_sockets: GuestSockets,
    /// Whether the processes that they belong to are.
    pub processes: GuestSockets,
}

/// Whether `gw` looks at the sockets of the guest's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestSockets {
    /// It does not, and could not. The default.
    Unseen,
    /// It does: a socket of the kernel's `sock_diag` is made there.
    Followed,
}

/// Who configures the guest's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configure {
    /// `gw` sets addresses, MTU and routes. The default.
    Static,
    /// The guest does, by DHCP and router advertisements; an existing TAP is reused.
    LeaveAlone,
}

/// Where outgoing flows leave the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound<A> {
    /// From this address.
    Address(A),
    /// Through this interface.
    Interface(String),
}

impl<A> Outbound<A> {
    /// The same with another form of address.
    pub fn map<B>(self, f: impl FnOnce(A) -> B) -> Outbound<B> {
        match self {
            Self::Address(a) => Outbound::Address(f(a)),
            Self::Interface(name) => Outbound::Interface(name),
        }
    }
}

impl<A: Copy + Into<IpAddr>> Outbound<A> {
    /// Lets what `socket` sends leave from here.
    ///
    /// # Errors
    /// When this host has no such address or interface.
    pub fn bind(&self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::Address(address) => {
                let from = SocketAddr::new((*address).into(), 0);
                if from.is_ipv4() {
                    // The port is chosen when the destination is known: no 28,000 limit.
                    let _ = setsockopt(socket, sockopt::IpBindAddressNoPort, &true);
                }
                socket.bind(&from.into())
            }
            Self::Interface(name) => socket.bind_device(Some(name.as_bytes())),
        }
    }
}

/// Whether echo requests leave the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpPolicy {
    /// They do, through ping sockets. The default.
    Forward,
    /// Only the gateway's own address answers.
    GatewayOnly,
}

/// The resolver's settings.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Upstream servers in order of preference; empty: the host's resolv.conf,
    /// followed as it changes.
    pub upstreams: Vec<SocketAddr>,
    /// File read when `upstreams` is empty. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Search domains applied to the guest's queries and told to it by DHCP and
    /// RA. `None`: the host's.
    pub search: Option<Vec<String>>,
    /// Names with at least this many dots are tried as given first. Default 1.
    pub ndots: u8,
    /// Names answered here: name without trailing dot, lower case; addresses.
    pub hosts: Vec<(String, IpAddr)>,
    /// Source of IPv4 queries to servers elsewhere; as [`Config::outbound4`].
    pub outbound4: Option<Outbound<Ipv4Addr>>,
    /// Source of IPv6 queries to servers elsewhere; as [`Config::outbound6`].
    pub outbound6: Option<Outbound<Ipv6Addr>>,
    /// How long a query may take altogether. Default 10 s.
    pub deadline: Duration,
}
