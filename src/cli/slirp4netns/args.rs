//! Reads the command line. Callers match what is said about wrong ones, and in
//! which order things are found to be wrong: both are slirp4netns's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::getopt::{Getopt, GetoptError, Item};
use super::options::{Id, SPECS};
use crate::tap::Errno;

/// Greatest value of `--mtu`, in bytes: an Ethernet frame of 65535.
const MAX_MTU: i64 = 65521;
const DEFAULT_MTU: u32 = 1500;

const NO_HOST_LOOPBACK: &str = "WARNING: --no-host-loopback is deprecated and will be removed \
     in future releases, please use --disable-host-loopback instead.";
const CREATE_SANDBOX: &str = "WARNING: --create-sandbox is deprecated and will be removed in \
     future releases, please use --enable-sandbox instead.";
const EXPERIMENTAL_IPV6: &str = "WARNING: Support for IPv6 is experimental";
const EXPERIMENTAL_SECCOMP: &str = "WARNING: Support for seccomp is experimental";
const EXPERIMENTAL_OUTBOUND: &str = "WARNING: Support for --outbound-addr is experimental";
const EXPERIMENTAL_OUTBOUND6: &str = "WARNING: Support for --outbound-addr6 is experimental";
const EXPERIMENTAL_BESS: &str = "WARNING: BESS mode is experimental";
const TOO_MANY: &str = "WARNING: too many arguments";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Help,
    Version,
    Serve(Box<Options>),
}

/// The options, each looked at by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) target: Target,
    pub(super) configure: bool,
    pub(super) exit_fd: Option<RawFd>,
    pub(super) ready_fd: Option<RawFd>,
    /// Bytes, 1 to [`MAX_MTU`].
    pub(super) mtu: u32,
    pub(super) cidr: Option<OsString>,
    pub(super) disable_host_loopback: bool,
    pub(super) api_socket: Option<PathBuf>,
    pub(super) enable_ipv6: bool,
    pub(super) enable_sandbox: bool,
    pub(super) enable_seccomp: bool,
    pub(super) outbound_addr: Option<OsString>,
    pub(super) outbound_addr6: Option<OsString>,
    pub(super) disable_dns: bool,
    pub(super) macaddress: Option<OsString>,
}

/// Whom to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The namespace of a process.
    Pid {
        pid: i32,
        userns: Option<PathBuf>,
        tapname: OsString,
    },
    /// A namespace by its file.
    Path {
        path: PathBuf,
        userns: Option<PathBuf>,
        tapname: OsString,
    },
    /// Whoever holds the other side of this open TAP.
    TapFd(RawFd),
    /// A User-Mode Linux that comes to this socket.
    Bess(PathBuf),
}

/// A command line that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Operands are missing; the usage says it all.
    #[error("")]
    Usage,
    /// To be said with the program's name in front.
    #[error(transparent)]
    Getopt(#[from] GetoptError),
    #[error("MTU must be a positive integer (< {})", MAX_MTU + 1)]
    Mtu,
    #[error("{0} must be a non-negative integer")]
    Fd(&'static str),
    #[error("userns path doesn't exist: {0}")]
    NoUserns(String),
    #[error("--macaddr cannot be specified when --configure or -c is not specified")]
    MacWithoutConfigure,
    #[error("--target-type must be either \"netns\" or \"bess\"")]
    TargetType,
    #[error("{0} conflicts with --target-type=bess")]
    BessConflict(&'static str),
    #[error("too many arguments")]
    TooMany,
    #[error("PID must be a positive integer")]
    Pid,
    #[error("existing path expected when --netns-type=path: {0}")]
    NoPath(Errno),
}

/// What came of a command line.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Lines for standard output, said before anything else.
    pub(super) notices: Vec<&'static str>,
    pub(super) outcome: Result<Action, Refusal>,
}

/// Reads a command line, the program's name not among it.
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    let mut reader = Reader::default();
    let outcome = reader.read(args);
    Parsed {
        notices: reader.notices,
        outcome,
    }
}

/// What was given, in its last form.
#[derive(Debug, Default)]
struct Reader {
    notices: Vec<&'static str>,
    operands: Vec<OsString>,
    mtu: Option<u32>,
    exit_fd: Option<RawFd>,
    ready_fd: Option<RawFd>,
    configure: bool,
    disable_host_loopback: bool,
    enable_ipv6: bool,
    enable_sandbox: bool,
    enable_seccomp: bool,
    disable_dns: bool,
    cidr: Option<OsString>,
    netns_type: Option<OsString>,
    userns_path: Option<OsString>,
    api_socket: Option<OsString>,
    outbound_addr: Option<OsString>,
    outbound_addr6: Option<OsString>,
    macaddress: Option<OsString>,
    target_type: Option<OsString>,
}

impl Reader {
    fn read(&mut self, args: impl Iterator<Item = OsString>) -> Result<Action, Refusal> {
        for item in Getopt::new(SPECS, args) {
            match item? {
                Item::Operand(word) => self.operands.push(word),
                Item::Flag(Id::Help) => return Ok(Action::Help),
                Item::Flag(Id::Version) => return Ok(Action::Version),
                Item::Flag(id) => self.flag(id),
                Item::Value(id, value) => self.value(id, value)?,
            }
        }
        self.check()?;
        let target = self.target()?;
        Ok(Action::Serve(Box::new(Options {
            target,
            configure: self.configure,
            exit_fd: self.exit_fd,
            ready_fd: self.ready_fd,
            mtu: self.mtu.unwrap_or(DEFAULT_MTU),
            cidr: self.cidr.take(),
            disable_host_loopback: self.disable_host_loopback,
            api_socket: self.api_socket.take().map(PathBuf::from),
            enable_ipv6: self.enable_ipv6,
            enable_sandbox: self.enable_sandbox,
            enable_seccomp: self.enable_seccomp,
            outbound_addr: self.outbound_addr.take(),
            outbound_addr6: self.outbound_addr6.take(),
            disable_dns: self.disable_dns,
            macaddress: self.macaddress.take(),
        })))
    }

    fn flag(&mut self, id: Id) {
        match id {
            Id::Configure => self.configure = true,
            Id::DisableHostLoopback => self.disable_host_loopback = true,
            Id::NoHostLoopback => {
                self.notices.push(NO_HOST_LOOPBACK);
                self.disable_host_loopback = true;
            }
            Id::EnableIpv6 => {
                self.notices.push(EXPERIMENTAL_IPV6);
                self.enable_ipv6 = true;
            }
            Id::EnableSandbox => self.enable_sandbox = true,
            Id::CreateSandbox => {
                self.notices.push(CREATE_SANDBOX);
                self.enable_sandbox = true;
            }
            Id::EnableSeccomp => {
                self.notices.push(EXPERIMENTAL_SECCOMP);
                self.enable_seccomp = true;
            }
            Id::DisableDns => self.disable_dns = true,
            // These have values, or end the reading.
            _ => {}
        }
    }

    fn value(&mut self, id: Id, value: OsString) -> Result<(), Refusal> {
        let fd = |name| fd(&value).ok_or(Refusal::Fd(name));
        match id {
            Id::ExitFd => self.exit_fd = Some(fd("exit-fd")?),
            Id::ReadyFd => self.ready_fd = Some(fd("ready-fd")?),
            Id::Mtu => {
                let bytes = integer(&value).filter(|n| (1..=MAX_MTU).contains(n));
                let bytes = bytes.and_then(|n| u32::try_from(n).ok());
                self.mtu = Some(bytes.ok_or(Refusal::Mtu)?);
            }
            Id::Cidr => self.cidr = Some(value),
            Id::NetnsType => self.netns_type = Some(value),
            Id::UsernsPath => self.userns_path = Some(value),
            Id::ApiSocket => self.api_socket = Some(value),
            Id::OutboundAddr => {
                self.notices.push(EXPERIMENTAL_OUTBOUND);
                self.outbound_addr = Some(value);
            }
            Id::OutboundAddr6 => {
                self.notices.push(EXPERIMENTAL_OUTBOUND6);
                self.outbound_addr6 = Some(value);
            }
            Id::MacAddress => self.macaddress = Some(value),
            Id::TargetType => self.target_type = Some(value),
            // These have no values.
            _ => {}
        }
        Ok(())
    }

    /// What does not depend on the operands.
    fn check(&self) -> Result<(), Refusal> {
        if let Some(path) = &self.userns_path
            && fs::metadata(path).is_err()
        {
            return Err(Refusal::NoUserns(path.to_string_lossy().into_owned()));
        }
        if self.macaddress.is_some() && !self.configure {
            return Err(Refusal::MacWithoutConfigure);
        }
        Ok(())
    }

    fn target(&mut self) -> Result<Target, Refusal> {
        match self.target_type.as_deref().map(OsStr::to_str) {
            None | Some(Some("netns")) => self.netns(),
            Some(Some("bess")) => self.bess(),
            Some(_) => Err(Refusal::TargetType),
        }
    }

    fn netns(&mut self) -> Result<Target, Refusal> {
        let tapfd = self.netns_type.as_deref() == Some(OsStr::new("tapfd"));
        let wanted = if tapfd { 1 } else { 2 };
        if self.operands.len() < wanted {
            return Err(Refusal::Usage);
        }
        if self.operands.len() > wanted {
            self.notices.push(TOO_MANY);
        }
        let mut operands = self.operands.drain(..);
        let (first, second) = (operands.next(), operands.next());
        let first = first.unwrap_or_default();
        if tapfd {
            return fd(&first).map(Target::TapFd).ok_or(Refusal::Fd("tapfd"));
        }
        let tapname = second.unwrap_or_default();
        let userns = self.userns_path.take().map(PathBuf::from);
        match self.netns_type.as_deref().map(OsStr::to_str) {
            None | Some(Some("pid")) => {
                let pid = integer(&first).and_then(|n| i32::try_from(n).ok());
                let pid = pid.filter(|pid| *pid > 0).ok_or(Refusal::Pid)?;
                Ok(Target::Pid {
                    pid,
                    userns,
                    tapname,
                })
            }
            // Whatever else is written means a path.
            Some(_) => {
                let path = PathBuf::from(first);
                fs::metadata(&path).map_err(|e| Refusal::NoPath(e.into()))?;
                Ok(Target::Path {
                    path,
                    userns,
                    tapname,
                })
            }
        }
    }

    fn bess(&mut self) -> Result<Target, Refusal> {
        let mut operands = self.operands.drain(..);
        let path = operands.next().ok_or(Refusal::Usage)?;
        for (given, name) in [
            (self.configure, "--configure"),
            (self.netns_type.is_some(), "--netns-type"),
            (self.userns_path.is_some(), "--userns-path"),
        ] {
            if given {
                return Err(Refusal::BessConflict(name));
            }
        }
        if operands.next().is_some() {
            return Err(Refusal::TooMany);
        }
        self.notices.push(EXPERIMENTAL_BESS);
        Ok(Target::Bess(path.into()))
    }
}

/// A whole number as strtol(3) reads it: white space and a sign may precede it,
/// nothing may follow.
fn integer(text: &OsStr) -> Option<i64> {
    let text = text
        .to_str()?
        .trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    // This takes a sign as well.
    text.parse().ok()
}

fn fd(text: &OsStr) -> Option<RawFd> {
    let fd = integer(text)?;
    RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_line(line: &str) -> Parsed {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match parse_line(line).outcome {
            Ok(Action::Serve(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_slirp4netns_s_words() {
        for (line, said) in [
            ("", ""),
            ("1", ""),
            ("-- -h", ""),
            ("--cidr=x abc", ""),
            ("--netns-type=path", ""),
            ("--netns-type=path /x", ""),
            ("--netns-type=tapfd", ""),
            ("--target-type=bess", ""),
            ("--target-type=bess -c", ""),
            ("abc tap0", "PID must be a positive integer"),
            ("0 tap0", "PID must be a positive integer"),
            ("1x tap0", "PID must be a positive integer"),
            ("-- -1 tap0", "PID must be a positive integer"),
            ("- tap0", "PID must be a positive integer"),
            ("99999999999 tap0", "PID must be a positive integer"),
            ("--cidr=x abc tap0", "PID must be a positive integer"),
            ("-m 0 1 tap0", "MTU must be a positive integer (< 65522)"),
            (
                "-m 65522 1 tap0",
                "MTU must be a positive integer (< 65522)",
            ),
            ("-m 0x10 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("-m= 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("-mtu 1 tap0", "MTU must be a positive integer (< 65522)"),
            ("-m 0 -v", "MTU must be a positive integer (< 65522)"),
            (
                "--target-type=x -m 0",
                "MTU must be a positive integer (< 65522)",
            ),
            (
                "-m1500 -ceX 1 tap0",
                "exit-fd must be a non-negative integer",
            ),
            ("-e -1 1 tap0", "exit-fd must be a non-negative integer"),
            ("-r x --bogus", "ready-fd must be a non-negative integer"),
            ("-r 1x 1 tap0", "ready-fd must be a non-negative integer"),
            (
                "--macaddress=x --userns-path=/nonexistent abc",
                "userns path doesn't exist: /nonexistent",
            ),
            ("--userns-path= 1 tap0", "userns path doesn't exist: "),
            (
                "--macaddress=x --target-type=x abc",
                "--macaddr cannot be specified when --configure or -c is not specified",
            ),
            (
                "--target-type=foo",
                "--target-type must be either \"netns\" or \"bess\"",
            ),
            ("--target-type=bess a b", "too many arguments"),
            (
                "--target-type=bess --netns-type=pid -c /x",
                "--configure conflicts with --target-type=bess",
            ),
            (
                "--target-type=bess --netns-type=pid --userns-path=/proc/self/ns/user /x",
                "--netns-type conflicts with --target-type=bess",
            ),
            (
                "--target-type=bess --userns-path=/proc/self/ns/user /x",
                "--userns-path conflicts with --target-type=bess",
            ),
            (
                "--netns-type=path /nonexistent tap0",
                "existing path expected when --netns-type=path: No such file or directory",
            ),
            (
                "--netns-type=any /nonexistent tap0",
                "existing path expected when --netns-type=path: No such file or directory",
            ),
            (
                "--netns-type= 1 tap0",
                "existing path expected when --netns-type=path: No such file or directory",
            ),
            (
                "--netns-type=tapfd -- -1",
                "tapfd must be a non-negative integer",
            ),
            ("--bogus 1 tap0", "unrecognized option '--bogus'"),
            ("--mtu", "option '--mtu' requires an argument"),
            ("-6z 1", "invalid option -- 'z'"),
            (
                "--enable 1 tap0",
                "option '--enable' is ambiguous; possibilities: '--enable-ipv6' \
                 '--enable-sandbox' '--enable-seccomp'",
            ),
        ] {
            let refusal = parse_line(line).outcome.expect_err(line);
            assert_eq!(refusal.to_string(), said, "{line}");
        }
    }

    #[test]
    fn help_and_version_end_the_reading() {
        for line in ["-h -x", "--he", "-ch"] {
            assert_eq!(parse_line(line).outcome, Ok(Action::Help), "{line}");
        }
        for line in ["-v -m 0", "--vers"] {
            assert_eq!(parse_line(line).outcome, Ok(Action::Version), "{line}");
        }
    }

    #[test]
    fn targets() {
        let tapname = || OsString::from("tap0");
        let pid = |userns: Option<&str>| Target::Pid {
            pid: 1,
            userns: userns.map(PathBuf::from),
            tapname: tapname(),
        };
        for (line, target) in [
            ("1 tap0", pid(None)),
            ("+1 tap0 -c", pid(None)),
            ("--netns-type=pid --userns-path=/ 1 tap0", pid(Some("/"))),
            (
                "--netns-type=path / tap0",
                Target::Path {
                    path: "/".into(),
                    userns: None,
                    tapname: tapname(),
                },
            ),
            ("--netns-type=tapfd 7", Target::TapFd(7)),
            ("--target-type=bess /x", Target::Bess("/x".into())),
            ("--target-type=netns 1 tap0", pid(None)),
        ] {
            assert_eq!(options(line).target, target, "{line}");
        }
        // A blank in front is strtol's doing.
        let args = [" 1", "tap0"].into_iter().map(OsString::from);
        assert!(parse(args).outcome.is_ok());
    }

    #[test]
    fn how_podman_and_rootlesskit_call() {
        let podman = options(
            "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp \
             --enable-ipv6 -c -r 3 -e 4 --api-socket /tmp/x.net --netns-type=path / tap0",
        );
        assert!(podman.configure && podman.disable_host_loopback && podman.enable_ipv6);
        assert!(podman.enable_sandbox && podman.enable_seccomp && !podman.disable_dns);
        assert_eq!((podman.ready_fd, podman.exit_fd), (Some(3), Some(4)));
        assert_eq!(podman.mtu, 65520);
        assert_eq!(podman.api_socket, Some("/tmp/x.net".into()));
        let rootlesskit = options("--mtu 65520 -r 3 --cidr 10.9.0.0/16 1 tap0");
        assert!(!rootlesskit.configure);
        assert_eq!(rootlesskit.cidr, Some("10.9.0.0/16".into()));
        let plain = options("1 tap0");
        assert_eq!((plain.mtu, plain.exit_fd), (1500, None));
        assert_eq!(options("-m 1500 -m 1400 1 tap0").mtu, 1400, "the last one");
    }

    #[test]
    fn notices_come_as_far_as_the_line_was_read() {
        for (line, notices) in [
            (
                "--no-host-loopback --create-sandbox abc tap0",
                &[NO_HOST_LOOPBACK, CREATE_SANDBOX][..],
            ),
            ("-m 0 --outbound-addr=x 1 tap0", &[]),
            ("--outbound-addr=x -m 0 1 tap0", &[EXPERIMENTAL_OUTBOUND]),
            (
                "-6 --enable-seccomp --outbound-addr6 x 1 tap0 more",
                &[
                    EXPERIMENTAL_IPV6,
                    EXPERIMENTAL_SECCOMP,
                    EXPERIMENTAL_OUTBOUND6,
                    TOO_MANY,
                ],
            ),
            ("abc tap0 more and more", &[TOO_MANY]),
            ("--netns-type=tapfd 7 tap0", &[TOO_MANY]),
            ("--target-type=bess /x", &[EXPERIMENTAL_BESS]),
            ("-6z", &[EXPERIMENTAL_IPV6]),
        ] {
            assert_eq!(parse_line(line).notices, notices, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(words in proptest::collection::vec("\\PC{0,12}", 0..8)) {
            let _ = parse(words.into_iter().map(OsString::from));
        }

        #[test]
        fn nor_one_that_is_nearly_right(
            words in proptest::collection::vec(
                prop_oneof![
                    "-[cermahv6][0-9]{0,2}", "--[a-z6-]{1,10}(=[0-9a-f.:/]{0,8})?",
                    "[0-9]{1,4}", "tap0", "--netns-type=(pid|path|tapfd)", "--target-type=bess",
                ],
                0..8,
            ),
        ) {
            let _ = parse(words.into_iter().map(OsString::from));
        }
    }
}
