//! A network namespace held open by a process, and programs inside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATH, PATIENCE, eventually, scripts_dir};

/// Longest that a program started with [`Netns::sh`] may run. Kept below the
/// runner's limit per test, so that the failure says which program it was.
const COMMAND_SECONDS: u32 = 25;

/// A namespace and the process that keeps it alive.
///
/// The keeper reads a pipe of ours and ends with it; the outer namespace's
/// keeper is the first process of a PID namespace, so that everything that was
/// ever started in a world ends with the test, however the test ends.
pub(crate) struct Netns {
    /// The program and arguments that lead inside, from this process's namespaces.
    enter: Vec<String>,
    /// The keeper as this process sees it.
    pid: Pid,
    /// `nsenter` or `unshare`, with the pipe whose end stops the keeper.
    starter: Child,
}

/// The user namespace of a [`Netns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    /// The machine's.
    Same,
    /// One whose root is the user that runs the tests.
    Ours,
    /// One whose root is somebody else.
    Other,
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The command, for messages.
    pub(super) what: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Finished {
    /// Waits for `child` and collects what it printed.
    pub(crate) fn collect(what: &str, mut command: Command) -> Self {
        let started = Instant::now();
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        let finished = Self {
            what: what.to_owned(),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: started.elapsed(),
        };
        assert!(
            finished.status.code() != Some(124),
            "timed out after {COMMAND_SECONDS} s: {what}\n{finished:#?}"
        );
        finished
    }

    /// The exit status, 128+n for a signal.
    pub(crate) fn code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|n| 128 + n))
            .unwrap_or(-1)
    }

    /// Panics unless the program succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "failed: {}\n{self:#?}", self.what);
        self
    }

    /// Panics unless the program failed.
    #[track_caller]
    pub(crate) fn failure(self) -> Self {
        assert!(
            !self.status.success(),
            "unexpected success: {}\n{self:#?}",
            self.what
        );
        self
    }

    /// Panics unless the program's output contains `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in {self:#?}"
        );
        self
    }

    /// Panics if the program's output contains `text`.
    #[track_caller]
    pub(crate) fn lacks(self, text: &str) -> Self {
        assert!(
            !self.stdout.contains(text) && !self.stderr.contains(text),
            "{text:?} in {self:#?}"
        );
        self
    }

    /// Panics unless the program ended within `limit`.
    #[track_caller]
    pub(crate) fn within(self, limit: Duration) -> Self {
        assert!(
            self.elapsed <= limit,
            "took longer than {limit:?}: {self:#?}"
        );
        self
    }
}

impl User {
    /// What `nsenter` is told of it.
    fn options(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Ours => "--user --preserve-credentials",
            Self::Other => "--user",
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// A program that runs beside the test; killed when dropped.
pub(crate) struct Running {
    what: String,
    starter: Child,
    pid: Pid,
    lines: Receiver<String>,
    seen: String,
}

impl Netns {
    /// Starts `script` through `unshare`, which must put it into new namespaces
    /// (a PID namespace among them); the script has the namespaces once it
    /// printed `ready`, and then becomes the keeper.
    pub(super) fn hold(unshare: Command, script: &str, user: User) -> Self {
        let (pid, starter) = keeper(unshare, script);
        let mut enter = words("nsenter --net --mount --pid --target");
        enter.push(pid.to_string());
        enter.extend(words(user.options()));
        Self {
            enter,
            pid,
            starter,
        }
    }

    /// As [`Netns::hold`] for namespaces within this one's.
    pub(super) fn hold_inside(&self, unshare: &[&str], script: &str, user: User) -> Self {
        let mut command = self.command();
        command.args(unshare);
        let (pid, starter) = keeper(command, script);
        // By way of this one: its PID namespace takes its own user to enter.
        let mut enter = self.enter.clone();
        enter.extend(words("-- nsenter --net --mount --target"));
        enter.push(inner_pid(pid).to_string());
        enter.extend(words(user.options()));
        Self {
            enter,
            pid,
            starter,
        }
    }

    /// A command inside the namespaces; its arguments are still to be given.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .env("TERM", "dumb")
            .args(&self.enter[1..])
            .arg("--");
        command
    }

    /// Runs a shell script to its end.
    pub(crate) fn sh(&self, script: &str) -> Finished {
        let mut command = self.command();
        command.args([
            "timeout",
            "-k",
            "2",
            &COMMAND_SECONDS.to_string(),
            "sh",
            "-c",
            script,
        ]);
        Finished::collect(script, command)
    }

    /// Runs a shell script that must succeed, and returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        self.sh(script).success().stdout
    }

    /// Runs Python with `scripts/prelude.py` in front.
    pub(crate) fn python(&self, source: &str) -> Finished {
        let seconds = COMMAND_SECONDS.to_string();
        let mut command = self.python_command(&["timeout", "-k", "2", &seconds], source);
        command.stdin(Stdio::null());
        Finished::collect(source, command)
    }

    /// Runs Python that must succeed, and returns what it printed, trimmed.
    #[track_caller]
    pub(crate) fn py(&self, source: &str) -> String {
        self.python(source).success().stdout.trim().to_owned()
    }

    fn python_command(&self, prefix: &[&str], source: &str) -> Command {
        super::require("python3");
        let mut command = self.command();
        command.args(prefix).args(["/usr/bin/python3", "-u", "-c"]);
        command.arg(format!("from prelude import *\n{source}"));
        // Set behind nsenter's back: it passes its environment on.
        command
            .env("PYTHONPATH", scripts_dir())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Starts a shell script beside the test.
    pub(crate) fn spawn(&self, script: &str) -> Running {
        let mut command = self.command();
        command.args(["sh", "-c", &format!("exec {script}")]);
        Running::start(script, command)
    }

    /// Starts Python beside the test and waits until it called `ready()`.
    pub(crate) fn serve(&self, source: &str) -> Running {
        let mut running = Running::start(source, self.python_command(&[], source));
        running.wait_line("ready");
        running
    }

    /// Starts Python beside the test without waiting for anything.
    pub(crate) fn spawn_python(&self, source: &str) -> Running {
        Running::start(source, self.python_command(&[], source))
    }

    /// Waits until something listens: `kind` is `t` or `u`, `at` what `ss` prints.
    pub(crate) fn wait_listener(&self, kind: char, at: &str) {
        eventually(&format!("a listener at {at}"), PATIENCE, || {
            self.ok(&format!("ss -H{kind}ln"))
                .contains(at)
                .then_some(())
        });
    }

    /// The keeper's process id as this process sees it.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The keeper's process id as programs of the same world see it.
    pub(crate) fn inner_pid(&self) -> i32 {
        inner_pid(self.pid)
    }

    /// The namespace's own view of the file system, from outside.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// Names of all interfaces.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let listing = self.ok("ip -br link");
        let name = |line: &str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            first.split('@').next().unwrap_or_default().to_owned()
        };
        let mut names: Vec<String> = listing.lines().map(name).collect();
        names.sort();
        names
    }

    /// Ends the keeper, and with it the namespace.
    pub(crate) fn kill(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = self.starter.wait();
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    /// Starts `command`, which must be one of [`Netns::command`].
    pub(crate) fn start(what: &str, mut command: Command) -> Self {
        let mut starter = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        let pid = only_child(Pid::from_raw(
            starter.id().try_into().expect("a process id"),
        ));
        let lines = read_lines(starter.stdout.take().expect("stdout is a pipe"));
        Self {
            what: what.to_owned(),
            starter,
            pid,
            lines,
            seen: String::new(),
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(self.pid, signal);
    }

    /// Writes to the program's standard input.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.starter.stdin.as_mut().expect("stdin is open");
        stdin
            .write_all(bytes)
            .unwrap_or_else(|error| panic!("writing to {}: {error}", self.what));
    }

    /// Waits for a line that contains `text`, and returns it.
    #[track_caller]
    pub(crate) fn wait_line(&mut self, text: &str) -> String {
        self.wait_line_for(text, PATIENCE)
    }

    /// Waits for a line that contains `text` at most `limit`, and returns it.
    #[track_caller]
    pub(crate) fn wait_line_for(&mut self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "no {text:?} within {limit:?} from {}\nseen: {}",
                        self.what, self.seen
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended without {text:?}\nseen: {}", self.what, self.seen)
                }
            }
        }
    }

    /// Everything printed until now.
    pub(crate) fn output(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        self.seen.clone()
    }

    /// Waits for the end; returns the exit status and everything printed.
    #[track_caller]
    pub(crate) fn finish(&mut self, limit: Duration) -> (ExitStatus, String) {
        self.starter.stdin.take();
        let what = self.what.clone();
        let status = eventually(&format!("the end of {what}"), limit, || {
            self.starter.try_wait().expect("waiting for a child")
        });
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        (status, self.seen.clone())
    }

    /// Waits for a successful end, and returns everything printed, trimmed.
    #[track_caller]
    pub(crate) fn done(&mut self) -> String {
        let (status, output) = self.finish(Duration::from_secs(20));
        assert!(
            status.success(),
            "{}: {status}, printed: {output}",
            self.what
        );
        output.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.starter.try_wait(), Ok(None)) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.starter.wait();
        }
    }
}

/// Runs `script` through `starter` up to its `ready`, and leaves a keeper there.
fn keeper(mut starter: Command, script: &str) -> (Pid, Child) {
    let script = format!("set -e\n{script}\necho ready\nexec cat");
    let mut starter = starter
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot make a namespace: {error}"));
    let mut line = String::new();
    let stdout = starter.stdout.take().expect("stdout is a pipe");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("reading a pipe");
    if line != "ready\n" {
        let output = starter.wait_with_output().expect("waiting for a child");
        panic!(
            "a namespace could not be set up: {}The tests need root or unprivileged user \
             namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns).",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let id = Pid::from_raw(starter.id().try_into().expect("a process id"));
    (only_child(id), starter)
}

/// A process id as the process itself sees it.
pub(super) fn inner_pid(pid: Pid) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .expect("NSpid");
    ids.split_whitespace()
        .last()
        .and_then(|id| id.parse().ok())
        .expect("a process id")
}

/// The process that `starter` forked, or `starter` itself when both have
/// already ended.
pub(super) fn only_child(starter: Pid) -> Pid {
    let path = format!("/proc/{starter}/task/{starter}/children");
    eventually("a child of nsenter or unshare", PATIENCE, || {
        let children = std::fs::read_to_string(&path).unwrap_or_default();
        let child = children
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok());
        child
            .map(Pid::from_raw)
            .or_else(|| is_zombie(starter).then_some(starter))
    })
}

fn is_zombie(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && line.contains('Z'))
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .by_ref()
            .read_until(b'\n', &mut line)
            .is_ok_and(|n| n > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}
