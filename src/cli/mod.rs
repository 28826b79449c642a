//! The command line: from arguments to a running gateway and an exit status.
//!
//! `args` is what can be written, `values` parses single values, `resolve` makes
//! a [`Config`](crate::config::Config) of it. `serve` and `run` are the two ways to
//! come by a namespace, `links` is that to do without; all fork what they need
//! before the runtime starts.
//! `slirp4netns` is another front door, with a command line of its own.

mod args;
mod closing;
mod ctl;
mod doctor;
mod host;
mod lifecycle;
mod links;
mod messages;
mod notify;
mod passed;
mod resolv_conf;
mod resolve;
mod run;
mod serve;
pub mod slirp4netns;
pub mod speedtest;
mod stats;
mod summary;
mod top;
mod values;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;

use self::args::{Cli, Command};
use self::lifecycle::LifecycleError;
use self::links::LinkError;
use self::messages::{Voice, print_remedy, print_usage_error};
use self::resolve::{Invocation, Mode, UsageError};
use crate::gateway::GatewayError;
use crate::observe::report::output::ReportError;
use crate::sandbox::SandboxError;
use crate::tap::AttachError;

/// For who types `gw` and nothing else.
const INTRODUCTION: &str = "\
gw connects a network namespace to the network, without privileges; say what to connect:

  gw run                 a shell in a namespace of its own
  gw run -- CMD ARGS...  a command; gw ends with its exit status
  gw --netns PID         the namespace of a process that is there already
  gw serve --link SPEC   virtual machines, VDE switches, other programs
  gw speedtest           nothing: measures the gateway on this machine
  gw doctor              nothing: says whether gw works on this machine

'gw -h' lists the options, 'gw --help' explains them and has examples.";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// As it should.
    Success,
    /// Something failed, and has been said.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// As the command of `gw run` did.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::FAILURE,
            Exit::Usage => Self::from(2),
            Exit::Command(status) => Self::from(status),
        }
    }
}

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(
        "the descriptor {fd} is no TAP that can be served: {source}; hand over one that has been \
         attached to a TAP (TUNSETIFF), like '7<>/dev/net/tun' in a program that does so"
    )]
    TapFd { fd: i32, source: io::Error },
    #[error(
        "cannot listen at '{path}': {source}; give a path of less than 108 bytes in a directory \
         that this user may write to"
    )]
    Bess { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("cannot start the event loop: {0}; is the limit of open files too low?")]
    Runtime(#[source] io::Error),
    #[error("cannot make a process for the command: {0}; is the limit of processes too low?")]
    Fork(#[source] io::Error),
    #[error("cannot watch the command: {0}")]
    Watch(#[source] io::Error),
    #[error(transparent)]
    Link(Box<LinkError>),
    #[error("the link '{link}' is gone: {reason}; start gw again when its other end is back")]
    LinkEnded { link: String, reason: io::Error },
    #[error(
        "the TAP is gone: somebody removed it from the namespace; start gw again to make a new one"
    )]
    LinkGone,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(call) = slirp4netns::Call::of(std::env::args_os()) {
        return slirp4netns::main(call);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_parsed(&e).into(),
    };
    if let Some(Command::Speedtest(args)) = &cli.command {
        return speedtest::run(args);
    }
    if let Some(Command::Ctl(args)) = &cli.command {
        return ctl::run(args);
    }
    if let Some(Command::Top(args)) = &cli.command {
        return top::run(args);
    }
    if let Some(Command::Doctor(args)) = &cli.command {
        return doctor::run(args);
    }
    let invocation = match resolve::resolve(cli) {
        Ok(invocation) => invocation,
        Err(UsageError::NothingToDo) if std::env::args_os().len() <= 1 => {
            print_remedy(INTRODUCTION);
            return Exit::Usage.into();
        }
        Err(e) => {
            print_usage_error(&e.to_string());
            return Exit::Usage.into();
        }
    };
    execute(&invocation).into()
}

/// The whole command line, as clap knows it: what man pages and shell completions
/// are made of.
#[must_use]
pub fn command() -> clap::Command {
    // It has no options when it is parsed, for it has rules of its own.
    Cli::command().mut_subcommand("slirp4netns", |_| slirp4netns::slirp4netns_command())
}

/// Prints what clap has to say: an error, but also --help and --version.
fn not_parsed(error: &clap::Error) -> Exit {
    // Nobody is left to tell when it cannot be printed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Success,
        ErrorKind::ArgumentConflict => {
            print_remedy("Leave one of the two out.");
            Exit::Usage
        }
        _ => Exit::Usage,
    }
}

fn execute(invocation: &Invocation) -> Exit {
    let Invocation {
        config,
        mode,
        messages,
        warnings,
    } = invocation;
    let log_default = match mode {
        Mode::Attach { .. } | Mode::Serve(_) => LevelFilter::INFO,
        // Nobody could know the ports and seeds that are chosen otherwise.
        Mode::Run(_) if summary::chooses_ports(config) || summary::chooses_seeds(config) => {
            LevelFilter::INFO
        }
        // The command writes to the same place.
        Mode::Run(_) => LevelFilter::WARN,
    };
    let adjustable = config.control.is_some();
    let voice = Voice::set_up(*messages, log_default, adjustable.into());
    for warning in warnings {
        voice.warn(warning);
    }
    let result = match mode {
        Mode::Attach { target, userns } => serve::serve(config, target, userns.as_deref(), voice),
        Mode::Run(mode) => run::run(config, mode, voice),
        Mode::Serve(links) => links::serve::serve(config, links, voice),
    };
    result.unwrap_or_else(|failure| {
        voice.fail(&failure);
        Exit::Failure
    })
}

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
}

/// A door for the fuzz targets: reads `text` as every kind of value.
#[doc(hidden)]
pub fn fuzz_values(text: &str) {
    let _ = values::netns(text);
    let _ = values::ifname(text);
    let _ = values::mtu(text);
    let _ = values::cidr(text);
    let _ = values::cidr6(text);
    let _ = values::mac(text);
    let _ = values::host_loopback(text);
    let _ = values::publish(text);
    let _ = values::expose(text);
    let _ = values::outbound4(text);
    let _ = values::outbound6(text);
    let _ = values::dns(text);
    let _ = values::search(text);
    let _ = values::ndots(text);
    let _ = values::host(text);
    let _ = values::memory(text);
    let _ = values::fd(text);
    let _ = links::parse(text);
}

/// A door for the fuzz targets: reads a whole command line, also as slirp4netns's.
#[doc(hidden)]
pub fn fuzz_arguments(arguments: &[&str]) {
    slirp4netns::fuzz_arguments(arguments);
    let _ = Cli::try_parse_from(std::iter::once(&"gw").chain(arguments));
}
