//! What `gw --netns` tells a person once it serves.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::config::{Config, Configure, Outbound};
use crate::net::{AddressPlan, MacAddr};
use crate::policy::HostLoopback;
use crate::tap::netns::{Made, NetnsTarget};

/// A block of a few lines.
pub(crate) fn block(config: &Config, target: &NetnsTarget, made: &Made) -> String {
    let mut text = format!("Serving the network namespace of {target}.\n");
    let mut line = |title: &str, what: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {title:<10} {what}");
    };
    line("interface", interface(config, made));
    for (family, addresses) in addresses(config) {
        line(family, addresses);
    }
    line("DNS", dns(config));
    line("reachable", reachable(config));
    text
}

/// The same in one line, for logs.
pub(crate) fn log_line(config: &Config, made: &Made) -> String {
    let mut parts = vec![interface(config, made)];
    parts.extend(
        addresses(config)
            .into_iter()
            .map(|(family, a)| format!("{family} {a}")),
    );
    parts.push(format!("DNS {}", dns(config)));
    parts.join("; ")
}

/// What a person in a shell of `gw run` should know.
pub(crate) fn shell_line(config: &Config) -> String {
    let v4 = config.plan.v4.map(|p| IpAddr::from(p.guest));
    let v6 = config.plan.v6.map(|p| IpAddr::from(p.guest));
    let guests: Vec<String> = v4.into_iter().chain(v6).map(|a| a.to_string()).collect();
    format!(
        "A shell in a network namespace of its own: {} is {}. 'exit' leaves it.\n",
        config.interface.name,
        guests.join(" and ")
    )
}

fn interface(config: &Config, made: &Made) -> String {
    let (name, mac) = (&config.interface.name, MacAddr(made.guest_mac));
    format!("{name}, MAC {mac}, MTU {} bytes", config.plan.mtu)
}

fn addresses(config: &Config) -> Vec<(&'static str, String)> {
    let by_guest = |net: String, gateway: IpAddr, how| {
        format!("network {net}, gateway {gateway}; the guest asks for its address by {how}")
    };
    let mut lines = Vec::new();
    if let Some(v4) = config.plan.v4 {
        let what = match config.interface.configure {
            Configure::Static => {
                format!(
                    "{}/{}, gateway {}",
                    v4.guest,
                    v4.net.prefix_len(),
                    v4.gateway
                )
            }
            Configure::LeaveAlone => by_guest(v4.net.to_string(), v4.gateway.into(), "DHCP"),
        };
        lines.push(("IPv4", what));
    }
    if let Some(v6) = config.plan.v6 {
        let what = match config.interface.configure {
            Configure::Static => {
                format!(
                    "{}/{}, gateway {}",
                    v6.guest,
                    v6.net.prefix_len(),
                    v6.gateway
                )
            }
            Configure::LeaveAlone => by_guest(
                v6.net.to_string(),
                v6.gateway.into(),
                "router advertisements",
            ),
        };
        lines.push(("IPv6", what));
    }
    lines
}

fn dns(config: &Config) -> String {
    if config.dns.is_none() {
        return "off".to_owned();
    }
    let servers: Vec<String> = resolvers(&config.plan)
        .iter()
        .map(|a| format!("nameserver {a}"))
        .collect();
    format!(
        "put '{}' into the guest's /etc/resolv.conf",
        servers.join("' and '")
    )
}

/// The resolver's addresses on the guest's network.
pub(crate) fn resolvers(plan: &AddressPlan) -> Vec<IpAddr> {
    let v4 = plan.v4.map(|p| p.dns.into());
    let v6 = plan.v6.map(|p| p.dns.into());
    v4.into_iter().chain(v6).collect()
}

fn reachable(config: &Config) -> String {
    let gateways: Vec<String> = [
        config.plan.v4.map(|p| IpAddr::from(p.gateway)),
        config.plan.v6.map(|p| IpAddr::from(p.gateway)),
    ]
    .into_iter()
    .flatten()
    .map(|a| a.to_string())
    .collect();
    let gateways = gateways.join(" and ");
    let loopback = match &config.host_loopback {
        HostLoopback::Closed => "not this host's loopback (--host-loopback)".to_owned(),
        HostLoopback::Open => format!("this host's loopback at {gateways}"),
        HostLoopback::Ports(ranges) => {
            let ports: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            format!(
                "ports {} of this host's loopback at {gateways}",
                ports.join(",")
            )
        }
    };
    let mut text = format!("all that this user reaches; {loopback}");
    for from in [
        config.outbound4.as_ref().map(describe_outbound),
        config.outbound6.as_ref().map(describe_outbound),
    ]
    .into_iter()
    .flatten()
    {
        text.push_str("; ");
        text.push_str(&from);
    }
    text
}

fn describe_outbound<A: Into<IpAddr> + Copy>(outbound: &Outbound<A>) -> String {
    match outbound {
        Outbound::Address(a) => format!("from {}", (*a).into()),
        Outbound::Interface(name) => format!("through {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use crate::cli::resolve::resolve;
    use clap::Parser;

    fn shown(line: &str) -> String {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let config = resolve(cli).expect("resolves").config;
        let made = Made {
            guest_mac: [2, 0, 0, 0, 0, 9],
            warnings: Vec::new(),
        };
        block(&config, &NetnsTarget::Pid(7), &made)
    }

    #[test]
    fn a_shell_is_told_where_it_is() {
        let cli = Cli::try_parse_from(["gw", "run", "--no-ipv6"]).expect("parses");
        let config = resolve(cli).expect("resolves").config;
        assert_eq!(
            shell_line(&config),
            "A shell in a network namespace of its own: tap0 is 10.0.2.100. 'exit' leaves it.\n"
        );
    }

    #[test]
    fn it_says_what_was_done() {
        assert_eq!(
            shown("gw --netns 7"),
            "Serving the network namespace of process 7.\n  \
             interface  tap0, MAC 02:00:00:00:00:09, MTU 1500 bytes\n  \
             IPv4       10.0.2.100/24, gateway 10.0.2.2\n  \
             IPv6       fd00::100/64, gateway fd00::2\n  \
             DNS        put 'nameserver 10.0.2.3' and 'nameserver fd00::3' into the guest's \
             /etc/resolv.conf\n  \
             reachable  all that this user reaches; not this host's loopback (--host-loopback)\n"
        );
        let text = shown(
            "gw --netns 7 --no-ipv6 --no-dns --no-configure --host-loopback 80,90-99 \
             --outbound-addr wg0",
        );
        assert!(
            text.contains("network 10.0.2.0/24, gateway 10.0.2.2; the guest asks"),
            "{text}"
        );
        assert!(text.contains("DNS        off"), "{text}");
        assert!(
            text.contains("ports 80,90-99 of this host's loopback at 10.0.2.2; through wg0"),
            "{text}"
        );
        assert!(!text.contains("IPv6"), "{text}");
    }
}
