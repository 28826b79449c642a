//! The gateway as a process in a [`World`].

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::{Netns, inner_pid, only_child};
use super::{Finished, PATIENCE, World, eventually};

/// The binary under test: what cargo built, or `GW_BIN` (an installed one).
pub(crate) fn gw_binary() -> PathBuf {
    std::env::var_os("GW_BIN").map_or_else(|| env!("CARGO_BIN_EXE_gw").into(), PathBuf::from)
}

/// A running `gw --netns`.
pub(crate) struct Gw {
    starter: Child,
    pid: Pid,
    exit_fd: Option<ChildStdin>,
    log: PathBuf,
    /// From the start of the process until it said that traffic flows.
    pub(crate) ready_after: Duration,
    ended: bool,
}

/// How a gateway is started.
pub(crate) struct Launch<'a> {
    outer: &'a Netns,
    /// What comes before the binary's name, e.g. `setpriv`.
    prefix: Vec<String>,
    binary: PathBuf,
    args: Vec<String>,
}

/// Where [`World::allow_nobody`] puts the binary: folders above the real one
/// may be closed to others.
pub(crate) const NOBODY_BINARY: &str = "/run/.etc/gw";

/// Leaves nothing of root's power to a program.
pub(crate) const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
];

impl<'a> Launch<'a> {
    /// `gw` with these arguments and nothing else.
    pub(crate) fn new(outer: &'a Netns, args: &[&str]) -> Self {
        Self {
            outer,
            prefix: Vec::new(),
            binary: gw_binary(),
            args: args.iter().map(ToString::to_string).collect(),
        }
    }

    /// `gw --netns PID`, for a guest.
    pub(crate) fn netns(outer: &'a Netns, guest: &Netns, args: &[&str]) -> Self {
        let pid = guest.inner_pid().to_string();
        Self::new(outer, &[&["--netns", pid.as_str()], args].concat())
    }

    /// Puts another program in front.
    pub(crate) fn prefix(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(ToString::to_string).collect();
        self
    }

    /// Runs it as a user without any privilege; see [`World::allow_nobody`].
    pub(crate) fn by_nobody(mut self) -> Self {
        self.binary = PathBuf::from(NOBODY_BINARY);
        self.prefix(NOBODY)
    }

    /// Starts it with `--ready-fd` and `--exit-fd` and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Gw {
        match self.try_start() {
            Ok(gw) => gw,
            Err(finished) => panic!("gw did not get ready: {finished:#?}"),
        }
    }

    /// As [`Launch::start`]; returns how `gw` ended if it did not get ready.
    pub(crate) fn try_start(self) -> Result<Gw, Finished> {
        let log = self.log_path();
        let mut command = self.outer.command();
        // The ready pipe is the shell's stdout, the exit pipe its stdin.
        let redirections = format!(
            "exec \"$@\" --ready-fd 3 --exit-fd 4 3>&1 4<&0 </dev/null >{0}.out 2>{0}.err",
            log.display()
        );
        command
            .args(["sh", "-c", &redirections, "gw"])
            .args(&self.prefix)
            .arg(&self.binary)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let started = Instant::now();
        let mut starter = command.spawn().expect("nsenter");
        let pid = only_child(Pid::from_raw(
            starter.id().try_into().expect("a process id"),
        ));
        let said = first_byte(starter.stdout.take().expect("stdout is a pipe"));
        let gw = Gw {
            pid,
            exit_fd: starter.stdin.take(),
            starter,
            log: self
                .outer
                .root()
                .join(log.strip_prefix("/").expect("an absolute path")),
            ready_after: started.elapsed(),
            ended: false,
        };
        match said {
            Some(b'1') => {
                eventually("the ready pipe to be closed", PATIENCE, || {
                    // Its number may be that of something else by now.
                    let there = std::fs::read_link(format!("/proc/{pid}/fd/3"));
                    let is_pipe = there.is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
                    (!is_pipe).then_some(())
                });
                Ok(gw)
            }
            Some(other) => panic!("{other:#x} in the ready pipe instead of '1'"),
            None => Err(gw.failed(&self.args)),
        }
    }

    /// Runs it to its end, without the descriptors.
    pub(crate) fn run(self) -> Finished {
        let mut command = self.outer.command();
        command.args(["timeout", "-k", "2", "25"]);
        command
            .args(&self.prefix)
            .arg(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null());
        Finished::collect(&format!("gw {}", self.args.join(" ")), command)
    }

    fn log_path(&self) -> PathBuf {
        // In the world's own memory file system, beside its copy of /etc.
        let number = self.outer.ok("ls /run/.etc | wc -l");
        PathBuf::from(format!("/run/.etc/gw-{}", number.trim()))
    }
}

impl Gw {
    /// `gw --netns` for the world's guest.
    #[track_caller]
    pub(crate) fn attach(world: &World, args: &[&str]) -> Self {
        Launch::netns(&world.outer, &world.guest, args).start()
    }

    /// As [`Gw::attach`], for what must fail.
    #[track_caller]
    pub(crate) fn refused(world: &World, args: &[&str]) -> Finished {
        match Launch::netns(&world.outer, &world.guest, args).try_start() {
            Ok(_) => panic!("gw got ready with {args:?}"),
            Err(finished) => finished,
        }
    }

    /// What it wrote to standard error until now.
    pub(crate) fn stderr(&self) -> String {
        self.read("err")
    }

    /// What it wrote to standard output until now.
    pub(crate) fn stdout(&self) -> String {
        self.read("out")
    }

    fn read(&self, suffix: &str) -> String {
        std::fs::read_to_string(self.log.with_extension(suffix)).unwrap_or_default()
    }

    /// Process id as the world sees it.
    pub(crate) fn inner_pid(&self) -> i32 {
        inner_pid(self.pid)
    }

    /// Resident memory now, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    /// The highest resident memory until now, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_field("VmHWM:")
    }

    fn status_field(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .expect("the gateway is alive");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a field");
        line.split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    }

    /// Open descriptors, and so host sockets.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .expect("the gateway is alive")
            .count()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the gateway is alive");
    }

    /// Stops it where it is.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
        self.wake_starter();
    }

    /// `nsenter` stops with its child.
    fn wake_starter(&self) {
        let id = self.starter.id().try_into().expect("a process id");
        let _ = kill(Pid::from_raw(id), Signal::SIGCONT);
    }

    /// Closes the exit pipe.
    pub(crate) fn hang_up(&mut self) {
        self.exit_fd.take();
    }

    /// True while it runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.starter.try_wait(), Ok(None))
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let status = eventually("the gateway's end", limit, || {
            self.starter.try_wait().expect("waiting for a child")
        });
        self.ended = true;
        status
    }

    /// SIGTERM, and the end it must lead to.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.wait(Duration::from_secs(3));
        assert!(
            status.success(),
            "gw: {status} after SIGTERM; it said: {}",
            self.stderr()
        );
        self.stderr()
    }

    fn failed(mut self, args: &[String]) -> Finished {
        let status = self.wait(PATIENCE);
        Finished {
            what: format!("gw {}", args.join(" ")),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            elapsed: self.ready_after,
        }
    }
}

impl Drop for Gw {
    /// Every test is one of the clean end, too.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            eprintln!("gw wrote:\n{}{}", self.stdout(), self.stderr());
            let _ = kill(self.pid, Signal::SIGKILL);
            self.wake_starter();
            let _ = self.starter.wait();
            return;
        }
        assert!(
            self.alive(),
            "gw died during the test; it wrote:\n{}",
            self.stderr()
        );
        let _ = kill(self.pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.alive() {
            if Instant::now() > deadline {
                let _ = kill(self.pid, Signal::SIGKILL);
                let _ = self.starter.wait();
                panic!("gw did not end on SIGTERM; it wrote:\n{}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.starter.wait().expect("waiting for a child");
        assert!(
            status.success(),
            "gw: {status} on SIGTERM; it wrote:\n{}",
            self.stderr()
        );
    }
}

/// The first byte of the ready pipe; `None` when `gw` ended without one. The
/// pipe's end says nothing: `nsenter` holds it open beside `gw`.
fn first_byte(mut pipe: ChildStdout) -> Option<u8> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        let said = pipe.read_exact(&mut byte).is_ok().then_some(byte[0]);
        let _ = sender.send(said);
    });
    receiver
        .recv_timeout(PATIENCE)
        .expect("gw neither got ready nor ended")
}
