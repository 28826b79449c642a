//! From the options to a [`Config`]: addresses, and what slirp4netns does where
//! nothing was said.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use super::args::{Options, Target};
use crate::cli::args::{DEFAULT_CIDR, DEFAULT_CIDR6};
use crate::cli::resolve::default_dns;
use crate::cli::values::{self, BadValue};
use crate::config::{
    Config, Configure, DEFAULT_MEMORY, DnsConfig, GuestSockets, IcmpPolicy, InterfaceConfig,
    ObserveConfig, Outbound,
};
use crate::net::{AddressPlan, MacAddr, Mtu, PlanV4, PlanV6};
use crate::policy::HostLoopback;

/// Bytes of a path that bind(2) takes, and one (`sun_path`).
const SUN_PATH: usize = 108;

/// Leases that DHCP has: hosts 15 to 30.
const LEASES: u8 = 16;

/// A value that cannot be used, in slirp4netns's words where it has some.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("invalid CIDR: {0}")]
    Cidr(String),
    #[error("invalid network address: {0}")]
    CidrAddress(String),
    #[error("prefix length needs to be 1-25")]
    CidrPrefix,
    #[error("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24")]
    CidrHost,
    #[error(transparent)]
    Plan(#[from] crate::net::PlanError),
    #[error("outbound-addr has to be valid ipv4 address or interface name.")]
    Outbound4,
    #[error("outbound-addr6 has to be valid ipv6 address or interface name.")]
    Outbound6,
    #[error(
        "\"{0}\" is an invalid MAC address.\nmacaddress has to be a valid MAC address \
         (hex string, 6 bytes, each byte separated by a ':')."
    )]
    Mac(String),
    #[error("\"{0}\" is the MAC address of a group or none; choose one whose first byte is even")]
    MacGroup(MacAddr),
    #[error("cannot set MTU: {0} bytes are too few; choose at least {min}", min = Mtu::MIN)]
    Mtu(u32),
    #[error("the interface's name is not valid UTF-8")]
    TapName,
    #[error("the specified API socket path is too long (>= {SUN_PATH})")]
    ApiSocket,
    #[error("the TAP's descriptor {0} is the ready-fd or exit-fd as well; give each its own")]
    SameFd(i32),
    #[error("{0}")]
    Value(#[from] BadValue),
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) config: Config,
    pub(super) target: Target,
    pub(super) sandbox: Sandbox,
    pub(super) seccomp: Seccomp,
    /// For standard error.
    pub(super) warnings: Vec<String>,
}

/// Whether the gateway gives up its view of the file system and its capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sandbox {
    Off,
    On,
}

/// Whether the gateway gives up system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seccomp {
    Off,
    On,
}

/// Makes a configuration of the options.
pub(super) fn resolve(options: Options) -> Result<Invocation, Unusable> {
    let pipes = [options.ready_fd, options.exit_fd];
    if let Target::TapFd(fd) = options.target
        && pipes.contains(&Some(fd))
    {
        return Err(Unusable::SameFd(fd));
    }
    let mut warnings = Vec::new();
    let plan = plan(&options, &mut warnings)?;
    let outbound4 = options
        .outbound_addr
        .as_deref()
        .map(outbound4)
        .transpose()?;
    let outbound6 = options
        .outbound_addr6
        .as_deref()
        .map(outbound6)
        .transpose()?;
    let mac = options.macaddress.as_deref().map(mac).transpose()?;
    let api = options.api_socket.map(api_socket).transpose()?;
    let (outbound4, outbound6) = (outbound4.flatten(), outbound6.flatten());
    let dns = (!options.disable_dns).then(|| DnsConfig {
        outbound4: outbound4.clone(),
        outbound6: outbound6.clone(),
        ..default_dns()
    });
    let config = Config {
        plan,
        interface: InterfaceConfig {
            name: tapname(&options.target)?,
            mac,
            configure: if options.configure {
                Configure::Static
            } else {
                Configure::LeaveAlone
            },
            guest_sockets: GuestSockets::Unseen,
            processes: GuestSockets::Unseen,
        },
        host_loopback: if options.disable_host_loopback {
            HostLoopback::Closed
        } else {
            HostLoopback::Open
        },
        outbound4,
        outbound6,
        dns,
        icmp: IcmpPolicy::Forward,
        forwards: Vec::new(),
        auto_publish: None,
        observe: ObserveConfig::default(),
        impairments: Vec::new(),
        memory: DEFAULT_MEMORY,
        ready_fd: options.ready_fd,
        exit_fd: options.exit_fd,
        pid_file: None,
        control: None,
        slirp4netns_api: api,
    };
    Ok(Invocation {
        config,
        target: options.target,
        sandbox: if options.enable_sandbox {
            Sandbox::On
        } else {
            Sandbox::Off
        },
        seccomp: if options.enable_seccomp {
            Seccomp::On
        } else {
            Seccomp::Off
        },
        warnings,
    })
}

fn plan(options: &Options, warnings: &mut Vec<String>) -> Result<AddressPlan, Unusable> {
    let v4 = match &options.cidr {
        Some(cidr) => plan_v4(&cidr.to_string_lossy())?,
        None => values::cidr(DEFAULT_CIDR)?,
    };
    let mtu = mtu(options.mtu, warnings)?;
    Ok(AddressPlan {
        v4: Some(PlanV4 {
            dhcp_count: LEASES,
            ..v4
        }),
        v6: plan_v6(options, mtu, warnings)?,
        gateway_mac: random_mac(),
        mtu,
    })
}

/// The gateway's own, another for each, as slirp4netns has it. Where the system has
/// no randomness yet any will do: there are two stations on the link.
fn random_mac() -> MacAddr {
    let mut bytes = [0x02, 0x67, 0x77, 0x00, 0x00, 0x02];
    let _ = getrandom::fill(&mut bytes);
    MacAddr::local_from(bytes)
}

/// slirp4netns allows one byte more than our links do.
fn mtu(asked: u32, warnings: &mut Vec<String>) -> Result<Mtu, Unusable> {
    let bytes = asked.min(Mtu::MAX.into());
    if bytes < asked {
        warnings.push(format!(
            "the MTU is {bytes} bytes, the most there can be, not {asked}"
        ));
    }
    Mtu::new(bytes).map_err(|_| Unusable::Mtu(bytes))
}

fn plan_v6(
    options: &Options,
    mtu: Mtu,
    warnings: &mut Vec<String>,
) -> Result<Option<PlanV6>, Unusable> {
    if !options.enable_ipv6 {
        return Ok(None);
    }
    if mtu.get() < Mtu::MIN_IPV6 {
        let min = Mtu::MIN_IPV6;
        warnings.push(format!(
            "no IPv6 on the guest's network: it needs an MTU of {min} bytes, not {mtu}"
        ));
        return Ok(None);
    }
    Ok(Some(values::cidr6(DEFAULT_CIDR6)?))
}

/// `--cidr`: the form first, then the numbers, each with words of its own.
fn plan_v4(text: &str) -> Result<PlanV4, Unusable> {
    let invalid = || Unusable::Cidr(text.to_owned());
    let digits =
        |t: &str, most| (1..=most).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    let (addr, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let parts: Vec<&str> = addr.split('.').collect();
    if parts.len() != 4 || !parts.iter().all(|p| digits(p, 3)) || !digits(prefix, 2) {
        return Err(invalid());
    }
    let bad_address = |_| Unusable::CidrAddress(addr.to_owned());
    let addr: Ipv4Addr = addr.parse().map_err(bad_address)?;
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    if !(1..=25).contains(&prefix) {
        return Err(Unusable::CidrPrefix);
    }
    let net = Ipv4Net::new(addr, prefix).map_err(|_| Unusable::CidrPrefix)?;
    if net.trunc() != net {
        return Err(Unusable::CidrHost);
    }
    Ok(PlanV4::new(net)?)
}

fn outbound4(text: &OsStr) -> Result<Option<Outbound<Ipv4Addr>>, Unusable> {
    let text = text.to_str().ok_or(Unusable::Outbound4)?;
    let addr = match text.parse::<Ipv4Addr>() {
        Ok(addr) => addr,
        Err(_) => {
            address_of(text, |a| Some(a.as_sockaddr_in()?.ip())).ok_or(Unusable::Outbound4)?
        }
    };
    Ok((!addr.is_unspecified()).then_some(Outbound::Address(addr)))
}

fn outbound6(text: &OsStr) -> Result<Option<Outbound<Ipv6Addr>>, Unusable> {
    let text = text.to_str().ok_or(Unusable::Outbound6)?;
    let addr = match text.parse::<Ipv6Addr>() {
        Ok(addr) => addr,
        Err(_) => address_of(text, |a| {
            let addr = a.as_sockaddr_in6()?.ip();
            // Of no use as a source towards anybody but the interface's neighbours.
            (!addr.is_unicast_link_local()).then_some(addr)
        })
        .ok_or(Unusable::Outbound6)?,
    };
    Ok((!addr.is_unspecified()).then_some(Outbound::Address(addr)))
}

/// The first address of an interface that `wanted` takes.
fn address_of<A>(interface: &str, wanted: impl Fn(&SockaddrStorage) -> Option<A>) -> Option<A> {
    getifaddrs()
        .ok()?
        .filter(|i| i.interface_name == interface)
        .filter_map(|i| i.address)
        .filter(|a| a.family().is_some())
        .find_map(|a| wanted(&a))
}

/// `--macaddress`: six bytes, a leading zero may be missing from each.
fn mac(text: &OsStr) -> Result<MacAddr, Unusable> {
    let text = text.to_string_lossy();
    let invalid = || Unusable::Mac(text.to_string());
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().ok_or_else(invalid)?;
        if !(1..=2).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    if parts.next().is_some() {
        return Err(invalid());
    }
    let mac = MacAddr(bytes);
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(Unusable::MacGroup(mac))
    }
}

fn api_socket(path: PathBuf) -> Result<PathBuf, Unusable> {
    if path.as_os_str().len() < SUN_PATH {
        Ok(path)
    } else {
        Err(Unusable::ApiSocket)
    }
}

/// The interface's name: where there is none to be made, one for messages.
fn tapname(target: &Target) -> Result<String, Unusable> {
    let name = match target {
        Target::Pid { tapname, .. } | Target::Path { tapname, .. } => tapname.clone(),
        Target::TapFd(_) | Target::Bess(_) => OsString::from("tap0"),
    };
    name.into_string().map_err(|_| Unusable::TapName)
}

#[cfg(test)]
mod tests {
    use super::super::args::{Action, parse};
    use super::*;

    fn resolved(line: &str) -> Result<Invocation, String> {
        let parsed = parse(line.split_whitespace().map(OsString::from));
        match parsed.outcome {
            Ok(Action::Serve(options)) => resolve(*options).map_err(|e| e.to_string()),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn config(line: &str) -> Config {
        resolved(line).expect("resolves").config
    }

    #[test]
    fn defaults_are_slirp4netns_s() {
        let config = config("1 tap0");
        let v4 = config.plan.v4.expect("v4");
        assert_eq!(v4.net.to_string(), "10.0.2.0/24");
        assert_eq!(v4.dhcp_first.to_string(), "10.0.2.15");
        assert_eq!(config.plan.v6, None);
        assert_eq!(config.plan.mtu, Mtu::ETHERNET);
        assert_eq!(config.host_loopback, HostLoopback::Open);
        assert_eq!(config.interface.configure, Configure::LeaveAlone);
        assert_eq!(config.interface.name, "tap0");
        assert!(config.dns.is_some() && config.slirp4netns_api.is_none());
    }

    #[test]
    fn options_arrive() {
        let invocation = resolved(
            "-c6 -m 65521 --cidr 10.9.0.0/16 --disable-host-loopback --disable-dns -a /tmp/s \
             --macaddress 2:0:0:0:0:a --outbound-addr 127.0.0.1 --outbound-addr6 ::1 \
             --enable-sandbox --enable-seccomp -e 5 -r 4 1 eth7",
        )
        .expect("resolves");
        let config = invocation.config;
        assert_eq!(config.plan.v4.expect("v4").guest.to_string(), "10.9.0.100");
        assert_eq!(config.plan.v6.expect("v6").net.to_string(), "fd00::/64");
        assert_eq!(config.plan.mtu.get(), 65520);
        assert!(invocation.warnings[0].contains("65520 bytes"));
        assert_eq!(config.host_loopback, HostLoopback::Closed);
        assert_eq!(config.interface.configure, Configure::Static);
        assert_eq!(config.interface.name, "eth7");
        assert_eq!(config.interface.mac, Some(MacAddr([2, 0, 0, 0, 0, 10])));
        assert_eq!(
            config.outbound4,
            Some(Outbound::Address(Ipv4Addr::LOCALHOST))
        );
        assert_eq!(
            config.outbound6,
            Some(Outbound::Address(Ipv6Addr::LOCALHOST))
        );
        assert!(config.dns.is_none());
        assert_eq!(config.slirp4netns_api, Some("/tmp/s".into()));
        assert_eq!((config.ready_fd, config.exit_fd), (Some(4), Some(5)));
        assert_eq!(
            (invocation.sandbox, invocation.seccomp),
            (Sandbox::On, Seccomp::On)
        );
    }

    #[test]
    fn an_interface_stands_for_its_address() {
        let config = config("--outbound-addr lo --outbound-addr6 lo 1 tap0");
        assert_eq!(
            config.outbound4,
            Some(Outbound::Address(Ipv4Addr::LOCALHOST))
        );
        // Where the machine has IPv6.
        if let Some(Outbound::Address(addr)) = config.outbound6 {
            assert_eq!(addr, Ipv6Addr::LOCALHOST);
        }
        let any = self::config("--outbound-addr 0.0.0.0 --outbound-addr6 :: 1 tap0");
        assert_eq!((any.outbound4, any.outbound6), (None, None));
    }

    #[test]
    fn unusable_values_are_refused_with_slirp4netns_s_words() {
        let long = format!("-a /{} 1 tap0", "x".repeat(107));
        for (line, said) in [
            ("--cidr=foo 1 tap0", "invalid CIDR: foo"),
            ("--cidr= 1 tap0", "invalid CIDR: "),
            ("--cidr=10.0.2.0 1 tap0", "invalid CIDR: 10.0.2.0"),
            ("--cidr=10.0.2/24 1 tap0", "invalid CIDR: 10.0.2/24"),
            ("--cidr=10.0.2.0/+24 1 tap0", "invalid CIDR: 10.0.2.0/+24"),
            ("--cidr=10.0.2.0/024 1 tap0", "invalid CIDR: 10.0.2.0/024"),
            ("--cidr=10.0.2.0/24/8 1 tap0", "invalid CIDR: 10.0.2.0/24/8"),
            ("--cidr=1234.0.2.0/24 1 tap0", "invalid CIDR: 1234.0.2.0/24"),
            (
                "--cidr=010.0.2.0/24 1 tap0",
                "invalid network address: 010.0.2.0",
            ),
            (
                "--cidr=300.0.2.0/26 1 tap0",
                "invalid network address: 300.0.2.0",
            ),
            (
                "--cidr=10.0.2.0/26 1 tap0",
                "prefix length needs to be 1-25",
            ),
            (
                "--cidr=10.0.2.100/26 1 tap0",
                "prefix length needs to be 1-25",
            ),
            ("--cidr=10.0.2.0/0 1 tap0", "prefix length needs to be 1-25"),
            (
                "--cidr=10.0.2.5/00 1 tap0",
                "prefix length needs to be 1-25",
            ),
            (
                "--cidr=10.0.2.100/24 1 tap0",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
            ),
            (
                "--outbound-addr=no-such-if 1 tap0",
                "outbound-addr has to be valid ipv4 address or interface name.",
            ),
            (
                "--outbound-addr=300.1.1.1 1 tap0",
                "outbound-addr has to be valid ipv4 address or interface name.",
            ),
            (
                "-c --macaddress=x --outbound-addr=x --cidr=x 1 tap0",
                "invalid CIDR: x",
            ),
            (
                "-c --macaddress=zz 1 tap0",
                "\"zz\" is an invalid MAC address.\nmacaddress has to be a valid MAC address \
                 (hex string, 6 bytes, each byte separated by a ':').",
            ),
            (&long, "the specified API socket path is too long (>= 108)"),
        ] {
            assert_eq!(resolved(line).map(|_| ()), Err(said.to_owned()), "{line}");
        }
        for line in [
            "-c --macaddress=01:00:00:00:00:01 1 tap0",
            "-c --macaddress=02:00:00:00:00:001 1 tap0",
            "-c --macaddress=02:00:00:00:00:01:02 1 tap0",
            "-c --macaddress=+2:00:00:00:00:01 1 tap0",
            "--cidr=224.0.0.0/8 1 tap0",
            "-m 67 1 tap0",
            "-r 7 --netns-type=tapfd 7",
        ] {
            assert!(resolved(line).is_err(), "{line}");
        }
        assert!(resolved(&long.replacen("xx", "x", 1)).is_ok(), "107 bytes");
    }

    #[test]
    fn a_small_mtu_leaves_ipv6_out_and_says_so() {
        let invocation = resolved("-6 -m 1279 1 tap0").expect("resolves");
        assert_eq!(invocation.config.plan.v6, None);
        assert_eq!(invocation.warnings.len(), 1);
    }
}
