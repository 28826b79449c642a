//! From what was written to what is meant: options that contradict each other
//! are refused, those left out get their values.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{
    Cli, Command, DEFAULT_CIDR, DEFAULT_CIDR6, GatewayArgs, InterfaceArgs, LogFormat,
};
use super::links::{LinkSpec, LinkSpecError};
use super::values::{self, BadValue};
use crate::capture::Target;
use crate::config::{
    Config, Configure, DnsConfig, GuestSockets, IcmpPolicy, InterfaceConfig, ObserveConfig, Summary,
};
use crate::forward::{AutoPublish, ForwardSpec, PublishOption};
use crate::gateway::random_seed;
use crate::impair::{MAX_RULES, Rule, RulesError};
use crate::net::{AddressPlan, Mtu, gateway_mac};
use crate::observe::LogTarget;
use crate::observe::report::output::{self, ReportError};
use crate::policy::HostLoopback;
use crate::tap::netns::NetnsTarget;
use crate::tap::switch::MAX_PORTS;

/// The descriptor of standard output.
const STDOUT: i32 = 1;

/// Where the host's resolver settings are.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A command line that makes no sense; the text says what to write instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// Neither a namespace nor a command.
    #[error(
        "say what to connect: 'gw --netns PID' for a namespace that exists, \
         'gw run' for a new one with a command in it"
    )]
    NothingToDo,
    /// IPv6 was asked for on a link too small for it.
    #[error("IPv6 needs an MTU of {min} bytes, not {0}; raise --mtu, or leave IPv6 out with --no-ipv6", min = Mtu::MIN_IPV6)]
    MtuForIpv6(Mtu),
    /// One descriptor for two purposes.
    #[error("--ready-fd and --exit-fd are both {0}; give each a pipe of its own")]
    SameFd(i32),
    /// More rules of impairment than there can be.
    #[error(transparent)]
    Rules(RulesError),
    /// `.` among other search domains.
    #[error("--search . means no search domains; leave it out beside others")]
    SearchDot,
    /// `auto` twice.
    #[error("--publish auto can be given once; put exceptions behind it, like auto,except=22")]
    TwoAutos,
    /// `gw serve` without anybody to serve.
    #[error(
        "say whom to serve, with --link: 'gw serve --link qemu:PATH' for a virtual machine, \
         'gw serve --link vdeswitch:DIR' for several; 'gw serve --help' lists all kinds"
    )]
    NoLinks,
    /// More links than a switch has ports.
    #[error("{0} links are too many; at most {MAX_PORTS} share a gateway")]
    TooManyLinks(usize),
    /// Bare IP has no addresses by which a switch could tell guests apart.
    #[error(
        "'{0}' carries bare IP packets, which cannot be switched: a gateway has one such link \
         and no other; start a gateway for each, or use links that carry Ethernet"
    )]
    IpAmongOthers(String),
    /// Two links with the same static address.
    #[error(
        "one link at most can be 'static': there is one such address; leave the others to DHCP"
    )]
    TwoStatic,
    /// One descriptor for two links, or for a link and something else.
    #[error("descriptor {0} is given twice; each purpose needs one of its own")]
    FdTwice(i32),
    /// There is no namespace whose sockets could be looked at.
    #[error("--publish auto is for namespaces; name the ports, like -p 8080:80")]
    AutoWithoutNamespace,
    /// A report that could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Two streams into one another.
    #[error("{0} and {1} would both be written to standard output; name a file for one of them")]
    TwoOnStdout(&'static str, &'static str),
    /// The command writes there too.
    #[error(
        "the command of 'gw run' writes to standard output, and a capture among that cannot be \
         read; name a file or a FIFO, like --pcap >(wireshark -k -i -)"
    )]
    StdoutIsTheCommands,
    /// A link that makes no sense.
    #[error("{0}")]
    Link(#[from] LinkSpecError),
    /// A value that a parser refused.
    #[error("{0}")]
    Value(#[from] BadValue),
}

/// All that a run of the program needs to know.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) config: Config,
    pub(crate) mode: Mode,
    pub(crate) messages: Messages,
    /// To be shown once the messages' form is set up.
    pub(crate) warnings: Vec<String>,
}

/// Where the namespace comes from.
#[derive(Debug)]
pub(crate) enum Mode {
    /// It is there already.
    Attach {
        target: NetnsTarget,
        userns: Option<PathBuf>,
    },
    /// It is made for a command.
    Run(RunMode),
    /// There is none: guests are behind links.
    Serve(Vec<LinkSpec>),
}

/// What runs in a new namespace.
#[derive(Debug)]
pub(crate) struct RunMode {
    /// Empty: the user's shell.
    pub(crate) command: Vec<OsString>,
    pub(crate) identity: Identity,
}

/// Who the command is inside its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The caller's uid and gid.
    Same,
    /// 0 and 0.
    Root,
}

/// How much is said, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Messages {
    pub(crate) level: Level,
    pub(crate) format: LogFormat,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only why it failed.
    Quiet,
    /// What the user should know.
    Normal,
    /// With details.
    Verbose,
    /// Everything.
    Everything,
}

/// Makes sense of a command line.
pub(crate) fn resolve(cli: Cli) -> Result<Invocation, UsageError> {
    let mut reports = Vec::new();
    let (mode, interface, gateway) = match (cli.command, cli.netns) {
        (Some(Command::Serve(serve)), _) => return links(serve.link, serve.gateway),
        (Some(Command::Run(run)), _) => {
            output::check(&run.report)?;
            reports = run.report;
            let identity = if run.map_root {
                Identity::Root
            } else {
                Identity::Same
            };
            (
                Mode::Run(RunMode {
                    command: run.command,
                    identity,
                }),
                run.interface,
                run.gateway,
            )
        }
        // The others are no ways to serve a namespace; `main` has seen to them.
        (_, Some(target)) => (
            Mode::Attach {
                target,
                userns: cli.userns,
            },
            cli.interface,
            cli.gateway,
        ),
        (_, None) => return Err(UsageError::NothingToDo),
    };
    let messages = messages(&gateway);
    let mut warnings = Vec::new();
    let mut config = config(interface.into(), gateway, &mut warnings)?;
    if !reports.is_empty() {
        config.interface.processes = GuestSockets::Followed;
    }
    config.observe.reports = reports;
    if matches!(mode, Mode::Run(_)) && captures_to_stdout(&config.observe) > 0 {
        return Err(UsageError::StdoutIsTheCommands);
    }
    Ok(Invocation {
        config,
        mode,
        messages,
        warnings,
    })
}

/// Makes sense of `gw serve`.
fn links(mut links: Vec<LinkSpec>, gateway: GatewayArgs) -> Result<Invocation, UsageError> {
    let told = std::env::var_os("VPNFD");
    for link in &mut links {
        link.settle(told.as_deref())?;
    }
    check_links(&links, &gateway)?;
    let interface = InterfaceConfig {
        name: names(&links),
        mac: None,
        configure: if links.iter().any(LinkSpec::is_configured) {
            Configure::Static
        } else {
            Configure::LeaveAlone
        },
        guest_sockets: GuestSockets::Unseen,
        processes: GuestSockets::Unseen,
    };
    let messages = messages(&gateway);
    let mut warnings = Vec::new();
    let config = config(interface, gateway, &mut warnings)?;
    if config.auto_publish.is_some() {
        return Err(UsageError::AutoWithoutNamespace);
    }
    let mut descriptors = links.iter().flat_map(LinkSpec::descriptors);
    if captures_to_stdout(&config.observe) > 0 && descriptors.any(|fd| fd == STDOUT) {
        return Err(UsageError::TwoOnStdout("the link", "--pcap -"));
    }
    Ok(Invocation {
        config,
        mode: Mode::Serve(links),
        messages,
        warnings,
    })
}

/// The descriptor that the flow log goes to.
fn flow_log_fd(args: &GatewayArgs) -> Option<i32> {
    match args.flow_log {
        Some(LogTarget::Fd(fd)) => Some(fd),
        _ => None,
    }
}

fn check_links(links: &[LinkSpec], gateway: &GatewayArgs) -> Result<(), UsageError> {
    match links.len() {
        0 => return Err(UsageError::NoLinks),
        1..=MAX_PORTS => {}
        many => return Err(UsageError::TooManyLinks(many)),
    }
    if let Some(ip) = links.iter().find(|link| link.carries_ip())
        && links.len() > 1
    {
        return Err(UsageError::IpAmongOthers(ip.to_string()));
    }
    if links.iter().filter(|link| link.is_configured()).count() > 1 {
        return Err(UsageError::TwoStatic);
    }
    let others = [gateway.ready_fd, gateway.exit_fd, flow_log_fd(gateway)];
    let others = others.into_iter().flatten();
    let mut used: Vec<i32> = others.collect();
    for fd in links.iter().flat_map(LinkSpec::descriptors) {
        if used.contains(&fd) {
            return Err(UsageError::FdTwice(fd));
        }
        used.push(fd);
    }
    Ok(())
}

/// What stands for an interface's name when clients of the control socket ask.
fn names(links: &[LinkSpec]) -> String {
    let names: Vec<String> = links.iter().map(ToString::to_string).collect();
    names.join(" ")
}

impl From<InterfaceArgs> for InterfaceConfig {
    fn from(args: InterfaceArgs) -> Self {
        Self {
            name: args.ifname,
            mac: args.mac,
            configure: if args.no_configure {
                Configure::LeaveAlone
            } else {
                Configure::Static
            },
            guest_sockets: GuestSockets::Unseen,
            processes: GuestSockets::Unseen,
        }
    }
}

fn messages(args: &GatewayArgs) -> Messages {
    let level = match (args.quiet, args.verbose) {
        (true, _) => Level::Quiet,
        (false, 0) => Level::Normal,
        (false, 1) => Level::Verbose,
        (false, _) => Level::Everything,
    };
    Messages {
        level,
        format: args.log_format,
    }
}

fn config(
    interface: InterfaceConfig,
    args: GatewayArgs,
    warnings: &mut Vec<String>,
) -> Result<Config, UsageError> {
    if let (Some(ready), Some(exit)) = (args.ready_fd, args.exit_fd)
        && ready == exit
    {
        return Err(UsageError::SameFd(ready));
    }
    if let Some(fd) = flow_log_fd(&args)
        && [args.ready_fd, args.exit_fd].contains(&Some(fd))
    {
        return Err(UsageError::FdTwice(fd));
    }
    let plan = plan(&args, warnings)?;
    let (forwards, auto_publish) = forwards(&args)?;
    let config = Config {
        dns: dns(&args)?,
        plan,
        interface: InterfaceConfig {
            guest_sockets: match auto_publish {
                Some(_) => GuestSockets::Followed,
                None => GuestSockets::Unseen,
            },
            processes: processes(&args),
            ..interface
        },
        host_loopback: args.host_loopback.unwrap_or(HostLoopback::Closed),
        outbound4: args.outbound_addr,
        outbound6: args.outbound_addr6,
        icmp: if args.no_icmp {
            IcmpPolicy::GatewayOnly
        } else {
            IcmpPolicy::Forward
        },
        forwards,
        auto_publish,
        observe: ObserveConfig {
            captures: args.pcap,
            flow_log: args.flow_log,
            metrics: args.metrics,
            summary: if args.stats {
                Summary::AtTheEnd
            } else {
                Summary::No
            },
            reports: Vec::new(),
        },
        impairments: impairments([args.latency, args.loss], args.impair)?,
        memory: args.memory,
        ready_fd: args.ready_fd,
        exit_fd: args.exit_fd,
        pid_file: args.pid_file,
        control: args.control,
        slirp4netns_api: None,
    };
    match (
        captures_to_stdout(&config.observe),
        &config.observe.flow_log,
    ) {
        (0, _) | (1, None | Some(LogTarget::Fd(_) | LogTarget::Path(_))) => Ok(config),
        (1, Some(LogTarget::Stdout)) => Err(UsageError::TwoOnStdout("--flow-log -", "--pcap -")),
        _ => Err(UsageError::TwoOnStdout("--pcap -", "another --pcap -")),
    }
}

fn captures_to_stdout(observe: &ObserveConfig) -> usize {
    let captures = observe.captures.iter();
    captures
        .filter(|capture| capture.target == Target::Stdout)
        .count()
}

/// Whether anybody may want to know the processes that flows belong to.
fn processes(args: &GatewayArgs) -> GuestSockets {
    if args.flow_log.is_some() || args.control.is_some() {
        GuestSockets::Followed
    } else {
        GuestSockets::Unseen
    }
}

/// The rules in order, their seeds chosen: what is said of them at the start is
/// how to repeat them.
fn impairments(short: [Option<Rule>; 2], rules: Vec<Rule>) -> Result<Vec<Rule>, UsageError> {
    let mut rules: Vec<Rule> = short.into_iter().flatten().chain(rules).collect();
    if rules.len() > MAX_RULES {
        return Err(UsageError::Rules(RulesError::TooMany));
    }
    for rule in &mut rules {
        rule.choose_seed(random_seed);
    }
    Ok(rules)
}

/// Published ports, exposed ones, and whether the guest's are followed.
fn forwards(args: &GatewayArgs) -> Result<(Vec<ForwardSpec>, Option<AutoPublish>), UsageError> {
    let mut forwards = Vec::new();
    let mut auto = None;
    for option in &args.publish {
        match option {
            PublishOption::Publish(publish) => forwards.push(publish.clone().into()),
            PublishOption::Auto(rule) => {
                if auto.replace(rule.clone()).is_some() {
                    return Err(UsageError::TwoAutos);
                }
            }
        }
    }
    let exposed = args.expose_host.iter().cloned().map(ForwardSpec::from);
    forwards.extend(exposed);
    Ok((forwards, auto))
}

fn plan(args: &GatewayArgs, warnings: &mut Vec<String>) -> Result<AddressPlan, UsageError> {
    let v4 = match args.cidr {
        _ if args.no_ipv4 => None,
        Some(plan) => Some(plan),
        None => Some(values::cidr(DEFAULT_CIDR)?),
    };
    let mut v6 = match args.cidr6 {
        _ if args.no_ipv6 => None,
        Some(plan) => Some(plan),
        None => Some(values::cidr6(DEFAULT_CIDR6)?),
    };
    if v6.is_some() && args.mtu.get() < Mtu::MIN_IPV6 {
        if args.cidr6.is_some() || args.no_ipv4 {
            return Err(UsageError::MtuForIpv6(args.mtu));
        }
        warnings.push(format!(
            "no IPv6 on the guest's network: it needs an MTU of {} bytes, not {}; \
             --no-ipv6 silences this",
            Mtu::MIN_IPV6,
            args.mtu
        ));
        v6 = None;
    }
    Ok(AddressPlan {
        gateway_mac: gateway_mac(v4.as_ref(), v6.as_ref()),
        v4,
        v6,
        mtu: args.mtu,
    })
}

fn dns(args: &GatewayArgs) -> Result<Option<DnsConfig>, UsageError> {
    if args.no_dns {
        return Ok(None);
    }
    let search = match &args.search[..] {
        [] => None,
        [none] if none.is_empty() => Some(Vec::new()),
        domains if domains.iter().any(String::is_empty) => return Err(UsageError::SearchDot),
        domains => Some(domains.to_vec()),
    };
    Ok(Some(DnsConfig {
        upstreams: args.dns.clone(),
        search,
        ndots: args.ndots.unwrap_or(1),
        hosts: args.host.clone(),
        outbound4: args.outbound_addr.clone(),
        outbound6: args.outbound_addr6.clone(),
        ..default_dns()
    }))
}

/// The host's own resolver settings, followed as they change.
pub(super) fn default_dns() -> DnsConfig {
    DnsConfig {
        upstreams: Vec::new(),
        resolv_conf: PathBuf::from(RESOLV_CONF),
        search: None,
        ndots: 1,
        hosts: Vec::new(),
        outbound4: None,
        outbound6: None,
        deadline: Duration::from_secs(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(line: &str) -> Result<Invocation, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        resolve(cli).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let run = parse("gw run").expect("parses");
        let config = run.config;
        assert_eq!(config.plan.v4.expect("v4").net.to_string(), "10.0.2.0/24");
        assert_eq!(config.plan.v6.expect("v6").net.to_string(), "fd00::/64");
        assert!(config.plan.gateway_mac.is_unicast());
        assert_eq!(config.plan.mtu, Mtu::ETHERNET);
        assert_eq!(config.interface.name, "tap0");
        assert_eq!(config.interface.configure, Configure::Static);
        assert_eq!(config.host_loopback, HostLoopback::Closed);
        assert_eq!(config.memory, crate::config::DEFAULT_MEMORY);
        assert_eq!(config.dns.expect("dns").search, None);
        assert!(run.warnings.is_empty());
    }

    #[test]
    fn contradictions_are_refused_with_a_sentence() {
        for (line, part) in [
            ("gw", "say what to connect"),
            ("gw --mtu 1500", "say what to connect"),
            (
                "gw --netns 1 --mac 02:00:00:00:00:01 --no-configure",
                "cannot be used with",
            ),
            ("gw --netns 1 --no-ipv4 --no-ipv6", "cannot be used with"),
            (
                "gw --netns 1 --no-ipv4 --cidr 10.0.2.0/24",
                "cannot be used with",
            ),
            (
                "gw --netns 1 --no-dns --dns 192.0.2.1",
                "cannot be used with",
            ),
            ("gw --netns 1 -q -v", "cannot be used with"),
            (
                "gw --netns 1 --mtu 1279 --cidr6 fd00::/64",
                "IPv6 needs an MTU of 1280 bytes, not 1279",
            ),
            ("gw --netns 1 --mtu 1279 --no-ipv4", "raise --mtu"),
            (
                "gw --netns 1 --ready-fd 3 --exit-fd 3",
                "both 3; give each a pipe of its own",
            ),
            ("gw --netns 1 --ready-fd -1", "like 3"),
            (
                "gw --netns 1 --search . --search a.b",
                "leave it out beside others",
            ),
            ("gw --userns /proc/1/ns/user", "--netns"),
            ("gw run --netns 1", "unexpected argument"),
            ("gw --netns 1 run", "cannot be used with"),
            ("gw --netns 1 --colour", "unexpected argument '--colour'"),
            (
                "gw run --host-loopback curl x",
                "put the command after '--'",
            ),
        ] {
            let said = parse(line).map(|_| ()).expect_err(line);
            assert!(said.contains(part), "{line}: '{said}' lacks '{part}'");
        }
    }

    #[test]
    fn a_small_mtu_leaves_ipv6_out_and_says_so() {
        let small = parse("gw run --mtu 576").expect("parses");
        assert!(small.config.plan.v6.is_none());
        assert_eq!(small.warnings.len(), 1);
        let told = parse("gw run --mtu 576 --no-ipv6").expect("parses");
        assert!(told.warnings.is_empty());
    }

    #[test]
    fn everything_at_once() {
        let line = "gw run --map-root --ifname eth0 --mtu 9000 --mac 02:00:00:00:00:01 \
            --cidr 192.168.7.0/24 --cidr6 fd12::/64 --host-loopback 5432,8000-8010 \
            --outbound-addr 192.0.2.1 --outbound-addr6 wg0 --dns 192.0.2.53 \
            --dns [2001:db8::1]:5353 --search a.example --search b.example --ndots 2 \
            --host db=192.0.2.7 --no-icmp --memory 64M --ready-fd 7 --exit-fd 8 \
            --pid-file /run/gw.pid -vv --log-format json -- sh -c true";
        let run = parse(line).expect("parses");
        let Mode::Run(mode) = &run.mode else {
            panic!("not run")
        };
        assert_eq!((mode.identity, mode.command.len()), (Identity::Root, 3));
        let dns = run.config.dns.expect("dns");
        assert_eq!(dns.upstreams.len(), 2);
        assert_eq!(
            dns.search,
            Some(vec!["a.example".to_owned(), "b.example".to_owned()])
        );
        assert_eq!((dns.ndots, dns.hosts.len()), (2, 1));
        assert_eq!(
            run.config.plan.v4.expect("v4").guest.to_string(),
            "192.168.7.100"
        );
        assert_eq!(run.config.memory, 64 << 20);
        let expected = Messages {
            level: Level::Everything,
            format: LogFormat::Json,
        };
        assert_eq!(run.messages, expected);
    }
}
