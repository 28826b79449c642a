//! `gw top`: a running gateway, live, through its control socket.
//!
//! # Theory of operation
//!
//! ```text
//!   keys ────┐                        ┌─ view: a frame
//!   signals ─┼─ events ─ main thread ─┼─ ui: what is shown, what keys do
//!   poller ──┘     ▲          │       └─ model: looks become rates
//!                  └──────────┴─ errands: kill, impair
//! ```
//!
//! Three threads wait for what may take any time (the terminal, signals, the
//! gateway) and tell the main thread, which never waits for anything else: keys are
//! heard while the gateway is silent. `model`, `order` and `ui` are pure and told
//! the time; `view` draws into a buffer. So all but the threads is tested without a
//! terminal.
//!
//! The gateway is asked once every interval: counts, then flows in pages, of which
//! [`poll::MAX_FLOWS`] are looked at. Rates come from the difference of two looks,
//! of each flow by the time its own page came.
//!
//! Names and processes are strangers' words: `text::plain` lets nothing of them
//! through that a terminal could obey.

mod input;
mod model;
mod names;
mod order;
mod poll;
#[cfg(test)]
mod samples;
mod terminal;
mod text;
mod ui;
mod view;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyEvent;
use ratatui::layout::Rect;

use self::model::Model;
use self::poll::{Poller, Update};
use self::terminal::Screen;
use self::text::Charset;
use self::ui::{Errand, Ui, Wish};
use self::view::{Theme, View};
use super::Exit;
use super::ctl::client::CtlError;
use super::messages::{Colour, colour_on, print_failure};

/// Events that wait to be seen to. Who tells of more waits.
const MAX_EVENTS: usize = 64;

/// Errands that wait for the gateway.
const MAX_ERRANDS: usize = 16;

/// How long nothing may happen before the screen is drawn again, for the sake of
/// what it says about silence.
const REDRAW_AFTER: Duration = Duration::from_secs(1);

/// Columns and lines where there is no terminal.
const PLAIN_SIZE: (u16, u16) = (80, 24);

/// Columns and lines that $COLUMNS and $LINES may ask for.
const MAX_PLAIN_SIZE: u16 = 1000;

const EXAMPLES: &str = "\
Examples:
  gw run --control $XDG_RUNTIME_DIR/gw.sock -- npm start
  gw top $XDG_RUNTIME_DIR/gw.sock              in another terminal
  gw top --interval 0.2 /run/gw.sock           five times a second
  gw top --once /run/gw.sock                   one look as plain text, for scripts

Exit status: 0 after 'q', Ctrl-C, SIGTERM or SIGHUP; 1 when something failed or the gateway has
ended; 2 for a wrong command line.
";

/// Options of `gw top`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct TopArgs {
    /// The gateway's control socket: what it was given with --control
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// Seconds between two looks at the gateway, 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Print one look as plain text and end. It takes an interval: rates need two looks. As wide
    /// and high as $COLUMNS and $LINES say [default: 80 by 24]
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| (0.1..=60.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds from 0.1 to 60, like 0.5".to_owned())
}

/// Why there is nothing (more) to see.
#[derive(Debug, thiserror::Error)]
enum TopError {
    /// The gateway cannot be asked.
    #[error(transparent)]
    Ctl(#[from] CtlError),
    /// It was there.
    #[error("the gateway at '{0}' has ended")]
    Ended(PathBuf),
    /// Standard output is something else.
    #[error(
        "standard output is no terminal; print one look with 'gw top --once {path}', or use \
         'gw ctl {path} flows' and 'gw ctl {path} --json stats'",
        path = .0.display()
    )]
    NoTerminal(PathBuf),
    /// It cannot move its cursor.
    #[error(
        "this terminal (TERM={term}) cannot be drawn on; print one look with 'gw top --once \
         {path}', or use 'gw ctl {path} flows' and 'gw ctl {path} --json stats'",
        term = .0,
        path = .1.display()
    )]
    Dumb(String, PathBuf),
    /// Anything else about it.
    #[error("cannot use the terminal: {0}")]
    Terminal(#[source] io::Error),
    /// Standard output, with `--once`.
    #[error("cannot print: {0}")]
    Print(#[source] io::Error),
}

/// What the main thread is told.
#[derive(Debug)]
enum Event {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// There are no keys any more.
    NoKeys(io::Error),
    /// A signal.
    Signal(Signal),
    /// Something about the gateway.
    Update(Update),
}

/// Runs `gw top`.
pub(super) fn run(args: &TopArgs) -> ExitCode {
    let done = if args.once { once(args) } else { live(args) };
    match done {
        Ok(()) => Exit::Success.into(),
        // Who reads has enough: `gw top --once ... | head`.
        Err(TopError::Print(e)) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Success.into(),
        Err(error) => {
            print_failure(&error.to_string());
            Exit::Failure.into()
        }
    }
}

/// Prints one frame.
fn once(args: &TopArgs) -> Result<(), TopError> {
    let (mut poller, hello) = Poller::connect(&args.path, Instant::now())?;
    let mut ui = Ui::new(Model::new(hello));
    ui.take(poller.look()?);
    thread::sleep(args.interval);
    let look = poller.look()?;
    let now = look.at;
    ui.take(look);
    let size = |name, default: u16| {
        let given = std::env::var(name).ok().and_then(|v| v.parse().ok());
        given.unwrap_or(default).min(MAX_PLAIN_SIZE)
    };
    let (columns, lines) = PLAIN_SIZE;
    let area = Rect::new(0, 0, size("COLUMNS", columns), size("LINES", lines));
    let mut buffer = Buffer::empty(area);
    let view = View {
        theme: theme(Colour::Off),
        interval: args.interval,
        now,
    };
    view.draw_plain(&mut ui, &mut buffer);
    io::stdout()
        .write_all(view::lines(&buffer).as_bytes())
        .map_err(TopError::Print)
}

fn theme(colour: Colour) -> Theme {
    Theme {
        colour,
        charset: Charset::of_locale(),
    }
}

/// Shows frames until somebody has enough.
fn live(args: &TopArgs) -> Result<(), TopError> {
    terminal::check(&args.path)?;
    let started = Instant::now();
    // What fails at once is told without touching the terminal.
    let (poller, hello) = Poller::connect(&args.path, started)?;
    let (events, told) = sync_channel(MAX_EVENTS);
    let (errands, errands_there) = sync_channel(MAX_ERRANDS);
    // Before any thread: all threads have them blocked then.
    let signals = terminal::block_signals().map_err(TopError::Terminal)?;
    terminal::read_signals(signals, events.clone()).map_err(TopError::Terminal)?;
    let screen = Screen::take().map_err(TopError::Terminal)?;
    let (keys, updates, interval) = (events.clone(), events, args.interval);
    spawn(move || terminal::read_keys(&keys))?;
    spawn(move || poller.serve(interval, &errands_there, &updates))?;
    let app = App {
        ui: Ui::new(Model::new(hello)),
        screen,
        errands,
        started,
        interval,
        theme: theme(colour_on(&io::stdout())),
    };
    app.run(&told)
}

/// A thread that ends with the program.
fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), TopError> {
    let spawned = thread::Builder::new().spawn(work);
    spawned.map(drop).map_err(TopError::Terminal)
}

/// The main thread's.
struct App {
    ui: Ui,
    screen: Screen,
    errands: SyncSender<Errand>,
    started: Instant,
    interval: Duration,
    theme: Theme,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

impl App {
    fn run(mut self, events: &Receiver<Event>) -> Result<(), TopError> {
        loop {
            self.draw().map_err(TopError::Terminal)?;
            let first = events.recv_timeout(REDRAW_AFTER).ok();
            // Whatever else is there: one frame shows all of it.
            let more = std::iter::from_fn(|| events.try_recv().ok()).take(MAX_EVENTS);
            for event in first.into_iter().chain(more) {
                if self.see_to(event)? == Next::Stop {
                    return Ok(());
                }
            }
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let view = View {
            theme: self.theme,
            interval: self.interval,
            now: self.started.elapsed(),
        };
        let ui = &mut self.ui;
        self.screen.draw(|buffer| view.draw(ui, buffer))
    }

    fn see_to(&mut self, event: Event) -> Result<Next, TopError> {
        match event {
            Event::Key(key) => return self.key(key),
            Event::Resized => {}
            Event::NoKeys(error) => return Err(TopError::Terminal(error)),
            Event::Signal(Signal::SIGCONT) => {
                self.screen.retake().map_err(TopError::Terminal)?;
            }
            Event::Signal(Signal::SIGTSTP) => {
                self.screen.suspend().map_err(TopError::Terminal)?;
            }
            Event::Signal(_) => return Ok(Next::Stop),
            Event::Update(Update::Look(look)) => self.ui.take(*look),
            Event::Update(Update::Again(hello)) => self.ui.start_again(Model::new(*hello)),
            Event::Update(Update::Said(text)) => self.ui.say(text),
            Event::Update(Update::Gone(error)) => return Err(error),
        }
        Ok(Next::Go)
    }

    fn key(&mut self, key: KeyEvent) -> Result<Next, TopError> {
        match self.ui.key(key) {
            Wish::None => {}
            Wish::Quit => return Ok(Next::Stop),
            Wish::Suspend => self.screen.suspend().map_err(TopError::Terminal)?,
            Wish::Redraw => self.screen.forget().map_err(TopError::Terminal)?,
            Wish::Tell(errand) => match self.errands.try_send(errand) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.ui
                        .say("the gateway has not answered yet; try again".to_owned());
                }
                // Its last words are among the events.
                Err(TrySendError::Disconnected(_)) => {}
            },
        }
        Ok(Next::Go)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_bounds() {
        for (text, millis) in [("1", 1000), ("0.1", 100), ("60", 60_000)] {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["0", "0.09", "61", "-1", "NaN", "inf", "", "x", "1s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
