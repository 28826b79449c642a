//! Standing in for slirp4netns: `gw` started by that name, or `gw slirp4netns`.
//!
//! # Theory of operation
//!
//! Podman, rootlesskit and scripts start slirp4netns and rely on its options,
//! what it says about wrong ones, its addresses, exit codes and life cycle. This
//! is another front door to the same gateway: `getopt` and `args` read the
//! command line by slirp4netns's rules, `resolve` makes a
//! [`Config`](crate::config::Config) of it, `serve` runs it.
//!
//! What differs from `gw --netns`: signals have their default effect (SIGTERM
//! kills, and leaves the API socket's file behind); the end of the namespace's
//! process, or of its file, is no reason to end: callers hang up the exit
//! descriptor, or kill; the host's loopback is open unless closed.
//!
//! What is better than the original, on purpose: notices are printed once, and
//! at once; numbers that do not fit are refused instead of cut; with `-c` and
//! `--enable-ipv6` the guest's IPv6 address is there when ready is said, and is
//! always host 0x100 of the network; networks that no guest can have, and
//! outbound addresses that this host does not have, are refused at the start.

mod args;
mod banner;
mod getopt;
mod options;
mod pipes;
mod resolve;
mod serve;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

pub use self::options::slirp4netns_command;

use self::args::{Action, Refusal};
use super::Exit;
use super::args::LogFormat;
use super::messages::{Adjustable, Voice, in_one_line};
use super::resolve::{Level, Messages};

/// The name to be called by.
const NAME: &str = "slirp4netns";

/// How slirp4netns was called.
#[derive(Debug)]
pub(super) struct Call {
    /// The program's name, for messages.
    program: String,
    args: Vec<OsString>,
}

impl Call {
    /// A command line that means slirp4netns: the program's name says so, or the
    /// first argument.
    pub(super) fn of(line: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut line = line.into_iter();
        let program = line.next()?;
        if Path::new(&program).file_name()? == NAME {
            return Some(Self {
                program: program.to_string_lossy().into_owned(),
                args: line.collect(),
            });
        }
        (line.next()? == NAME).then(|| Self {
            program: format!("{} {NAME}", program.to_string_lossy()),
            args: line.collect(),
        })
    }
}

/// Runs the program as slirp4netns.
pub(super) fn main(call: Call) -> ExitCode {
    let parsed = args::parse(call.args.into_iter());
    for notice in parsed.notices {
        say(&format!("{notice}\n"));
    }
    match parsed.outcome {
        Ok(Action::Help) => say(&options::help()),
        Ok(Action::Version) => say(&options::version()),
        Ok(Action::Serve(options)) => return start(*options).into(),
        Err(refusal) => {
            match &refusal {
                Refusal::Usage => {}
                Refusal::Getopt(e) => complain(&format!("{}: {e}", call.program)),
                other => complain(&other.to_string()),
            }
            say(&options::help());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// For the fuzz targets: reads a command line and makes a configuration of it.
pub(super) fn fuzz_arguments(arguments: &[&str]) {
    let parsed = args::parse(arguments.iter().map(OsString::from));
    if let Ok(Action::Serve(options)) = parsed.outcome {
        let _ = resolve::resolve(*options);
    }
}

fn start(options: args::Options) -> Exit {
    let messages = Messages {
        level: Level::Normal,
        format: LogFormat::Text,
    };
    let voice = Voice::set_up(messages, LevelFilter::WARN, Adjustable::No);
    let invocation = match resolve::resolve(options) {
        Ok(invocation) => invocation,
        Err(e) => {
            complain(&e.to_string());
            return Exit::Failure;
        }
    };
    for warning in &invocation.warnings {
        voice.warn(warning);
    }
    serve::serve(invocation, voice).unwrap_or_else(|failure| {
        complain(&in_our_words(in_one_line(&failure)));
        if let super::Failure::Attach(_) = failure {
            complain("child failed(1)");
        }
        Exit::Failure
    })
}

/// The remedies of [`AttachError`](crate::tap::AttachError) and of warnings with
/// the options that there are here.
fn in_our_words(text: String) -> String {
    const WORDS: [(&str, &str); 5] = [
        ("another with --ifname", "another TAPNAME"),
        ("another name with --ifname", "another TAPNAME"),
        ("with --no-configure", "without --configure"),
        ("--userns names", "--userns-path names"),
        ("use --no-ipv6", "leave out --enable-ipv6"),
    ];
    WORDS
        .iter()
        .fold(text, |text, (theirs, ours)| text.replace(theirs, ours))
}

/// Writes to standard output, at once; there is nobody to tell of a failure.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes a line to standard error.
fn complain(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::{AttachError, Errno};

    #[test]
    fn it_is_called_by_name_or_as_a_subcommand() {
        let call = |line: &str| Call::of(line.split(' ').map(OsString::from));
        for (line, program, args) in [
            ("slirp4netns -h", "slirp4netns", &["-h"][..]),
            (
                "/usr/bin/slirp4netns 1 tap0",
                "/usr/bin/slirp4netns",
                &["1", "tap0"],
            ),
            ("gw slirp4netns -- -h", "gw slirp4netns", &["--", "-h"]),
        ] {
            let call = call(line).expect(line);
            assert_eq!(
                (&call.program[..], &call.args[..]),
                (
                    program,
                    &args.iter().map(OsString::from).collect::<Vec<_>>()[..]
                )
            );
        }
        for line in [
            "gw",
            "gw run slirp4netns",
            "gw --netns slirp4netns",
            "/slirp4netns/gw",
        ] {
            assert!(call(line).is_none(), "{line}");
        }
        assert!(Call::of([]).is_none());
    }

    #[test]
    fn remedies_name_options_that_exist() {
        let name = || "tap0".to_owned();
        for error in [
            AttachError::NameTaken { name: name() },
            AttachError::NameBusy { name: name() },
            AttachError::Configure {
                step: "x".into(),
                name: name(),
                errno: Errno(1),
            },
        ] {
            let text = in_our_words(error.to_string());
            assert!(
                !text.contains("--ifname") && !text.contains("--no-configure"),
                "{text}"
            );
        }
    }
}
