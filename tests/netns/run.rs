//! `gw run`: exit statuses, signals, terminals, the command's surroundings.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{
    DNS4, Finished, GUEST4, Launch, PATIENCE, REMOTE4, REMOTE6, Running, World, eventually,
    gw_binary, require,
};

fn run(world: &World, args: &[&str]) -> Finished {
    Launch::new(&world.outer, &[&["run"], args].concat()).run()
}

/// `gw run` beside the test.
fn spawn(world: &World, args: &str) -> Running {
    world
        .outer
        .spawn(&format!("{} run {args}", gw_binary().display()))
}

#[test]
fn the_exit_status_is_the_commands() {
    let world = World::new();
    for status in [0, 1, 7, 255] {
        assert_eq!(
            run(&world, &["--", "sh", "-c", &format!("exit {status}")]).code(),
            status
        );
    }
}

#[test]
fn a_signals_status_is_128_and_its_number() {
    let world = World::new();
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("HUP", 129)] {
        let finished = run(&world, &["--", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(
            finished.status.code(),
            Some(status),
            "{signal}: {finished:?}"
        );
    }
}

#[test]
fn a_command_that_does_not_exist_is_127_and_one_that_cannot_run_126() {
    let world = World::new();
    let finished = run(&world, &["--", "no-such-program"]);
    assert_eq!(finished.code(), 127, "{finished:?}");
    finished.says("no-such-program");
    world.outer.ok("touch /run/plain; chmod 644 /run/plain");
    let finished = run(&world, &["--", "/run/plain"]);
    assert_eq!(finished.code(), 126, "{finished:?}");
    finished.says("/run/plain");
}

#[test]
fn input_and_output_are_the_commands_own() {
    let world = World::new();
    let gw = gw_binary();
    let out = world.outer.ok(&format!(
        "seq 100000 | {} run -- tac | tac | md5sum",
        gw.display()
    ));
    assert_eq!(out, world.outer.ok("seq 100000 | md5sum"));
    let finished = run(&world, &["--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn arguments_and_environment_arrive_as_given() {
    let world = World::new();
    let finished = run(
        &world,
        &["--", "printf", "[%s]", "a b", "", "--mtu", "$HOME", "ä"],
    );
    assert_eq!(finished.success().stdout, "[a b][][--mtu][$HOME][ä]");
    let gw = gw_binary();
    let out = world.outer.ok(&format!(
        "COLOUR=blue {} run -- printenv COLOUR",
        gw.display()
    ));
    assert_eq!(out, "blue\n");
}

#[test]
fn the_command_has_a_network() {
    require("curl");
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let shown = run(&world, &["--", "ip", "addr", "show", "dev", "tap0"]).success();
    shown.says(&format!("inet {GUEST4}/24"));
    for at in [REMOTE4, "www.example"] {
        let finished = run(
            &world,
            &[
                "--",
                "python3",
                "-c",
                &format!(
                    "import socket; s = socket.create_connection(({at:?}, 7000), 5); \
                     s.sendall(b'get 100000\\n'); s.shutdown(1); n = 0\n\
                     while d := s.recv(65536): n += len(d)\nprint(n)"
                ),
            ],
        );
        assert_eq!(finished.success().stdout, "100000\n", "{at}");
    }
    // From the first instruction on: no retry, no wait.
    for _ in 0..3 {
        run(
            &world,
            &[
                "--",
                "curl",
                "-s",
                "--max-time",
                "5",
                &format!("http://{REMOTE6}:1/"),
            ],
        )
        .failure();
        let finished = run(
            &world,
            &[
                "--",
                "curl",
                "-sv",
                "--max-time",
                "5",
                &format!("http://[{REMOTE6}]:1/"),
            ],
        );
        assert_eq!(finished.code(), 7, "{finished:?}");
        finished.says("refused");
    }
}

#[test]
fn the_command_has_a_resolv_conf_of_its_own() {
    let world = World::new();
    world.set_resolv_conf("search corp.example\nnameserver 192.0.2.1\n");
    let finished = run(&world, &["--", "cat", "/etc/resolv.conf"]).success();
    finished
        .says(&format!("nameserver {DNS4}"))
        .lacks("192.0.2.1");
    assert!(
        world
            .outer
            .ok("cat /etc/resolv.conf")
            .contains("nameserver 192.0.2.1")
    );
    // Without a resolver there is nothing to say: the host's file is seen.
    run(&world, &["--no-dns", "--", "cat", "/etc/resolv.conf"])
        .success()
        .lacks(DNS4);
}

#[test]
fn the_commands_resolv_conf_survives_a_change_of_the_hosts() {
    // Replacing a file by rename takes away mounts upon it in other namespaces.
    let world = World::new();
    let mut command = spawn(
        &world,
        "-- sh -c 'echo up; read line; cat /etc/resolv.conf'",
    );
    command.wait_line("up");
    world.set_resolv_conf("nameserver 198.51.100.1\n");
    command.write(b"\n");
    let text = command.done();
    assert!(text.contains(DNS4), "{text}");
}

#[test]
fn a_resolv_conf_that_is_a_dangling_link_is_no_obstacle() {
    let world = World::new();
    world
        .outer
        .ok("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf");
    let finished = run(&world, &["--dns", REMOTE4, "--", "cat", "/etc/resolv.conf"]);
    finished.success().says(DNS4);
}

#[test]
fn identity_is_kept_or_root() {
    let world = World::new();
    assert_eq!(
        run(&world, &["--map-root", "--", "id", "-u"])
            .success()
            .stdout,
        "0\n"
    );
    if !world.allow_nobody() {
        return;
    }
    let as_nobody = |args: &[&str]| Launch::new(&world.outer, args).by_nobody().run().success();
    let kept = as_nobody(&["run", "--", "sh", "-c", "id -u; id -g"]);
    assert_eq!(kept.stdout, "65534\n65534\n");
    let root = as_nobody(&["run", "--map-root", "--", "sh", "-c", "id -u; id -g"]);
    assert_eq!(root.stdout, "0\n0\n");
}

#[test]
fn a_user_without_privilege_is_enough() {
    require("curl");
    require("ping");
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    let _server = world.remote.serve(
        "from http.server import *
class Handler(BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'hello')
    def log_message(self, *a): pass
class Server(ThreadingHTTPServer): address_family = AF_INET6
server = Server(('::', 8080), Handler)
ready()
server.serve_forever()",
    );
    let as_nobody = |command: &[&str]| {
        Launch::new(&world.outer, &[&["run", "--"], command].concat())
            .by_nobody()
            .run()
            .success()
    };
    for url in [
        format!("http://{REMOTE4}:8080/"),
        format!("http://[{REMOTE6}]:8080/"),
    ] {
        assert_eq!(
            as_nobody(&["curl", "-sSf", "--max-time", "5", &url]).stdout,
            "hello"
        );
    }
    as_nobody(&["ping", "-n", "-c", "1", "-W", "3", REMOTE4]);
}

/// What `command` prints without a gateway around it, to compare with.
fn bare(world: &World, command: &[&str]) -> String {
    let mut bare = world.outer.command();
    bare.args(["timeout", "-k", "2", "25"])
        .args(command)
        .stdin(std::process::Stdio::null());
    Finished::collect("the bare command", bare).success().stdout
}

#[test]
fn the_command_gets_no_descriptors_of_the_gateway() {
    let world = World::new();
    let command = ["ls", "/proc/self/fd"];
    let finished = run(&world, &[&["--"], &command[..]].concat()).success();
    assert_eq!(finished.stdout, bare(&world, &command));
}

#[test]
fn the_command_starts_with_the_signals_of_the_caller() {
    let world = World::new();
    let command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let finished = run(&world, &[&["--"], &command[..]].concat()).success();
    assert_eq!(finished.stdout, bare(&world, &command));
}

#[test]
fn signals_are_forwarded() {
    let world = World::new();
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGQUIT, "QUIT"),
    ] {
        let mut command = spawn(
            &world,
            &format!("-- sh -c 'trap \"exit 42\" {name}; echo up; while :; do sleep 0.05; done'"),
        );
        command.wait_line("up");
        command.signal(signal);
        let (status, _) = command.finish(PATIENCE);
        assert_eq!(status.code(), Some(42), "{name}");
    }
}

#[test]
fn killing_the_gateway_hard_ends_the_command() {
    let world = World::new();
    let state = world.host_state();
    let mut command = spawn(&world, "-- sh -c 'echo up; exec sleep 1000'");
    command.wait_line("up");
    command.signal(Signal::SIGKILL);
    eventually("the end of everything", PATIENCE, || {
        world.processes().is_empty().then_some(())
    });
    assert_eq!(world.host_state(), state);
}

#[test]
fn nothing_is_left_after_the_command() {
    let world = World::new();
    let state = world.host_state();
    run(&world, &["--", "true"]).success();
    assert_eq!(world.host_state(), state);
    assert_eq!(world.processes(), Vec::<String>::new());
}

#[test]
fn what_the_command_leaves_behind_does_not_hold_it_up() {
    let world = World::new();
    run(
        &world,
        &["--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 3"],
    )
    .within(Duration::from_secs(5));
}

/// Runs `script` (Python, with `pid` and `fd` of a terminal on which
/// `gw run ARGS` runs, and `expect(text)`).
fn on_a_terminal(world: &World, args: &str, script: &str) {
    world.outer.py(&format!(
        "import pty, shlex
pid, fd = pty.fork()
if pid == 0:
    os.execv({gw:?}, [{gw:?}, 'run'] + shlex.split({args:?}))
seen = b''
def expect(text):
    global seen
    end = time.monotonic() + 10
    while text.encode() not in seen:
        left = end - time.monotonic()
        if left < 0 or not select.select([fd], [], [], left)[0]:
            raise TimeoutError(f'no {{text!r}} in {{seen!r}}')
        try: part = os.read(fd, 4096)
        except OSError: part = b''
        if not part: raise EOFError(f'no {{text!r}} in {{seen!r}}')
        seen += part
    seen = seen[seen.index(text.encode()) + len(text):]
def type_in(text): os.write(fd, text.encode())
def status():
    end = time.monotonic() + 10
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        select.select([], [], [], 0.01)
        if select.select([fd], [], [], 0)[0]:
            try: os.read(fd, 4096)
            except OSError: pass
    raise TimeoutError('gw run does not end')
{script}",
        gw = gw_binary().display().to_string(),
    ));
}

#[test]
fn ctrl_c_reaches_the_command_and_not_the_gateway() {
    let world = World::new();
    on_a_terminal(
        &world,
        "-- sh -c 'trap \"echo caught\" INT; echo up; while ! read line; do :; done; exit 42'",
        "expect('up')
type_in('\\x03')
expect('caught')
type_in('go on\\n')
got = status()
assert got == 42, got",
    );
}

#[test]
fn ctrl_c_ends_a_plain_command() {
    let world = World::new();
    on_a_terminal(
        &world,
        "-- sh -c 'echo up; exec sleep 100'",
        "expect('up')
type_in('\\x03')
got = status()
assert got in (130, -2), got",
    );
}

#[test]
fn a_shell_has_job_control() {
    let world = World::new();
    on_a_terminal(
        &world,
        "-- bash --norc --noprofile -i",
        "type_in('PS1=prompt:; echo $((40 + 2))\\n')
expect('42')
type_in('sleep 77\\n')
time.sleep(0.5)
type_in('\\x1a')
expect('Stopped')
type_in('jobs\\n')
expect('sleep 77')
type_in('kill %1; stty size; exit 5\\n')
got = status()
assert got == 5, got",
    );
}

#[test]
fn the_users_shell_is_the_default() {
    let world = World::new();
    world.outer.py(&format!(
        "os.environ['SHELL'] = '/bin/sh'
import subprocess
got = subprocess.run([{gw:?}, 'run'], input=b'echo from $0; exit 9\\n', capture_output=True)
assert got.returncode == 9 and b'from' in got.stdout and b'sh' in got.stdout, got",
        gw = gw_binary().display().to_string(),
    ));
}

#[test]
fn speedtest_needs_nothing_else() {
    // Not even the host's own network: only loopback is there.
    let world = World::new();
    world.outer.ok("ip link del veth0");
    let args = ["speedtest", "--duration", "0.2", "--json"];
    let check = |finished: Finished| {
        let json = finished.success().stdout;
        assert!(json.trim_start().starts_with('{'), "{json}");
        world
            .outer
            .py(&format!("import json; assert json.loads({json:?})"));
    };
    check(Launch::new(&world.outer, &args).run());
    check(Launch::new(&world.outer, &[&args[..], &["--ipv6"]].concat()).run());
    if world.allow_nobody() {
        check(Launch::new(&world.outer, &args).by_nobody().run());
    }
}
