//! A guest's console: scripts go in, what they print comes out. `init` beside
//! this file is the other end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Standard input and output of the program that runs a guest.
#[derive(Debug)]
pub(crate) struct Console {
    input: ChildStdin,
    lines: Receiver<String>,
    /// Number of the last script.
    number: u32,
}

impl Console {
    /// Waits at most `limit` until the guest is up.
    pub(crate) fn start(
        input: ChildStdin,
        output: ChildStdout,
        limit: Duration,
    ) -> Result<Self, String> {
        let console = Self {
            input,
            lines: read_lines(output),
            number: 0,
        };
        console.until("::ready", limit)?;
        Ok(console)
    }

    /// Runs a shell script of one line that must succeed within `limit`, and
    /// returns what it printed, trimmed.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<String, String> {
        if script.contains('\n') {
            return Err(format!("more than one line: {script}"));
        }
        self.number += 1;
        writeln!(self.input, "{} {script}", self.number)
            .map_err(|error| format!("the guest is gone before {script}: {error}"))?;
        let (printed, status) = self
            .until(&format!("::{} ", self.number), limit)
            .map_err(|error| format!("{script}: {error}"))?;
        if status != "0" {
            return Err(format!("{script}: status {status}, printed: {printed}"));
        }
        Ok(printed)
    }

    /// What is printed before a line that starts with `mark`, and the rest of
    /// that line.
    fn until(&self, mark: &str, limit: Duration) -> Result<(String, String), String> {
        let deadline = Instant::now() + limit;
        let mut printed = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not done within {limit:?}, printed: {printed}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the guest ended, after: {printed}"));
                }
            };
            // A script's last line need not have an end.
            if let Some((before, rest)) = line.split_once(mark) {
                printed.push_str(before);
                return Ok((printed.trim().to_owned(), rest.to_owned()));
            }
            printed.push_str(&line);
            printed.push('\n');
        }
    }
}

/// Reads lines, which consoles end with a carriage return, too.
fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line).replace('\r', "");
            if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}
