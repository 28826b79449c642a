//! What can be written, in one table: the parser, `--help` and the manual page
//! are made from it.

use clap::{Arg, ArgAction, Command};

use super::getopt::{Spec, Takes};

/// An option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    Configure,
    ExitFd,
    ReadyFd,
    Mtu,
    Cidr,
    DisableHostLoopback,
    NoHostLoopback,
    NetnsType,
    UsernsPath,
    ApiSocket,
    EnableIpv6,
    EnableSandbox,
    CreateSandbox,
    EnableSeccomp,
    Help,
    Version,
    OutboundAddr,
    OutboundAddr6,
    DisableDns,
    MacAddress,
    TargetType,
}

/// All options, in the order in which ambiguous ones are listed.
pub(super) const SPECS: &[Spec<Id>] = &[
    flag("configure", Some(b'c'), Id::Configure),
    value("exit-fd", Some(b'e'), Id::ExitFd),
    value("ready-fd", Some(b'r'), Id::ReadyFd),
    value("mtu", Some(b'm'), Id::Mtu),
    value("cidr", None, Id::Cidr),
    flag("disable-host-loopback", None, Id::DisableHostLoopback),
    flag("no-host-loopback", None, Id::NoHostLoopback),
    value("netns-type", None, Id::NetnsType),
    value("userns-path", None, Id::UsernsPath),
    value("api-socket", Some(b'a'), Id::ApiSocket),
    flag("enable-ipv6", Some(b'6'), Id::EnableIpv6),
    flag("enable-sandbox", None, Id::EnableSandbox),
    flag("create-sandbox", None, Id::CreateSandbox),
    flag("enable-seccomp", None, Id::EnableSeccomp),
    flag("help", Some(b'h'), Id::Help),
    flag("version", Some(b'v'), Id::Version),
    value("outbound-addr", None, Id::OutboundAddr),
    value("outbound-addr6", None, Id::OutboundAddr6),
    flag("disable-dns", None, Id::DisableDns),
    value("macaddress", None, Id::MacAddress),
    value("target-type", None, Id::TargetType),
];

const fn flag(long: &'static str, short: Option<u8>, id: Id) -> Spec<Id> {
    Spec {
        long,
        short,
        takes: Takes::Nothing,
        id,
    }
}

const fn value(long: &'static str, short: Option<u8>, id: Id) -> Spec<Id> {
    Spec {
        long,
        short,
        takes: Takes::Value,
        id,
    }
}

/// What `--help` says of an option.
struct Entry {
    id: Id,
    /// Name of the value, if it has one.
    value: &'static str,
    about: &'static str,
}

/// In the order of `--help`. The old names are missing on purpose.
const HELP: &[Entry] = &[
    entry(
        Id::Configure,
        "",
        "give the interface its addresses, route and MTU, and bring it up",
    ),
    entry(
        Id::ExitFd,
        "FD",
        "end when the other end of this pipe or socket is closed",
    ),
    entry(
        Id::ReadyFd,
        "FD",
        "write '1' here once traffic flows, then close it",
    ),
    entry(
        Id::Mtu,
        "MTU",
        "largest packet in bytes (default: 1500, at most 65521)",
    ),
    entry(Id::EnableIpv6, "", "IPv6 on the guest's network, fd00::/64"),
    entry(
        Id::ApiSocket,
        "PATH",
        "make a socket that takes requests for port forwards",
    ),
    entry(
        Id::Cidr,
        "CIDR",
        "the guest's IPv4 network (default: 10.0.2.0/24)",
    ),
    entry(
        Id::DisableHostLoopback,
        "",
        "the gateway address does not lead to this host's 127.0.0.1",
    ),
    entry(
        Id::NetnsType,
        "TYPE",
        "what the first argument is: pid, path or tapfd (default: pid)",
    ),
    entry(
        Id::UsernsPath,
        "PATH",
        "user namespace to join before the network namespace",
    ),
    entry(
        Id::EnableSandbox,
        "",
        "see nothing of the file system but /etc and /run, keep no capability but \
         CAP_NET_BIND_SERVICE",
    ),
    entry(
        Id::EnableSeccomp,
        "",
        "forbid system calls that serving does not need",
    ),
    entry(
        Id::OutboundAddr,
        "IPv4",
        "source address, or interface, of IPv4 traffic on the host",
    ),
    entry(
        Id::OutboundAddr6,
        "IPv6",
        "source address, or interface, of IPv6 traffic on the host",
    ),
    entry(
        Id::DisableDns,
        "",
        "no resolver at 10.0.2.3 (host 3 of the network)",
    ),
    entry(
        Id::MacAddress,
        "MAC",
        "the interface's MAC address (with --configure only)",
    ),
    entry(
        Id::TargetType,
        "TYPE",
        "whom to serve: netns, or bess for a User-Mode Linux (default: netns)",
    ),
    entry(Id::Help, "", "print this and exit"),
    entry(Id::Version, "", "print the version and exit"),
];

const fn entry(id: Id, value: &'static str, about: &'static str) -> Entry {
    Entry { id, value, about }
}

const SYNOPSIS: &str = "slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]";
const ABOUT: &str = "Connects a network namespace to the network, without privileges.";

/// What the manual page has behind the options.
const MANUAL: &str = "\
Programs that call it:
Podman up to 5.8, rootlesskit (rootless Docker, nerdctl, BuildKit, k3s) and scripts that know
slirp4netns. Options may follow the other arguments and be abbreviated, as slirp4netns takes them.
gw is called this way by the name slirp4netns, or as 'gw slirp4netns'; the Debian package has such a
link, /usr/libexec/gw/slirp4netns.

Addresses:
  network + 2            the gateway; stands for this host's 127.0.0.1 unless that is disabled
  network + 3            the resolver
  network + 15 to + 30   leased by DHCP
  network + 100          the guest, with --configure
  fd00::2, fd00::3       gateway and resolver of IPv6, with --enable-ipv6

Descriptors:
To --ready-fd the byte '1' is written, then it is closed, when traffic flows, the API socket
listens, and sandbox and seccomp are in force. Only the end of --exit-fd counts, not what is
written to it; without it, a signal ends the program.

API socket:
A client connects, sends one request, and gets one answer:

  {\"execute\": \"add_hostfwd\", \"arguments\": {\"proto\": \"tcp\", \"host_addr\": \"127.0.0.1\",
   \"host_port\": 8080, \"guest_addr\": \"10.0.2.100\", \"guest_port\": 80}}
  {\"execute\": \"list_hostfwd\"}
  {\"execute\": \"remove_hostfwd\", \"arguments\": {\"id\": 1}}

Exit status:
0 after the end of --exit-fd, --help and --version; 1 when it cannot start, with the reason on
standard error; a signal's otherwise.";

/// Column at which the explanations begin.
const INDENT: usize = 25;

/// The text of `--help`. Tools look for the names of options in it.
pub(super) fn help() -> String {
    let mut text = format!("Usage: {SYNOPSIS}\n{ABOUT}\n\n");
    for Entry { id, value, about } in HELP {
        let spec = spec(*id);
        let short = spec.short.map(|s| format!("-{}, ", char::from(s)));
        let mut term = format!("{}--{}", short.unwrap_or_default(), spec.long);
        if spec.takes == Takes::Value {
            term.push('=');
            term.push_str(value);
        }
        text.push_str(&format!("{term:<INDENT$} {about}\n"));
    }
    text
}

/// The text of `--version`, in the form that `runc --version` has.
///
/// It begins as slirp4netns's does, with the release whose options and behaviour
/// this is, since tools read it. `SLIRP_CONFIG_VERSION_MAX` tells test suites
/// which features there are: 6 stands for all of them.
pub(super) fn version() -> String {
    let gw = env!("CARGO_PKG_VERSION");
    format!(
        "slirp4netns version {COMPATIBLE_WITH} (gw {gw})\n\
         commit: gw-{gw}\n\
         libslirp: 4.7.0 (not used, behaves alike)\n\
         SLIRP_CONFIG_VERSION_MAX: 6\n\
         libseccomp: 2.5.4 (not used, behaves alike)\n"
    )
}

/// The release of slirp4netns that this stands in for.
const COMPATIBLE_WITH: &str = "1.3.2";

fn spec(id: Id) -> &'static Spec<Id> {
    let index = SPECS.iter().position(|s| s.id == id);
    &SPECS[index.unwrap_or(0)]
}

/// The same as a definition of clap's, from which the manual page and shell
/// completions are made. The command line itself is read by [`super::getopt`].
#[must_use]
pub fn slirp4netns_command() -> Command {
    let options = HELP.iter().map(|Entry { id, value, about }| {
        let spec = spec(*id);
        let arg = Arg::new(spec.long).long(spec.long).help(*about);
        let arg = match spec.short {
            Some(short) => arg.short(char::from(short)),
            None => arg,
        };
        match spec.takes {
            Takes::Nothing => arg.action(ArgAction::SetTrue),
            Takes::Value => arg.value_name(*value),
        }
    });
    Command::new("slirp4netns")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Stands in for slirp4netns: connects a network namespace to the network")
        .override_usage(format!("gw {SYNOPSIS}\n       {SYNOPSIS}"))
        .after_long_help(MANUAL)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(options)
        .arg(
            Arg::new("target")
                .value_name("PID|PATH|FD")
                .required(true)
                .help("the namespace: a process in it, its file, or a TAP's descriptor"),
        )
        .arg(
            Arg::new("tapname")
                .value_name("TAPNAME")
                .help("name of the TAP interface in the namespace"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_what_tools_look_for() {
        let help = help();
        for option in [
            // Podman
            "--disable-host-loopback",
            "--mtu",
            "--enable-sandbox",
            "--enable-seccomp",
            "--cidr",
            "--outbound-addr",
            "--enable-ipv6",
            // rootlesskit
            "--netns-type",
            "--api-socket",
        ] {
            // As a word, like dockerd-rootless.sh.
            let found = help
                .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
                .any(|word| word == option);
            assert!(found, "{option}: {help}");
        }
        assert!(help.starts_with("Usage: slirp4netns [OPTION]... "));
    }

    #[test]
    fn every_option_is_explained_but_the_old_names() {
        for spec in SPECS {
            let old = matches!(spec.id, Id::NoHostLoopback | Id::CreateSandbox);
            let explained = HELP.iter().filter(|e| e.id == spec.id).count();
            assert_eq!(explained, usize::from(!old), "--{}", spec.long);
        }
        for entry in HELP {
            let takes = spec(entry.id).takes;
            assert_eq!(takes == Takes::Value, !entry.value.is_empty());
        }
    }

    #[test]
    fn version_has_the_form_that_is_parsed() {
        let version = version();
        let lines: Vec<_> = version.lines().collect();
        let words: Vec<_> = lines[0].split(' ').collect();
        assert_eq!(words[..3], ["slirp4netns", "version", "1.3.2"]);
        assert!(lines[1].starts_with("commit: "));
        assert!(lines.contains(&"SLIRP_CONFIG_VERSION_MAX: 6"));
        assert!(lines.iter().skip(1).all(|line| line.contains(": ")));
    }

    #[test]
    fn the_definition_holds_together() {
        slirp4netns_command().debug_assert();
    }

    #[test]
    fn the_definition_has_what_the_parser_takes() {
        let command = slirp4netns_command();
        let defined: Vec<_> = command
            .get_opts()
            .map(|arg| {
                (
                    arg.get_long(),
                    arg.get_short(),
                    arg.get_action().takes_values(),
                )
            })
            .collect();
        let taken = |spec: &Spec<Id>| {
            let short = spec.short.map(char::from);
            (Some(spec.long), short, spec.takes == Takes::Value)
        };
        for spec in SPECS {
            let old = matches!(spec.id, Id::NoHostLoopback | Id::CreateSandbox);
            assert_eq!(defined.contains(&taken(spec)), !old, "--{}", spec.long);
        }
        assert_eq!(defined.len(), HELP.len());
    }
}
