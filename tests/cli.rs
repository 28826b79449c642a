//! The program from outside: exit statuses, messages, what the command finds,
//! and how it all ends. Needs root, to make namespaces and to become others.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GW: &str = env!("CARGO_BIN_EXE_gw");

/// Says loudly that a test did not run.
macro_rules! need_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make namespaces; run the tests with sudo");
            return;
        }
    };
}

fn gw(line: &[&str]) -> Output {
    Command::new(GW)
        .args(line)
        .stdin(Stdio::null())
        .output()
        .expect("gw runs")
}

fn sh(options: &[&str], script: &str) -> Output {
    gw(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("pid"))
}

/// Waits at most `limit` for the end; kills it and panics then.
fn ends_within(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    panic!("still running after {limit:?}");
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "not so after 5 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pipe whose ends both are inherited by children only where told to.
fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe")
}

/// Has `command` inherit `fd` as descriptor `number`.
fn inherit(command: &mut Command, fd: &OwnedFd, number: i32) {
    let from = fd.as_raw_fd();
    // SAFETY: dup2 is async-signal-safe; the result is a plain descriptor that
    // is left open for the program executed.
    unsafe {
        command.pre_exec(move || match libc::dup2(from, number) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

#[test]
fn wrong_command_lines_end_with_2() {
    for (line, part) in [
        (&["--netns"][..], "a value is required"),
        (&[], "\n  gw run -- CMD ARGS...  "),
        (&["--mtu", "1500"], "say what to connect"),
        (
            &["--netns", "1", "--no-ipv4", "--no-ipv6"],
            "Leave one of the two out.",
        ),
        (
            &["--netns", "1", "--mtu", "9"],
            "an MTU of 9 is not possible; choose 68 to 65520 bytes",
        ),
        (&["run", "--nonsense"], "unexpected argument '--nonsense'"),
    ] {
        let output = gw(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(err(&output).contains(part), "{line:?}: {}", err(&output));
        assert_eq!(out(&output), "", "{line:?}");
    }
}

#[test]
fn help_and_version() {
    let help = gw(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for part in [
        "Examples:",
        "--host-loopback [<PORTS>]",
        "[default: 256M]",
        "Exit status:",
    ] {
        assert!(out(&help).contains(part), "{part}");
    }
    assert!(out(&gw(&["run", "--help"])).contains("gw run [OPTIONS] [-- CMD ARGS...]"));
    let version = gw(&["--version"]);
    assert_eq!(out(&version), format!("gw {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_status_is_the_commands() {
    need_root!();
    assert_eq!(sh(&[], "exit 7").status.code(), Some(7));
    assert_eq!(sh(&[], "kill -KILL $$").status.code(), Some(128 + 9));
    let missing = gw(&["run", "--", "gw-no-such-command"]);
    assert_eq!(missing.status.code(), Some(127));
    assert_eq!(
        err(&missing),
        "gw: error: cannot run 'gw-no-such-command': there is no such command; \
         check its name and PATH\n"
    );
    let denied = gw(&["run", "--", "/etc/passwd"]);
    assert_eq!(denied.status.code(), Some(126));
    assert!(err(&denied).contains("cannot run '/etc/passwd': Permission denied"));
}

#[test]
fn the_command_finds_a_network_and_a_resolver() {
    need_root!();
    let before = fs::read_to_string("/etc/resolv.conf").ok();
    let output = sh(
        &[
            "--cidr",
            "192.168.77.0/24",
            "--search",
            "a.example",
            "--ndots",
            "2",
            "--mtu",
            "9000",
        ],
        "ip -o addr show tap0; cat /etc/resolv.conf; ip -o link show tap0",
    );
    let text = out(&output);
    assert_eq!(err(&output), "");
    for part in [
        "192.168.77.100/24",
        "fd00::100/64",
        "nameserver 192.168.77.3\nnameserver fd00::3\nsearch a.example\noptions ndots:2\n",
        "mtu 9000",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        fs::read_to_string("/etc/resolv.conf").ok(),
        before,
        "the host's is as it was"
    );
    let output = sh(&["--no-dns"], "cat /etc/resolv.conf");
    assert_eq!(Some(out(&output)), before);
}

#[test]
fn nothing_of_ours_is_inherited() {
    need_root!();
    let list = |line: &[&str]| {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).stdin(Stdio::null());
        let output = command.output().expect("runs");
        out(&output).split_whitespace().count()
    };
    let script = "ls /proc/self/fd; grep -c . /dev/null; ulimit -n; grep Sig[BI] /proc/self/status";
    let plain = list(&["sh", "-c", script]);
    assert_eq!(list(&[GW, "run", "--", "sh", "-c", script]), plain);
    let status = |line: &[&str]| {
        let output = Command::new(line[0])
            .args(&line[1..])
            .output()
            .expect("runs");
        out(&output)
    };
    let script = "ulimit -n; grep -E 'SigBlk|SigIgn' /proc/self/status";
    assert_eq!(
        status(&[GW, "run", "--", "sh", "-c", script]),
        status(&["sh", "-c", script])
    );
}

#[test]
fn root_or_the_same_user_inside() {
    need_root!();
    let nobody = |options: &str| {
        // A mount namespace with a TUN device that everybody may use.
        let script = format!(
            "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
             cp {GW} /dev/net/gw && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
             /dev/net/gw run {options} -- sh -c 'id -u; id -g; cat /etc/resolv.conf; ip -o addr'"
        );
        Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .output()
            .expect("unshare")
    };
    let same = nobody("");
    assert!(
        out(&same).starts_with("65534\n65534\n# Made by gw"),
        "{same:?}"
    );
    assert!(out(&same).contains("10.0.2.100/24"), "{same:?}");
    let root = nobody("--map-root");
    assert!(out(&root).starts_with("0\n0\n# Made by gw"), "{root:?}");
    assert!(out(&root).contains("fd00::100/64"), "{root:?}");
}

#[test]
fn what_is_missing_is_named_and_nothing_is_left() {
    need_root!();
    let in_namespace = |script: &str| {
        Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .output()
            .expect("unshare")
    };
    let run = format!("{GW} run --pid-file /dev/net/pid -- true");
    let missing = in_namespace(&format!(
        "mount -t tmpfs none /dev/net && {run}; ls /dev/net"
    ));
    assert_eq!(
        err(&missing),
        "gw: error: /dev/net/tun is missing; load the module with 'modprobe tun', \
         or pass the device into this container\n"
    );
    assert_eq!(out(&missing), "", "the pid file is gone again");
}

/// Runs `script` in a mount namespace whose /etc is a copy that may be changed
/// and whose TUN device is for everybody; `$AS $RUN` is `gw run` by the user of
/// that number, without its warning that pings may not work.
fn with_etc(user: u32, script: &str) -> Output {
    let script = format!(
        "set -e
         mount -t tmpfs none /mnt && cp -a /etc/passwd /etc/group /mnt
         mount --bind /mnt /etc && rm -rf /etc/resolv.conf
         mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && cp {GW} /dev/net/gw
         RUN='/dev/net/gw run --no-icmp'; AS='setpriv --reuid {user} --regid {user} --clear-groups'
         {script}"
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .expect("unshare");
    assert!(output.status.success(), "user {user}: {output:?}");
    assert_eq!(err(&output), "", "user {user}");
    output
}

const ROOT_AND_NOBODY: [u32; 2] = [0, 65534];

#[test]
fn a_resolv_conf_replaced_on_the_host_does_not_show() {
    need_root!();
    for user in ROOT_AND_NOBODY {
        let output = with_etc(
            user,
            "echo nameserver 192.0.2.1 > /etc/resolv.conf; mkfifo -m 666 /dev/net/go /dev/net/up
             $AS $RUN -- sh -c 'cat /etc/resolv.conf; echo > /dev/net/up; read x < /dev/net/go;
                echo again; cat /etc/resolv.conf' & read x < /dev/net/up
             for i in 1 2 3; do
                echo nameserver 198.51.100.1 > /etc/new; mv /etc/new /etc/resolv.conf
             done
             rm /etc/resolv.conf; echo > /dev/net/go; wait $!; test ! -e /etc/resolv.conf",
        );
        let text = out(&output);
        let (before, after) = text.split_once("again\n").expect("both");
        assert!(before.contains("nameserver 10.0.2.3"), "{user}: {text}");
        assert_eq!(before, after, "user {user}");
    }
}

#[test]
fn a_resolv_conf_that_is_missing_or_a_link_is_no_obstacle() {
    need_root!();
    for user in ROOT_AND_NOBODY {
        for prepare in [
            "",
            "ln -s /nowhere/resolv.conf /etc/resolv.conf",
            "mount -t tmpfs none /run; mkdir -p /run/systemd/resolve
             echo nameserver 127.0.0.53 > /run/systemd/resolve/stub-resolv.conf
             ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
        ] {
            let output = with_etc(
                user,
                &format!(
                    "{prepare}
                     ls -l /etc > /dev/net/before; $AS $RUN -q --dns 192.0.2.1 -- \
                        sh -c 'cat /etc/resolv.conf; cd /etc; cat resolv.conf passwd > /dev/null'
                     ls -l /etc > /dev/net/after; cmp /dev/net/before /dev/net/after
                     cd /etc; $AS $RUN -q --dns 192.0.2.1 -- cat resolv.conf"
                ),
            );
            let said = out(&output).matches("nameserver 10.0.2.3\n").count();
            assert_eq!(said, 2, "user {user}, {prepare}: {}", out(&output));
        }
    }
}

#[test]
fn writes_to_etc_never_seem_to_reach_the_host() {
    need_root!();
    for user in ROOT_AND_NOBODY {
        let output = with_etc(
            user,
            "echo nameserver 192.0.2.1 > /etc/resolv.conf
             $AS $RUN -- sh -c 'touch /etc/x 2> /dev/null || echo refused
                echo nameserver 192.0.2.9 > /etc/resolv.conf; cat /etc/resolv.conf'
             $AS $RUN --map-root -- sh -c 'echo y > /etc/x; cat /etc/x
                echo nameserver 192.0.2.8 > /etc/y; mv /etc/y /etc/resolv.conf; cat /etc/resolv.conf'
             test ! -e /etc/x; cat /etc/resolv.conf",
        );
        assert_eq!(
            out(&output),
            "refused\nnameserver 192.0.2.9\ny\nnameserver 192.0.2.8\nnameserver 192.0.2.1\n",
            "user {user}"
        );
    }
    // Who asks for no resolver has the host's /etc.
    with_etc(0, "$AS $RUN --no-dns -- touch /etc/x; test -e /etc/x");
}

#[test]
fn files_mounted_below_etc_stay_where_they_are() {
    need_root!();
    // As in a container: no overlay, for it would lack them.
    for user in ROOT_AND_NOBODY {
        let output = with_etc(
            user,
            "echo nameserver 192.0.2.1 > /etc/resolv.conf; touch /etc/hosts
             echo mounted > /dev/net/hosts; mount --bind /dev/net/hosts /etc/hosts
             $AS $RUN -- cat /etc/hosts /etc/resolv.conf",
        );
        assert!(
            out(&output).starts_with("mounted\n# Made by gw"),
            "user {user}: {}",
            out(&output)
        );
    }
}

#[test]
fn an_outbound_address_that_is_not_here_is_named_first() {
    need_root!();
    let guest = Guest::new();
    let netns = guest.pid();
    for (option, value) in [
        ("--outbound-addr", "192.0.2.77"),
        ("--outbound-addr", "gw-none0"),
        ("--outbound-addr6", "2001:db8::77"),
        ("--outbound-addr6", "gw-none0"),
    ] {
        let dir = tempfile::tempdir().expect("directory");
        let pid_file = dir.path().join("pid");
        let pid_file = pid_file.to_str().expect("text");
        let common = [option, value, "--pid-file", pid_file];
        for line in [
            [&["--netns", &netns], &common[..]].concat(),
            [&["run"], &common[..], &["--", "echo", "started"]].concat(),
        ] {
            let output = gw(&line);
            assert_eq!(output.status.code(), Some(1), "{line:?}");
            let said = err(&output);
            assert_eq!(said.lines().count(), 1, "{line:?}: {said}");
            assert!(said.starts_with("gw: error: "), "{line:?}: {said}");
            assert!(said.contains(value), "{line:?}: {said}");
            assert_eq!(out(&output), "", "{line:?}: the command did not start");
            assert!(!Path::new(pid_file).exists(), "{line:?}");
        }
    }
    let left = Command::new("nsenter")
        .args(["-t", &netns, "-n", "ip", "link", "show", "tap0"])
        .output()
        .expect("nsenter");
    assert!(!left.status.success(), "the TAP is gone");
}

#[test]
fn signals_at_any_moment_of_the_start_leave_no_pid_file() {
    need_root!();
    let guest = Guest::new();
    let dir = tempfile::tempdir().expect("directory");
    let pid_file = dir.path().join("pid");
    // Right when it says that it is ready, it ends as it should.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for _ in 0..5 {
            let options = ["-q", "--netns", &guest.pid(), "--pid-file"];
            let mut child = serving(&[&options[..], &[pid_file.to_str().expect("text")]].concat());
            kill(pid(&child), signal).expect("kill");
            let status = ends_within(&mut child, Duration::from_secs(1));
            assert_eq!(status.code(), Some(0), "{signal}");
            assert!(!pid_file.exists());
        }
    }
    // Before, it may end of the signal itself, but leaves nothing either.
    for delay in (0..4000).step_by(200).map(Duration::from_micros) {
        let mut command = Command::new(GW);
        command.args(["-q", "--netns", &guest.pid(), "--pid-file"]);
        let mut child = command.arg(&pid_file).spawn().expect("gw");
        std::thread::sleep(delay);
        kill(pid(&child), Signal::SIGINT).expect("kill");
        let status = ends_within(&mut child, Duration::from_secs(2));
        assert!(
            matches!(status.code(), Some(0) | None),
            "{delay:?}: {status}"
        );
        assert!(!pid_file.exists(), "{delay:?}");
    }
}

#[test]
fn a_speed_test_that_is_killed_leaves_no_process() {
    need_root!();
    let mut child = Command::new(GW)
        .args(["speedtest", "--duration", "30"])
        .stdin(Stdio::null())
        .spawn()
        .expect("gw");
    let children =
        |of: u32| fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    // The gateway, which is single, has the client for its child.
    let gateway = || children(child.id()).trim().to_owned();
    let client = || {
        gateway()
            .parse::<u32>()
            .map_or(String::new(), children)
            .trim()
            .to_owned()
    };
    eventually("the client runs", || !client().is_empty());
    let [gateway, client] = [gateway(), client()];
    child.kill().expect("kill");
    child.wait().expect("wait");
    eventually("gateway and client are gone", || {
        [&gateway, &client].iter().all(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        })
    });
}

#[test]
fn user_namespaces_that_are_switched_off_are_named() {
    need_root!();
    // In a user namespace of its own, so that the host's setting stays.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces &&
         exec setpriv --bounding-set=-all --inh-caps=-all {GW} run -- true"
    );
    let output = Command::new("unshare")
        .args(["-Ur", "sh", "-c", &script])
        .output();
    let output = output.expect("unshare");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "gw: error: cannot make a user namespace (No space left on device); user namespaces \
         are switched off; an administrator allows them with \
         'sysctl -w user.max_user_namespaces=15000'\n"
    );
}

#[test]
fn descriptors_and_pid_file() {
    need_root!();
    let dir = tempfile::tempdir().expect("directory");
    let pid_file = dir.path().join("gw.pid");
    let (ready_read, ready_write) = pipe();
    let (exit_read, exit_write) = pipe();
    let mut command = Command::new(GW);
    command
        .args(["run", "--ready-fd", "10", "--exit-fd", "11", "--pid-file"])
        .arg(&pid_file);
    command.args([
        "--",
        "sh",
        "-c",
        "test ! -e /proc/self/fd/11 || exit 1; sleep 60",
    ]);
    inherit(&mut command, &ready_write, 10);
    inherit(&mut command, &exit_read, 11);
    let mut child = command.spawn().expect("gw");
    drop((ready_write, exit_read));
    let mut said = String::new();
    fs::File::from(ready_read)
        .read_to_string(&mut said)
        .expect("closed after the word");
    assert_eq!(said, "1");
    assert_eq!(
        fs::read_to_string(&pid_file).expect("pid file"),
        format!("{}\n", child.id())
    );

    let mut exit_write = fs::File::from(exit_write);
    exit_write.write_all(b"data is no hang-up").expect("write");
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        child.try_wait().expect("wait").is_none(),
        "data does not end it"
    );
    drop(exit_write);
    let status = ends_within(&mut child, Duration::from_secs(1));
    assert_eq!(status.code(), Some(128 + 15));
    assert!(!pid_file.exists());
}

#[test]
fn descriptors_that_cannot_be_used_are_named() {
    for (line, part) in [
        (
            &["run", "--ready-fd", "77"][..],
            "--ready-fd 77 is not open; open it before starting gw",
        ),
        (&["run", "--exit-fd", "77"], "--exit-fd 77 is not open"),
        (
            &["run", "--pid-file", "/no/such/dir/pid"],
            "cannot write the pid file '/no/such/dir/pid'",
        ),
        (
            &["run", "--ready-fd", "0"],
            "--ready-fd 0 is open for reading only",
        ),
    ] {
        let output = gw(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(err(&output).contains(part), "{line:?}: {}", err(&output));
    }
    let file = tempfile::tempfile().expect("file");
    let output = Command::new(GW)
        .args(["run", "--exit-fd", "0"])
        .stdin(file)
        .output();
    let output = output.expect("gw runs");
    assert!(
        err(&output).contains("--exit-fd 0 is a file, which never hangs up"),
        "{output:?}"
    );
}

/// Starts `gw run -- sh -c SCRIPT`, and reads lines of what it prints.
fn start(script: &str) -> (Child, impl Iterator<Item = String>) {
    let mut command = Command::new(GW);
    command.args(["run", "--", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("gw");
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    (child, lines.map(|line| line.expect("text")))
}

#[test]
fn signals_are_passed_on() {
    need_root!();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        let name = &signal.as_str()[3..];
        let script =
            format!("trap 'echo got; exit 5' {name}; echo up; while :; do sleep 0.02; done");
        let (mut child, mut lines) = start(&script);
        assert_eq!(lines.next().as_deref(), Some("up"));
        kill(pid(&child), signal).expect("kill");
        assert_eq!(lines.next().as_deref(), Some("got"), "{signal}");
        assert_eq!(
            ends_within(&mut child, Duration::from_secs(2)).code(),
            Some(5),
            "{signal}"
        );
    }
    let (mut child, mut lines) = start("echo up; exec sleep 60");
    assert_eq!(lines.next().as_deref(), Some("up"));
    kill(pid(&child), Signal::SIGTERM).expect("kill");
    assert_eq!(
        ends_within(&mut child, Duration::from_secs(2)).code(),
        Some(143)
    );
}

#[test]
fn killing_it_hard_kills_the_command() {
    need_root!();
    let (mut child, mut lines) = start("echo $$; exec sleep 60");
    let command: i32 = lines.next().expect("pid").parse().expect("number");
    child.kill().expect("kill");
    child.wait().expect("wait");
    eventually("the command is gone", || {
        !Path::new(&format!("/proc/{command}")).exists()
    });
}

#[test]
fn what_outlives_the_command_does_not_hold_it() {
    need_root!();
    let start = Instant::now();
    let output = gw(&["run", "--", "sh", "-c", "sleep 3 >/dev/null 2>&1 & exit 4"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// A terminal with `line` running in a shell of its own session.
struct Terminal {
    master: fs::File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn new(line: &str) -> Self {
        let pty = nix::pty::openpty(None, None).expect("pty");
        let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
        let mut command = Command::new("bash");
        command
            .args(["--norc", "--noprofile", "-c", line])
            .env("SHELL", "/bin/bash");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: setsid and ioctl are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("bash");
        Self {
            master: pty.master.into(),
            child,
            seen: String::new(),
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("write");
    }

    /// Reads until `text` has appeared, and forgets all up to there.
    fn expect(&mut self, text: &str) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd as _;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "no '{text}' in '{}'", self.seen);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100u8)).expect("poll") > 0 {
                let mut buf = [0; 4096];
                let n = self.master.read(&mut buf).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&buf[..n]));
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_interactive_shell_owns_the_terminal() {
    need_root!();
    let mut terminal = Terminal::new(&format!("PS1= {GW} run; echo status $?"));
    terminal.expect("A shell in a network namespace of its own: tap0 is 10.0.2.100");
    terminal.type_in("exit 4\n");
    terminal.expect("status 4");
    let mut terminal = Terminal::new(&format!(
        "env 'PS1=prompt> ' {GW} run -- bash --norc --noprofile; echo status $?"
    ));
    terminal.expect("prompt> ");
    // Ctrl-C reaches what runs in the foreground, and neither shell nor gateway.
    terminal.type_in("sh -c 'echo u''p; exec sleep 60'\n");
    terminal.expect("up\r\n");
    terminal.type_in("\x03");
    terminal.expect("prompt> ");
    // Job control works.
    terminal.type_in("sh -c 'echo u''p; exec sleep 61'\n");
    terminal.expect("up\r\n");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("prompt> ");
    terminal.type_in("kill %1; fg; ip -o addr show tap0\n");
    terminal.expect("10.0.2.100/24");
    terminal.type_in("exit 9\n");
    terminal.expect("status 9");
}

#[test]
fn ctrl_c_ends_a_plain_command_once() {
    need_root!();
    let mut terminal = Terminal::new(&format!(
        "trap : INT; {GW} run -- sh -c 'trap \"echo interrupted; exit 6\" INT; echo up; \
         while :; do sleep 0.05; done'; echo status $?"
    ));
    terminal.expect("up");
    terminal.type_in("\x03");
    terminal.expect("interrupted");
    terminal.expect("status 6");
}

#[test]
fn ctrl_z_stops_a_plain_command_and_fg_continues_it() {
    need_root!();
    let mut terminal = Terminal::new("exec env 'PS1=prompt> ' bash --norc --noprofile -i");
    terminal.expect("prompt> ");
    // It never waits for input: keys typed while a shell changes the terminal's
    // mode may be seen in either.
    terminal.type_in(&format!(
        "{GW} run -- sh -c 'while :; do echo ti''ck; sleep 0.05; done'\n"
    ));
    terminal.expect("tick\r\n");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("prompt> ");
    terminal.type_in("fg\n");
    terminal.expect("tick\r\n");
    terminal.type_in("\x03");
    terminal.expect("prompt> ");
}

#[test]
fn the_terminal_comes_back_from_a_killed_shell() {
    need_root!();
    let line = format!(
        "set -m; env 'PS1=prompt> ' {GW} run -- bash --norc --noprofile; echo status $?; read -r x; echo read $x"
    );
    let mut terminal = Terminal::new(&line);
    terminal.expect("prompt> ");
    terminal.type_in("kill -KILL $$\n");
    terminal.expect("status 137");
    terminal.type_in("something\n");
    terminal.expect("read something");
}

/// A process in a network namespace of its own.
struct Guest(Child);

impl Guest {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        child
            .stdout
            .take()
            .expect("stdout")
            .read_exact(&mut [0])
            .expect("made");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `gw` with these options, once it is ready.
fn serving(options: &[&str]) -> Child {
    let (read, write) = pipe();
    let mut command = Command::new(GW);
    command
        .args(options)
        .args(["--ready-fd", "10"])
        .stderr(Stdio::piped());
    inherit(&mut command, &write, 10);
    let child = command.spawn().expect("gw");
    drop(write);
    let mut said = String::new();
    fs::File::from(read)
        .read_to_string(&mut said)
        .expect("read");
    assert_eq!(said, "1");
    child
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut text)
        .expect("read");
    text
}

#[test]
fn signals_end_serving_in_good_order() {
    need_root!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let guest = Guest::new();
        let mut child = serving(&["--netns", &guest.pid()]);
        kill(pid(&child), signal).expect("kill");
        assert_eq!(
            ends_within(&mut child, Duration::from_secs(1)).code(),
            Some(0)
        );
        let text = said(&mut child);
        assert!(
            text.contains(&format!("serving process {}: tap0", guest.pid())),
            "{text}"
        );
        assert!(text.contains("10.0.2.100/24, gateway 10.0.2.2"), "{text}");
        let left = Command::new("nsenter")
            .args(["-t", &guest.pid(), "-n", "ip", "link", "show", "tap0"])
            .output()
            .expect("nsenter");
        assert!(!left.status.success(), "the TAP is gone");
    }
}

#[test]
fn ignored_signals_stay_ignored() {
    need_root!();
    let guest = Guest::new();
    let script = format!("trap '' HUP; exec {GW} -q --netns {}", guest.pid());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .spawn()
        .expect("sh");
    let tap_is_there = || {
        let mut ip = Command::new("nsenter");
        ip.args(["-t", &guest.pid(), "-n", "ip", "-o", "addr", "show", "tap0"]);
        out(&ip.output().expect("nsenter")).contains("10.0.2.100")
    };
    eventually("it serves", tap_is_there);
    kill(pid(&child), Signal::SIGHUP).expect("kill");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        child.try_wait().expect("wait").is_none(),
        "nohup keeps it running"
    );
    kill(pid(&child), Signal::SIGTERM).expect("kill");
    assert_eq!(
        ends_within(&mut child, Duration::from_secs(1)).code(),
        Some(0)
    );
}

#[test]
fn the_end_of_the_target_ends_it() {
    need_root!();
    let guest = Guest::new();
    let mut child = serving(&["-q", "--netns", &guest.pid()]);
    drop(guest);
    assert_eq!(
        ends_within(&mut child, Duration::from_secs(1)).code(),
        Some(0)
    );
    assert_eq!(said(&mut child), "", "-q says nothing");

    let name = format!("gw-cli-{}", std::process::id());
    let ip = |action| {
        let status = Command::new("ip")
            .args(["netns", action, &name])
            .status()
            .expect("ip");
        assert!(status.success());
    };
    for path in [name.clone(), format!("/run/netns/{name}")] {
        ip("add");
        let mut child = serving(&["--netns", &path]);
        ip("del");
        assert_eq!(
            ends_within(&mut child, Duration::from_secs(1)).code(),
            Some(0)
        );
    }
}

#[test]
fn logs_are_json_when_asked_for() {
    need_root!();
    let guest = Guest::new();
    let mut child = serving(&[
        "--netns",
        &guest.pid(),
        "--log-format",
        "json",
        "--mtu",
        "576",
    ]);
    kill(pid(&child), Signal::SIGTERM).expect("kill");
    ends_within(&mut child, Duration::from_secs(1));
    let text = said(&mut child);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(lines.iter().any(|l| l["level"] == "WARN"), "{text}");
    assert!(lines.iter().any(|l| l["level"] == "INFO"), "{text}");
    let failed = gw(&["--netns", "2147483647", "--log-format", "json"]);
    let line: serde_json::Value = serde_json::from_str(&err(&failed)).expect("JSON");
    assert_eq!(line["level"], "ERROR");
}

#[test]
fn a_person_gets_a_block_of_text() {
    need_root!();
    let guest = Guest::new();
    let mut terminal = Terminal::new(&format!("{GW} --netns {} --mtu 576", guest.pid()));
    for part in [
        "no IPv6 on the guest",
        "Serving the network namespace of process",
        "IPv4",
        "nameserver 10.0.2.3",
    ] {
        terminal.expect(part);
    }
    terminal.type_in("\x03");
    let status = ends_within(&mut terminal.child, Duration::from_secs(1));
    assert_eq!(status.code(), Some(0));
}
