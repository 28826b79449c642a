//! The terminal: taken, given back on every way out, and what comes from it.
//!
//! Keys and signals are read on threads of their own and told as events. Signals
//! that would leave the terminal as it is are blocked, and waited for instead of
//! handled. A panic gives the terminal back before its message is printed; all
//! other ways out drop a [`Screen`].

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::mem::ManuallyDrop;
use std::panic;
use std::sync::mpsc::SyncSender;
use std::thread;

use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Position;

use super::{Event, TopError};

/// Bytes collected before they are written: a frame of a large terminal.
const BUFFER: usize = 64 << 10;

/// Signals that are waited for. In raw mode none of them comes from a key.
const SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Finds out whether the terminal can be drawn on.
///
/// # Errors
/// [`TopError::NoTerminal`], [`TopError::Dumb`].
pub(super) fn check(path: &std::path::Path) -> Result<(), TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal(path.to_owned()));
    }
    match std::env::var("TERM") {
        Ok(term) if !matches!(term.as_str(), "" | "dumb") => Ok(()),
        Ok(term) => Err(TopError::Dumb(term, path.to_owned())),
        Err(_) => Err(TopError::Dumb(String::new(), path.to_owned())),
    }
}

/// The terminal while it is ours.
#[derive(Debug)]
pub(super) struct Screen {
    /// Not dropped: it would panic where it cannot say that the terminal is gone.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            give_back();
            before(what);
        }));
        let out = BufWriter::with_capacity(BUFFER, io::stdout());
        let terminal = Terminal::new(CrosstermBackend::new(out))?;
        // From here on, dropping it gives it back.
        let screen = Self {
            terminal: ManuallyDrop::new(terminal),
        };
        take()?;
        Ok(screen)
    }

    /// Shows a frame, and the cursor where `draw` says.
    pub(super) fn draw(
        &mut self,
        draw: impl FnOnce(&mut Buffer) -> Option<Position>,
    ) -> io::Result<()> {
        let drawn = self.terminal.draw(|frame| {
            if let Some(cursor) = draw(frame.buffer_mut()) {
                frame.set_cursor_position(cursor);
            }
        });
        drawn.map(drop)
    }

    /// Lets all of the next frame be written.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        // Its `clear` asks the terminal where the cursor is, and the answer would
        // come to those who read keys.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }

    /// Gives the terminal back, stops the process as Ctrl-Z does, and takes the
    /// terminal again when the shell lets it go on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        let stop = SigSet::from(Signal::SIGTSTP);
        stop.thread_unblock()?;
        raise(Signal::SIGTSTP)?;
        stop.thread_block()?;
        self.retake()
    }

    /// Takes the terminal after somebody else had it, and draws all of it anew.
    pub(super) fn retake(&mut self) -> io::Result<()> {
        // Whoever had it may have changed its mode, which is set only once.
        let _ = disable_raw_mode();
        take()?;
        self.forget()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What has not been written yet belongs on the screen that is left.
        let _ = self.terminal.backend_mut().flush();
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Nobody can be told when it fails, and there is nothing else to be done.
fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Tells of keys and sizes until the terminal ends.
pub(super) fn read_keys(events: &SyncSender<Event>) {
    loop {
        let told = match event::read() {
            Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => Event::Key(key),
            Ok(event::Event::Resize(..)) => Event::Resized,
            Ok(_) => continue,
            Err(error) => {
                let _ = events.send(Event::NoKeys(error));
                return;
            }
        };
        if events.send(told).is_err() {
            return;
        }
    }
}

/// Lets signals be waited for from now on, in this thread and those that it starts.
pub(super) fn block_signals() -> io::Result<SigSet> {
    let signals: SigSet = SIGNALS.into_iter().collect();
    signals.thread_block()?;
    Ok(signals)
}

/// Tells of signals.
pub(super) fn read_signals(signals: SigSet, events: SyncSender<Event>) -> io::Result<()> {
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().spawn(wait).map(drop)
}
