//! The command line as it is written: options, help, defaults. What they mean
//! together is decided in [`super::resolve`].

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::ctl::CtlArgs;
use super::doctor::DoctorArgs;
use super::links::{self, LinkSpec};
use super::speedtest::SpeedtestArgs;
use super::top::TopArgs;
use super::values;
use crate::capture::CaptureSpec;
use crate::config::Outbound;
use crate::forward::{Expose, PublishOption};
use crate::impair::Rule;
use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};
use crate::observe::{LogTarget, MetricsAt};
use crate::policy::HostLoopback;
use crate::tap::netns::NetnsTarget;

/// The network that guests have unless told otherwise.
pub(crate) const DEFAULT_CIDR: &str = "10.0.2.0/24";
/// The IPv6 network that guests have unless told otherwise.
pub(crate) const DEFAULT_CIDR6: &str = "fd00::/64";

const ABOUT: &str = "Connects a network namespace to the network, without privileges";

const LONG_ABOUT: &str = "\
Connects a network namespace to the network, without privileges.

gw makes a TAP interface in a namespace and carries its traffic through ordinary sockets of
this user: whatever this user can reach, the namespace can. It has no address of its own on
the network, needs no root and changes nothing on the host.";

const EXAMPLES: &str = "\
Examples:
  gw run                                  a shell in a namespace of its own, connected
  gw run -- curl https://example.com      one command; gw ends with its exit status
  gw run --map-root -- ip addr add ...    the same, as root inside: may change its network
  gw --netns 4711                         connects the namespace of process 4711
  gw --netns blue                         the namespace that 'ip netns add blue' made
  gw --netns /proc/4711/ns/net            a namespace by its path
  gw run --host-loopback 5432 -- psql -h host.gw.internal
                                          lets the command reach port 5432 of 127.0.0.1
  gw run -p 8080:80 -- nginx              port 8080 of this host leads to port 80 in there
  gw run -p auto -- npm start             so does, on localhost, what the command listens on

The guest's network: the gateway is host .2 of --cidr (::2 of --cidr6), the resolver .3 (::3),
the guest .100 (::100).

Exit status: 0 after SIGTERM, SIGINT or the namespace's end; 1 when something failed; 2 for a
wrong command line; with 'run' that of the command, 128 + n when signal n ended it, 127 when
it was not found, 126 when it could not be started.
";

/// What `--link` takes; a test compares it with the parser's own list.
const LINKS: &str = "\
Links:
  tap:NAME[,netns=PID|PATH|NAME][,userns=PATH][,static]
      A TAP interface. With 'static' gw sets its addresses and routes
  tun:NAME[,netns=PID|PATH|NAME][,userns=PATH]
      A TUN interface, which carries bare IP. In a namespace gw sets its addresses and routes
  fd[:N|:IN,OUT][,framing=dgram|len16|len32][,medium=ether|ip]
      Open descriptors. Without numbers $VPNFD, else standard input and output. Streams need a
      framing: len16 is VDE's, len32 QEMU's
  exec[,restart][,shell][,dgram][,medium=ether|ip]:COMMAND
      A child: frames are messages on its standard input and output. All behind the colon is the
      command
  udp:ADDR:PORT[,framing=raw|len16][,peer=ADDR:PORT]
      Frames in datagrams: QEMU's '-netdev dgram', VirtualBox's UDP tunnel. With 'peer' for that
      one only
  vde:DIR or vde:DIR[PORT], or vde: for the default switch
      A port of a VDE switch that runs there
  vdeswitch:DIR[,mode=OCTAL][,group=GROUP]
      A VDE switch, which VDE clients plug into
  qemu:PATH[,mode=OCTAL][,group=GROUP] or qemu:ADDR:PORT
      QEMU connects to it: '-netdev stream,addr.type=unix,addr.path=PATH,server=off'
  bess:PATH[,mode=OCTAL][,group=GROUP]
      User-Mode Linux connects to it: 'vec0:transport=bess,dst=PATH'
  unixgram:PATH[,mode=OCTAL][,group=GROUP]
      Frames in datagrams on a unix socket: vfkit, QEMU's '-netdev dgram'

A backslash takes the meaning of a comma, bracket or backslash away.

Examples:
  gw serve --link qemu:/run/user/1000/net.sock
  gw serve --link vdeswitch:/run/user/1000/vde --link tap:tap0,netns=4711
  gw serve --link udp:127.0.0.1:5555 -p 8022:22 --control /run/user/1000/gw.sock

Exit status: 0 after SIGTERM or SIGINT; 1 when something failed, or when the only link has ended
and cannot come back; 2 for a wrong command line.
";

const PUBLISH_HELP: &str = "\
Let a port of this host lead to the guest's; repeatable. PORT may be a range, 8000-8010, with as \
many guest ports or none; 0 lets the system choose. TCP unless '/udp' is added. Without ADDR it \
is reached at all addresses of both families. IPv6 addresses stand in brackets. 'ADDR%IFACE' or \
'%IFACE' lets in clients through that interface only. 'GUESTADDR:' may stand in front of the \
guest's port.

'unix:PATH:GUESTPORT' makes a unix socket. 'systemd:[NAME:]GUESTPORT' uses sockets that a socket \
unit passed. 'auto[:ADDR][,except=PORTS]' publishes what programs of the guest listen on, for as \
long as they do, on localhost or ADDR";

const PCAP_HELP: &str = "\
Write what passes the guest's link to a file that Wireshark reads; repeatable. FILE may be a FIFO, \
or '-' for standard output ('--pcap - | tshark -r -'). It is pcapng, with interfaces, directions \
and comments; classic pcap if its name ends in .pcap. A comma in its name takes a backslash in front.

OPTIONS are 'snaplen=N', the bytes of each packet that are kept; 'size=100M', after which another \
file FILE_00002_DATE is begun; 'files=5', how many of them are kept; 'segment=off', which stores \
frames of up to 64 KiB as they pass instead of the packets that they become; and as the last \
'filter=EXPR', which takes the rest: 'filter=tcp port 80 or host 192.0.2.1', as for tcpdump";

/// Everything that can be written on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "gw",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = "'gw --help' says more and has examples.",
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    override_usage = "gw --netns <PID|PATH|NAME> [OPTIONS]\n       gw run [OPTIONS] [-- CMD ARGS...]\n       gw serve --link <SPEC>... [OPTIONS]\n       gw ctl <PATH> <VERB> [OPTIONS]\n       gw top [OPTIONS] <PATH>\n       gw slirp4netns [OPTIONS] <PID|PATH|FD> [TAPNAME]\n       gw speedtest [OPTIONS]\n       gw doctor [--json]"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The namespace to connect: a process id, the path of a namespace file, or a name in
    /// /run/netns or $XDG_RUNTIME_DIR/netns
    #[arg(long, value_name = "PID|PATH|NAME", value_parser = values::netns, allow_hyphen_values = true)]
    pub(crate) netns: Option<NetnsTarget>,

    /// User namespace to join first [default: the one that owns the network namespace]
    #[arg(long, value_name = "PATH", requires = "netns")]
    pub(crate) userns: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) interface: InterfaceArgs,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// What `gw` does other than attaching.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a command in a new user and network namespace, connected
    ///
    /// The command sees the files of the host, but for a resolv.conf that names the gateway's
    /// resolver. For the sake of that, the rest of /etc is read-only to it; with --map-root, what
    /// it writes there is its own. --no-dns leaves /etc as it is.
    #[command(
        after_long_help = EXAMPLES,
        override_usage = "gw run [OPTIONS] [-- CMD ARGS...]",
        max_term_width = 100
    )]
    Run(Box<RunArgs>),
    /// Serves virtual machines, VDE switches, programs and interfaces, without a namespace
    ///
    /// All links together are one network, as if plugged into one switch: guests reach each
    /// other, get their addresses by DHCP, and find each other by the names that they give there
    /// (NAME or NAME.gw.internal).
    #[command(
        after_long_help = LINKS,
        override_usage = "gw serve --link <SPEC> [--link <SPEC>]... [OPTIONS]",
        max_term_width = 100
    )]
    Serve(Box<ServeArgs>),
    /// Measures the gateway on this machine; needs nothing else and no network
    #[command(max_term_width = 100)]
    Speedtest(SpeedtestArgs),
    /// Stands in for slirp4netns, with its command line; so does gw when started by that name
    ///
    /// 'gw slirp4netns --help' lists its options.
    #[command(disable_help_flag = true)]
    Slirp4netns {
        /// What slirp4netns takes. Read by its own rules, before these here
        #[arg(
            value_name = "ARGS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        args: Vec<OsString>,
    },
    /// Asks or tells a running gateway, through the socket it was given with --control
    #[command(max_term_width = 100)]
    Ctl(CtlArgs),
    /// Shows a running gateway's flows live, and lets them be killed or impaired
    ///
    /// The fastest flow comes first: where to, with the name that the guest knows, which process
    /// of the guest, how fast. Above them the throughput over time, and what is dropped and why.
    ///
    /// Arrows select a flow, 'k' kills it, 'i' impairs the network, '/' filters, 's' sorts, 'p'
    /// pauses, '?' explains everything on the screen, 'q' quits. Colours are left out when
    /// NO_COLOR is set, and never say anything that words do not.
    #[command(max_term_width = 100)]
    Top(TopArgs),
    /// Says whether gw works on this machine, and what to do where it does not
    ///
    /// One line for each thing that gw needs or can make use of: pass, warning (gw works, with
    /// less) or failure, with the remedy. Namespaces and a TAP are made for the purpose and are
    /// gone at once; nothing is changed and no packet is sent. The exit status is 1 when
    /// something failed.
    #[command(max_term_width = 100)]
    Doctor(DoctorArgs),
}

/// Options of `gw run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Be root inside [default: keep this user's uid and gid]. What it writes to /etc is then its
    /// own and ends with it
    #[arg(long)]
    pub(crate) map_root: bool,

    /// Write what the command did on the network to this file, .json or .html; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Watching")]
    pub(crate) report: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) interface: InterfaceArgs,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,

    /// The command and its arguments [default: $SHELL, else /bin/sh]
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// Options of `gw serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A link to guests; repeatable. 'gw serve --help' lists the forms
    #[arg(long, value_name = "SPEC", value_parser = links::parse)]
    pub(crate) link: Vec<LinkSpec>,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Options about the one interface of a namespace.
#[derive(Debug, Args)]
pub(crate) struct InterfaceArgs {
    /// Name of the TAP interface in the namespace
    #[arg(long, value_name = "NAME", default_value = "tap0", value_parser = values::ifname, help_heading = "Interface")]
    pub(crate) ifname: String,

    /// The guest's MAC address [default: the kernel's choice]
    #[arg(long, value_name = "MAC", value_parser = values::mac, help_heading = "Interface")]
    pub(crate) mac: Option<MacAddr>,

    /// Leave the interface alone: the guest configures it by DHCP or router advertisements. A
    /// TAP of that name that exists already is used as it is
    #[arg(long, conflicts_with = "mac", help_heading = "Interface")]
    pub(crate) no_configure: bool,
}

/// Options that all ways to serve share.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Largest IP packet on the link, in bytes, 68 to 65520; IPv6 needs 1280. Throughput hardly
    /// depends on it
    #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = values::mtu, help_heading = "Interface")]
    pub(crate) mtu: Mtu,

    /// The guest's IPv4 network, prefix length 1 to 25 [default: 10.0.2.0/24]
    #[arg(long, value_name = "NET/LEN", value_parser = values::cidr, conflicts_with = "no_ipv4", help_heading = "Addresses")]
    pub(crate) cidr: Option<PlanV4>,

    /// The guest's IPv6 network, prefix length 64 [default: fd00::/64]
    #[arg(long, value_name = "NET/64", value_parser = values::cidr6, conflicts_with = "no_ipv6", help_heading = "Addresses")]
    pub(crate) cidr6: Option<PlanV6>,

    /// No IPv4 on the guest's network
    #[arg(long, conflicts_with = "no_ipv6", help_heading = "Addresses")]
    pub(crate) no_ipv4: bool,

    /// No IPv6 on the guest's network
    #[arg(long, help_heading = "Addresses")]
    pub(crate) no_ipv6: bool,

    /// Let the gateway address reach this host's 127.0.0.1 and ::1: all ports, or only those
    /// given, like 5432,8000-8010 [default: none]
    #[arg(
        long, value_name = "PORTS", value_parser = values::host_loopback,
        num_args = 0..=1, default_missing_value = "all", help_heading = "What is reached"
    )]
    pub(crate) host_loopback: Option<HostLoopback>,

    /// Let a port of this host lead to the guest's; repeatable. 'auto': those that programs of
    /// the guest listen on, on localhost
    #[arg(short = 'p', long, value_name = "[ADDR:]PORT[:GUESTPORT][/udp]", value_parser = values::publish, long_help = PUBLISH_HELP, help_heading = "Ports")]
    pub(crate) publish: Vec<PublishOption>,

    /// Let a port of the gateway address lead to one of this host's loopback; repeatable. The
    /// host's port comes first. 'unix:PATH:GUESTPORT' leads to a unix socket of this host
    #[arg(long, value_name = "PORT[:GUESTPORT][/udp]", value_parser = values::expose, help_heading = "Ports")]
    pub(crate) expose_host: Vec<Expose>,

    /// Source address, or interface, of IPv4 traffic on the host [default: the host decides]
    #[arg(long, value_name = "ADDR|IFACE", value_parser = values::outbound4, conflicts_with = "no_ipv4", help_heading = "What is reached")]
    pub(crate) outbound_addr: Option<Outbound<Ipv4Addr>>,

    /// Source address, or interface, of IPv6 traffic on the host [default: the host decides]
    #[arg(long, value_name = "ADDR|IFACE", value_parser = values::outbound6, conflicts_with = "no_ipv6", help_heading = "What is reached")]
    pub(crate) outbound_addr6: Option<Outbound<Ipv6Addr>>,

    /// Pass no echo requests on: only the gateway itself answers pings
    #[arg(long, help_heading = "What is reached")]
    pub(crate) no_icmp: bool,

    /// DNS server to ask, port 53 unless given; repeatable, in order of preference
    /// [default: those of the host's /etc/resolv.conf, followed as it changes]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = values::dns, help_heading = "Names")]
    pub(crate) dns: Vec<SocketAddr>,

    /// No resolver on the guest's network
    #[arg(long, conflicts_with_all = ["dns", "search", "ndots", "host"], help_heading = "Names")]
    pub(crate) no_dns: bool,

    /// Search domain; repeatable; '.' for none [default: the host's]
    #[arg(long, value_name = "DOMAIN", value_parser = values::search, help_heading = "Names")]
    pub(crate) search: Vec<String>,

    /// Names with at least this many dots are looked up as given first, 0 to 15 [default: 1]
    #[arg(long, value_name = "N", value_parser = values::ndots, help_heading = "Names")]
    pub(crate) ndots: Option<u8>,

    /// Answer this name with this address; repeatable
    #[arg(long, value_name = "NAME=ADDR", value_parser = values::host, help_heading = "Names")]
    pub(crate) host: Vec<(String, IpAddr)>,

    /// Memory for the buffers of all flows together, in bytes or with K, M or G; at least 16M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = values::memory, help_heading = "Process")]
    pub(crate) memory: usize,

    /// Write what passes to a file that Wireshark reads; repeatable. '-' is standard output, a
    /// name that ends in .pcap is written in the old format
    #[arg(
        long,
        value_name = "FILE[,OPTIONS]",
        allow_hyphen_values = true,
        long_help = PCAP_HELP,
        help_heading = "Watching"
    )]
    pub(crate) pcap: Vec<CaptureSpec>,

    /// Write a line of JSON for each flow's beginning and end
    #[arg(long, value_name = "FILE|-|fd:N", help_heading = "Watching")]
    pub(crate) flow_log: Option<LogTarget>,

    /// Serve metrics for Prometheus there
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", help_heading = "Watching")]
    pub(crate) metrics: Option<MetricsAt>,

    /// Print a summary of the traffic at the end
    #[arg(long, help_heading = "Watching")]
    pub(crate) stats: bool,

    /// Delay, lose or otherwise hurt traffic by this rule; repeatable
    #[arg(long, value_name = "RULE", help_heading = "Impairment")]
    pub(crate) impair: Vec<Rule>,

    /// Delay every packet, both ways, by so many milliseconds
    #[arg(long, value_name = "MS", value_parser = values::latency, allow_negative_numbers = true, help_heading = "Impairment")]
    pub(crate) latency: Option<Rule>,

    /// Lose this share of the packets, both ways, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = values::loss, allow_negative_numbers = true, help_heading = "Impairment")]
    pub(crate) loss: Option<Rule>,

    /// Write '1' to this file descriptor when traffic flows, then close it
    #[arg(long, value_name = "FD", value_parser = values::fd, allow_hyphen_values = true, help_heading = "Process")]
    pub(crate) ready_fd: Option<RawFd>,

    /// End when the other end of this pipe or socket is closed
    #[arg(long, value_name = "FD", value_parser = values::fd, allow_hyphen_values = true, help_heading = "Process")]
    pub(crate) exit_fd: Option<RawFd>,

    /// Write the process id to this file when traffic flows; removed at the end
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub(crate) pid_file: Option<PathBuf>,

    /// Make a unix socket there, on which this user and root can control the gateway ('gw ctl')
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub(crate) control: Option<PathBuf>,

    /// Print nothing but the reason of a failure
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Messages")]
    pub(crate) quiet: bool,

    /// Print more; twice for everything
    #[arg(short, long, action = ArgAction::Count, help_heading = "Messages")]
    pub(crate) verbose: u8,

    /// Form of the messages on standard error
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text, help_heading = "Messages")]
    pub(crate) log_format: LogFormat,
}

/// Form of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines to read.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn host_loopback_takes_a_value_or_none() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).expect("parses");
        let cli = parse("gw --netns 1 --host-loopback");
        assert_eq!(cli.gateway.host_loopback, Some(HostLoopback::Open));
        let cli = parse("gw --netns 1 --host-loopback --no-icmp");
        assert_eq!(cli.gateway.host_loopback, Some(HostLoopback::Open));
        for line in [
            "gw --host-loopback 80 --netns 1",
            "gw --host-loopback=80 --netns 1",
        ] {
            let ports = parse(line).gateway.host_loopback.expect("given");
            assert!(ports.allows(80) && !ports.allows(81));
        }
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let line = ["gw", "run", "-q", "--", "sh", "-c", "exit 3", "--mtu"];
        let Some(Command::Run(run)) = Cli::try_parse_from(line).expect("parses").command else {
            panic!("not run");
        };
        assert_eq!(run.command, ["sh", "-c", "exit 3", "--mtu"]);
        assert!(run.gateway.quiet);
    }
}
