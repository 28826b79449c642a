//! What `gw --netns` and `gw serve` tell a person once they serve.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::links::LinkSpec;
use crate::config::{Config, Configure, Outbound};
use crate::forward::spec::SYSTEMS_CHOICE;
use crate::forward::{ExposeTo, ForwardInfo, ForwardSpec, PublishAt};
use crate::net::{AddressPlan, MacAddr};
use crate::policy::{HostLoopback, PortRange};
use crate::tap::netns::{Made, NetnsTarget};

/// Forwards that are shown one by one.
const MAX_PORT_LINES: usize = 16;

/// A block of a few lines.
pub(crate) fn block(
    config: &Config,
    target: &NetnsTarget,
    made: &Made,
    forwards: &[ForwardInfo],
) -> String {
    let mut text = format!("Serving the network namespace of {target}.\n");
    line(&mut text, "interface", &interface(config, made));
    common(&mut text, config, &dns(config), forwards);
    text
}

/// The same for `gw serve`.
pub(crate) fn links_block(config: &Config, links: &[LinkSpec], forwards: &[ForwardInfo]) -> String {
    let mut text = match links {
        [link] => format!("Serving {link}.\n"),
        links => format!("Serving {} links, as one network.\n", links.len()),
    };
    for link in links.iter().filter(|_| links.len() > 1) {
        line(&mut text, "link", &link.to_string());
    }
    line(&mut text, "gateway", &gateway(config));
    common(&mut text, config, &told_dns(config), forwards);
    text
}

/// The same in one line, for logs.
pub(crate) fn links_line(config: &Config, links: &[LinkSpec], forwards: &[ForwardInfo]) -> String {
    let links: Vec<String> = links.iter().map(ToString::to_string).collect();
    let mut parts = vec![links.join(" and "), format!("gateway {}", gateway(config))];
    parts.extend(
        addresses(config)
            .into_iter()
            .map(|(family, a)| format!("{family} {a}")),
    );
    parts.push(format!("DNS {}", told_dns(config)));
    parts.extend(ports_line(config, forwards));
    parts.extend((!config.impairments.is_empty()).then(|| impaired_line(config)));
    parts.join("; ")
}

fn gateway(config: &Config) -> String {
    let (mac, mtu) = (config.plan.gateway_mac, config.plan.mtu);
    format!("MAC {mac}, MTU {mtu} bytes")
}

/// What is said of the resolver to guests that may ask by DHCP.
fn told_dns(config: &Config) -> String {
    match (config.interface.configure, &config.dns) {
        (Configure::LeaveAlone, Some(_)) => {
            let servers = resolvers(&config.plan);
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            format!("{}, as guests are told", servers.join(" and "))
        }
        _ => dns(config),
    }
}

fn line(text: &mut String, title: &str, what: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {title:<10} {what}");
}

/// What is the same whoever is served.
fn common(text: &mut String, config: &Config, dns: &str, forwards: &[ForwardInfo]) {
    for (family, addresses) in addresses(config) {
        line(text, family, &addresses);
    }
    line(text, "DNS", dns);
    line(text, "reachable", &reachable(config));
    for forward in forwards.iter().take(MAX_PORT_LINES) {
        let (title, what) = forwarded(forward);
        line(text, title, &what);
    }
    if let Some(more) = forwards.len().checked_sub(MAX_PORT_LINES + 1) {
        line(text, "", &format!("and {} more forwards", more + 1));
    }
    if let Some(auto) = followed(config) {
        line(text, "published", &auto);
    }
    for rule in impaired(config) {
        line(text, "impaired", &rule);
    }
}

/// Rules of impairment, and the seeds that were chosen for them.
fn impaired(config: &Config) -> impl Iterator<Item = String> {
    config
        .impairments
        .iter()
        .map(|rule| match rule.chosen_seed() {
            Some(seed) => format!("{rule} seed={seed}"),
            None => rule.to_string(),
        })
}

/// The same in one line, when a seed was chosen: nobody could repeat the run
/// otherwise.
pub(crate) fn seeds_line(config: &Config) -> Option<String> {
    chooses_seeds(config).then(|| impaired_line(config))
}

fn impaired_line(config: &Config) -> String {
    let rules: Vec<String> = impaired(config).map(|rule| format!("'{rule}'")).collect();
    format!("impaired {}", rules.join(", "))
}

/// True when a seed was chosen that its user has to be told.
pub(crate) fn chooses_seeds(config: &Config) -> bool {
    config
        .impairments
        .iter()
        .any(|rule| rule.chosen_seed().is_some())
}

/// The same in one line, for logs.
pub(crate) fn log_line(config: &Config, made: &Made, forwards: &[ForwardInfo]) -> String {
    let mut parts = vec![interface(config, made)];
    parts.extend(
        addresses(config)
            .into_iter()
            .map(|(family, a)| format!("{family} {a}")),
    );
    parts.push(format!("DNS {}", dns(config)));
    parts.extend(ports_line(config, forwards));
    parts.extend((!config.impairments.is_empty()).then(|| impaired_line(config)));
    parts.join("; ")
}

/// The published and exposed ports in one line, if there are any.
pub(crate) fn ports_line(config: &Config, forwards: &[ForwardInfo]) -> Option<String> {
    let mut parts: Vec<String> = forwards
        .iter()
        .take(MAX_PORT_LINES)
        .map(|forward| {
            let (title, what) = forwarded(forward);
            format!("{title} {what}")
        })
        .collect();
    if let Some(more) = forwards.len().checked_sub(MAX_PORT_LINES + 1) {
        parts.push(format!("and {} more forwards", more + 1));
    }
    parts.extend(followed(config).map(|auto| format!("published {auto}")));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// True when the system chooses a port that its user has to be told.
pub(crate) fn chooses_ports(config: &Config) -> bool {
    config.forwards.iter().any(|forward| match forward {
        ForwardSpec::Publish(publish) => matches!(
            publish.host,
            PublishAt::Ports { ports, .. } if ports == SYSTEMS_CHOICE
        ),
        ForwardSpec::Expose(_) => false,
    })
}

/// What a forward does, and from where to where.
fn forwarded(forward: &ForwardInfo) -> (&'static str, String) {
    match &forward.spec {
        ForwardSpec::Publish(publish) => {
            let at: Vec<String> = forward.at.iter().map(ToString::to_string).collect();
            let guest = match publish.guest {
                None => String::new(),
                Some(IpAddr::V4(a)) => format!("{a}:"),
                Some(IpAddr::V6(a)) => format!("[{a}]:"),
            };
            let protocol = publish.protocol;
            let what = format!(
                "{} -> {guest}{}/{protocol}",
                at.join(", "),
                publish.guest_ports
            );
            ("published", what)
        }
        ForwardSpec::Expose(expose) => {
            let to = match &expose.to {
                ExposeTo::Unix(path) => format!("unix:{}", path.display()),
                ExposeTo::Loopback(first) => {
                    let last = first.saturating_add(expose.ports.last - expose.ports.first);
                    let ports = PortRange {
                        first: *first,
                        last,
                    };
                    format!("this host's localhost:{ports}")
                }
            };
            let what = format!("gateway:{}/{} -> {to}", expose.ports, expose.protocol);
            ("exposed", what)
        }
    }
}

/// `--publish auto`, if it was given.
fn followed(config: &Config) -> Option<String> {
    let rule = config.auto_publish.as_ref()?;
    let at = match rule.addr {
        None => "localhost".to_owned(),
        Some(addr) => addr.to_string(),
    };
    Some(format!("what the guest listens on, at {at}"))
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
    use crate::forward::{BoundAt, ForwardId, Origin};
    use clap::Parser;

    fn shown(line: &str) -> String {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let config = resolve(cli).expect("resolves").config;
        let made = Made {
            guest_mac: [2, 0, 0, 0, 0, 9],
            warnings: Vec::new(),
        };
        let forwards: Vec<ForwardInfo> = (1..)
            .zip(&config.forwards)
            .map(|(id, spec)| ForwardInfo {
                id: ForwardId(id.try_into().expect("not 0")),
                spec: spec.clone(),
                origin: Origin::CommandLine,
                at: match spec {
                    ForwardSpec::Publish(_) => vec![BoundAt::Ports {
                        addr: None,
                        interface: None,
                        ports: PortRange::one(8080),
                    }],
                    ForwardSpec::Expose(_) => Vec::new(),
                },
            })
            .collect();
        block(&config, &NetnsTarget::Pid(7), &made, &forwards)
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

    #[test]
    fn it_shows_the_ports() {
        let text = shown("gw --netns 7 -p 0:80 -p auto --expose-host 5432:15432/udp");
        assert!(
            text.ends_with(
                "published  *:8080 -> 80/tcp\n  \
                 exposed    gateway:15432/udp -> this host's localhost:5432\n  \
                 published  what the guest listens on, at localhost\n"
            ),
            "{text}"
        );
        let many = "gw --netns 7".to_owned() + &" -p 80".repeat(20);
        assert!(shown(&many).contains("and 4 more forwards"));
    }
}
