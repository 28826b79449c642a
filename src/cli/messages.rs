//! What the program says, all of it on standard error.
//!
//! A person at a terminal gets plain lines; anything else gets `tracing`'s
//! events, as text or JSON. The subscriber is set up only when it has something
//! to do, and costs nothing until then.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

use super::args::LogFormat;
use super::resolve::{Level, Messages};
use crate::control::proto::LogLevel;

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A person at a terminal.
    Person,
    /// A log.
    Log,
    /// Nobody: only failures are told.
    Nobody,
}

/// Whether the level of the log can change while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adjustable {
    /// By [`set_level`].
    Yes,
    /// It cannot.
    No,
}

impl From<bool> for Adjustable {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Says things to the audience there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice {
    audience: Audience,
    format: LogFormat,
    colour: bool,
}

impl Voice {
    /// Sets up logging for the rest of the process. `quiet_log`: a log gets
    /// warnings only, for the sake of a command that writes to the same place.
    pub(crate) fn set_up(
        messages: Messages,
        log_default: LevelFilter,
        adjustable: Adjustable,
    ) -> Self {
        let terminal = io::stderr().is_terminal();
        let colour = colour_on(&io::stderr()) == Colour::On;
        let audience = match (messages.level, messages.format) {
            (Level::Quiet, _) => Audience::Nobody,
            (_, LogFormat::Text) if terminal => Audience::Person,
            _ => Audience::Log,
        };
        let level = match (messages.level, audience) {
            (Level::Quiet, _) => LevelFilter::OFF,
            // What a person should know is printed, not logged.
            (Level::Normal, Audience::Person) => LevelFilter::WARN,
            (Level::Normal, _) => log_default,
            (Level::Verbose, _) => LevelFilter::DEBUG,
            (Level::Everything, _) => LevelFilter::TRACE,
        };
        match adjustable {
            Adjustable::Yes => subscribe_adjustable(messages.format, level, audience, colour),
            Adjustable::No if level == LevelFilter::OFF => {}
            Adjustable::No => subscribe(messages.format, level, audience, colour),
        }
        Self {
            audience,
            format: messages.format,
            colour,
        }
    }

    /// Who is listening.
    pub(crate) const fn audience(&self) -> Audience {
        self.audience
    }

    /// Something the user should know.
    pub(crate) fn warn(&self, text: &str) {
        match self.audience {
            Audience::Person => {
                let (on, off) = if self.colour {
                    ("\x1b[1;33m", "\x1b[0m")
                } else {
                    ("", "")
                };
                print(&format!("{on}warning:{off} {text}\n"));
            }
            Audience::Log => tracing::warn!("{text}"),
            Audience::Nobody => {}
        }
    }

    /// Whether messages are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == LogFormat::Json
    }

    /// Text of several lines for a person, as it is.
    pub(crate) fn show(&self, text: &str) {
        print(text);
    }

    /// Why the program fails, with what caused it. Said to everybody.
    pub(crate) fn fail(&self, error: &dyn Error) {
        let text = chain(error);
        match (self.format, self.audience) {
            (LogFormat::Json, Audience::Log) => tracing::error!("{text}"),
            _ => print_error(&text, self.colour),
        }
    }
}

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// With escape sequences.
    On,
    /// As it is.
    Off,
}

/// Colour is for terminals, unless `NO_COLOR` is set to something.
pub(crate) fn colour_on(stream: &impl IsTerminal) -> Colour {
    if stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        Colour::On
    } else {
        Colour::Off
    }
}

/// Prints an error before there is a [`Voice`].
pub(crate) fn print_usage_error(text: &str) {
    print_error(text, false);
    print("For more information, try 'gw --help'.\n");
}

/// Prints why the program fails, where there is no [`Voice`].
pub(crate) fn print_failure(text: &str) {
    print_error(text, false);
}

/// The error with what caused it, in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    chain(error)
}

/// Prints a line behind an error that says what to do about it.
pub(crate) fn print_remedy(text: &str) {
    print(&format!("{text}\n"));
}

fn print_error(text: &str, colour: bool) {
    let (on, off) = if colour {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    print(&format!("gw: {on}error:{off} {text}\n"));
}

/// Writes to standard error in one call; there is nobody to tell of a failure.
fn print(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The error and its causes in one line. A cause that its parent already
/// quotes is not said again.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn subscribe(format: LogFormat, level: LevelFilter, audience: Audience, colour: bool) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(level >= LevelFilter::DEBUG)
        .with_writer(io::stderr);
    // A second subscriber, as in tests that call in twice, changes nothing.
    let _ = match (format, audience) {
        (LogFormat::Json, _) => tracing::subscriber::set_global_default(builder.json().finish()),
        (LogFormat::Text, Audience::Person) => tracing::subscriber::set_global_default(
            builder.with_ansi(colour).without_time().finish(),
        ),
        (LogFormat::Text, _) => {
            tracing::subscriber::set_global_default(builder.with_ansi(false).finish())
        }
    };
}

/// The log's level. A process has one subscriber, so it has one of these.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// As [`subscribe`], with a level that [`set_level`] can change.
fn subscribe_adjustable(format: LogFormat, level: LevelFilter, audience: Audience, colour: bool) {
    let (filter, handle) = reload::Layer::new(level);
    // What is logged later may be details.
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match (format, audience) {
        (LogFormat::Json, _) => layer.json().boxed(),
        (LogFormat::Text, Audience::Person) => layer.with_ansi(colour).without_time().boxed(),
        (LogFormat::Text, _) => layer.with_ansi(false).boxed(),
    };
    let subscriber = Registry::default().with(filter).with(layer);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Sets how much is logged from now on.
pub(crate) fn set_level(level: LogLevel) -> Result<(), String> {
    let filter = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let handle = LEVEL.get().ok_or("the log's level is fixed")?;
    handle.reload(filter).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot serve")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot serve: {0}")]
    struct Quoting(#[source] io::Error);

    #[test]
    fn causes_are_said_once() {
        assert_eq!(
            chain(&Outer(io::Error::other("broken"))),
            "cannot serve: broken"
        );
        assert_eq!(
            chain(&Quoting(io::Error::other("broken"))),
            "cannot serve: broken"
        );
    }
}
