//! `gw top`, in a real terminal: tmux, which says what is on the screen.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::harness::ctl::{SOCKET, controlled};
use crate::harness::netns::Running;
use crate::harness::peer::tcp_server;
use crate::harness::{Gw, Launch, Netns, PATIENCE, REMOTE4, World, eventually, gw_binary, require};

/// What the shell around it prints before and behind it.
const BEFORE: &str = "printed before";

/// A terminal in the host's namespaces, with a server of its own.
struct Tmux<'a> {
    outer: &'a Netns,
    /// Of its own server: one that ends is in the way of the next for a moment.
    socket: String,
}

impl<'a> Tmux<'a> {
    /// Runs `command` by a shell that stays, and prints its exit status.
    fn run(outer: &'a Netns, size: (u16, u16), environment: &[&str], command: &str) -> Self {
        let script = format!("echo {BEFORE}; {command}; echo status $?; exec sleep 100");
        Self::start(outer, size, environment, &script)
    }

    /// Runs `gw top` with these arguments.
    fn top(outer: &'a Netns, arguments: &str) -> Self {
        let gw = gw_binary();
        let command = format!("{} top {SOCKET} {arguments}", gw.display());
        Self::run(outer, (80, 24), &["LC_ALL=C.UTF-8"], &command)
    }

    fn start(outer: &'a Netns, size: (u16, u16), environment: &[&str], script: &str) -> Self {
        require("tmux");
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let socket = format!("/run/tmux-{number}");
        let tmux = Self { outer, socket };
        let (x, y) = size;
        let variables: String = environment.iter().map(|v| format!(" -e {v}")).collect();
        let script = script.replace('\'', r"'\''");
        tmux.command(&format!(
            "new-session -d -s top -x {x} -y {y}{variables} '{script}'"
        ));
        tmux
    }

    fn command(&self, command: &str) -> String {
        let tmux = "env TERM=screen tmux -u -f /dev/null -S";
        self.outer.ok(&format!("{tmux} {} {command}", self.socket))
    }

    fn keys(&self, keys: &str) {
        self.command(&format!("send-keys -t top {keys}"));
    }

    /// Types text as it is.
    fn text(&self, text: &str) {
        self.command(&format!("send-keys -t top -l '{text}'"));
    }

    fn screen(&self) -> String {
        self.command("capture-pane -t top -p")
    }

    /// With the sequences that colour it.
    fn coloured(&self) -> String {
        self.command("capture-pane -t top -p -e")
    }

    fn resize(&self, x: u16, y: u16) {
        self.command(&format!("resize-window -t top -x {x} -y {y}"));
    }

    /// Waits until the screen is as `wanted` has it.
    #[track_caller]
    fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_long(what, PATIENCE, wanted)
    }

    #[track_caller]
    fn wait_long(&self, what: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + limit;
        while std::time::Instant::now() < deadline {
            last = self.screen();
            if wanted(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("waited in vain for {what}; the screen:\n{last}");
    }

    #[track_caller]
    fn wait(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Waits for the end, and that the terminal is as it was.
    #[track_caller]
    fn wait_for_end(&self, status: u8) -> String {
        let screen = self.wait(&format!("status {status}"));
        assert!(screen.starts_with(BEFORE), "{screen}");
        let modes = "display-message -p -t top '#{alternate_on} #{cursor_flag}'";
        assert_eq!(self.command(modes).trim(), "0 1");
        screen
    }
}

/// A flow on which nothing moves any more; prints how it ended.
fn idle(guest: &Netns) -> Running {
    guest.serve(&format!(
        "s = connect('{REMOTE4}', 7000, timeout=60); s.sendall(b'echo\\nx'); s.recv(1); ready()
print(s.getsockname()[1], flush=True); print(outcome(lambda: s.recv(1)))"
    ))
}

/// One that has a few MB/s both ways, of little load.
fn busy(guest: &Netns) -> Running {
    guest.serve(&format!(
        "s = connect('{REMOTE4}', 7000); s.sendall(b'echo\\n')
def once():
    s.sendall(b'x' * 20000); read_exactly(s, 20000)
once(); ready(); print(s.getsockname()[1], flush=True)
while True:
    once(); time.sleep(0.01)"
    ))
}

/// The port that a flow's program printed.
fn port(flow: &mut Running) -> String {
    flow.wait_line("").trim().to_owned()
}

/// The lines of flows.
fn flows(screen: &str) -> Vec<&str> {
    let lines = screen.lines().map(str::trim_start);
    let lines = lines.map(|line| line.trim_start_matches("* "));
    lines.filter(|line| line.starts_with("TCP")).collect()
}

#[test]
fn flows_are_shown_sorted_filtered_and_killed() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let mut quiet = idle(&world.guest);
    let mut fast = busy(&world.guest);
    let (quiet_port, fast_port) = (port(&mut quiet), port(&mut fast));
    let tmux = Tmux::top(&world.outer, "--interval 0.3");
    // Protocol, port, direction, remote, process, state, down, up, ...
    let screen = tmux.wait_until("a rate", |screen| {
        flows(screen).first().is_some_and(|line| {
            line.contains(&fast_port) && line.matches('k').count() + line.matches('M').count() >= 3
        })
    });
    let listed = flows(&screen);
    assert_eq!(listed.len(), 2, "{screen}");
    assert!(listed[0].contains(&format!("> {REMOTE4}:7000")), "{screen}");
    assert!(listed[0].contains("python3"), "{screen}");
    assert!(listed[1].contains(&quiet_port), "{screen}");
    for part in ["gw tap0", "2 TCP", "down", "peak", "drops", "█"] {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    // By age, the youngest first; the reverse; by rate again.
    let first = |port: &str| {
        let port = port.to_owned();
        move |screen: &str| {
            flows(screen)
                .first()
                .is_some_and(|line| line.contains(&port))
        }
    };
    tmux.keys("s s r");
    let screen = tmux.wait_until("the oldest", first(&quiet_port));
    assert!(screen.contains("sort: age reversed"), "{screen}");
    tmux.keys("s s");
    tmux.wait_until("the fastest", first(&fast_port));

    tmux.keys("/");
    tmux.text(&format!("tcp :{quiet_port}"));
    tmux.wait_until("one flow", |screen| flows(screen).len() == 1);
    tmux.keys("Enter k");
    tmux.wait("select a flow first");
    tmux.keys("Down k");
    tmux.wait(&format!(":{quiet_port} > {REMOTE4}:7000? y/n"));
    tmux.keys("n");
    tmux.wait("not killed");
    tmux.keys("k y");
    quiet.wait_line("ECONNRESET");
    tmux.wait("killed TCP");
    tmux.wait("no flow matches the filter");
    tmux.keys("/ C-u Enter");
    tmux.wait_until("the other", first(&fast_port));
    tmux.keys("q");
    tmux.wait_for_end(0);
}

#[test]
fn impairment_is_set_and_cleared() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let round_trip = || -> f64 {
        let timed = format!(
            "s = connect('{REMOTE4}', 7000); s.sendall(b'echo\\nx'); s.recv(1)
t = time.monotonic(); s.sendall(b'y'); s.recv(1); print(time.monotonic() - t)"
        );
        world.guest.py(&timed).parse().expect("seconds")
    };
    assert!(round_trip() < 0.3);
    let tmux = Tmux::top(&world.outer, "--interval 0.2");
    tmux.wait("drops");
    tmux.keys("i");
    tmux.wait("impair:");
    tmux.text("up delay=150ms; down delay=150ms; up nonsense=1");
    tmux.keys("Enter");
    // Nothing was changed, and what was typed can be mended.
    tmux.wait_until("a complaint", |screen| {
        screen.contains("nonsense") && !screen.contains("impair:")
    });
    assert!(round_trip() < 0.3);
    tmux.keys("i C-w BSpace C-w Enter");
    tmux.wait("impaired by 2 rules");
    tmux.wait("impair up delay=150ms; down delay=150ms");
    let slow = round_trip();
    assert!((0.3..1.0).contains(&slow), "{slow}");
    // What is in force is there to be changed.
    tmux.keys("i");
    tmux.wait("impair: up delay=150ms; down delay=150ms");
    tmux.keys("C-g c");
    tmux.wait("nothing is impaired");
    tmux.wait_until("no rules", |screen| !screen.contains("delay"));
    assert!(round_trip() < 0.3);
}

#[test]
fn names_that_the_guest_resolved_are_shown() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = Gw::attach(
        &world,
        &[
            "--control",
            SOCKET,
            "--host",
            &format!("www.example={REMOTE4}"),
        ],
    );
    world.guest.ok("dig +short www.example A");
    let _flow = idle(&world.guest);
    let tmux = Tmux::top(&world.outer, "");
    tmux.wait("> www.example:7000");
}

#[test]
fn any_size_will_do() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let mut flow = idle(&world.guest);
    let flow_port = port(&mut flow);
    let tmux = Tmux::top(&world.outer, "--interval 0.5");
    tmux.wait(&flow_port);
    tmux.resize(40, 10);
    let small = tmux.wait_until("ten lines", |screen| {
        screen.lines().count() <= 10 && screen.contains(REMOTE4)
    });
    assert!(
        small.lines().all(|line| line.chars().count() <= 40),
        "{small}"
    );
    tmux.resize(30, 5);
    tmux.wait("too small");
    tmux.resize(160, 50);
    let large = tmux.wait(&format!("10.0.2.100:{flow_port}"));
    assert!(large.contains("Recvd"), "{large}");
    tmux.keys("?");
    tmux.wait("kill the selected flow");
    tmux.keys("Escape");
    tmux.wait(&flow_port);
    tmux.keys("C-c");
    tmux.wait_for_end(0);
}

/// Parameters of all sequences that set colours.
fn colours(text: &str) -> Vec<String> {
    let sequences = text.split("\x1b[").skip(1);
    let parameters = sequences.filter_map(|s| s.split_once('m').map(|(first, _)| first));
    let numbers = parameters.flat_map(|all| all.split(';').map(ToOwned::to_owned));
    let is_colour = |n: &String| {
        n.parse::<u8>()
            .is_ok_and(|n| matches!(n, 30..=38 | 40..=48 | 90..=107))
    };
    numbers.filter(is_colour).collect()
}

#[test]
fn colour_is_left_out_when_it_is_not_wanted() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let _flow = busy(&world.guest);
    let gw = gw_binary();
    let command = format!("{} top --interval 0.3 {SOCKET}", gw.display());
    let tmux = Tmux::run(&world.outer, (80, 24), &["LC_ALL=C.UTF-8"], &command);
    tmux.wait("█");
    eventually("colours", PATIENCE, || {
        (!colours(&tmux.coloured()).is_empty()).then_some(())
    });
    tmux.keys("q");
    tmux.wait_for_end(0);
    tmux.command("kill-server");
    let environment = ["LC_ALL=C", "NO_COLOR=1"];
    let tmux = Tmux::run(&world.outer, (80, 24), &environment, &command);
    let screen = tmux.wait("#");
    assert!(screen.is_ascii(), "{screen}");
    assert_eq!(colours(&tmux.coloured()), Vec::<String>::new());
}

#[test]
fn the_terminal_is_given_back_on_every_way_out() {
    let world = World::new();
    let gw = controlled(&world, &[]);
    for signal in ["TERM", "HUP", "INT"] {
        let tmux = Tmux::top(&world.outer, "");
        tmux.wait("no flows");
        world
            .outer
            .ok(&format!("pkill -{signal} -f '^[^ ]*gw top '"));
        tmux.wait_for_end(0);
        tmux.command("kill-server");
    }
    let tmux = Tmux::top(&world.outer, "--interval 0.2");
    tmux.wait("no flows");
    // A line can be typed as before.
    gw.terminate();
    let screen = tmux.wait_for_end(1);
    let said = format!("gw: error: the gateway at '{SOCKET}' has ended");
    assert!(screen.contains(&said), "{screen}");
    tmux.command("kill-server");
    // A terminal that is gone leaves nobody behind.
    let _gw = controlled(&world, &[]);
    let tmux = Tmux::top(&world.outer, "");
    tmux.wait("no flows");
    tmux.command("kill-server");
    eventually("its end", PATIENCE, || {
        let found = world.outer.sh("pgrep -f '^[^ ]*gw top '");
        (found.code() == 1).then_some(())
    });
}

#[test]
fn it_can_be_stopped_and_continued() {
    let world = World::new();
    let _gw = controlled(&world, &[]);
    let tmux = Tmux::start(
        &world.outer,
        (80, 24),
        &["LC_ALL=C.UTF-8"],
        "exec env PS1=prompt: bash --norc -i",
    );
    tmux.wait("prompt:");
    let gw = gw_binary();
    let run = format!("stty -a > /run/before; {} top {SOCKET}", gw.display());
    tmux.text(&run);
    tmux.keys("Enter");
    tmux.wait("no flows");
    tmux.keys("C-z");
    tmux.wait("Stopped");
    tmux.text("stty -a > /run/stopped; echo is back");
    tmux.keys("Enter");
    tmux.wait("\nis back");
    world.outer.ok("cmp /run/before /run/stopped");
    tmux.text("fg");
    tmux.keys("Enter");
    tmux.wait("no flows");
    // Keys are heard again.
    tmux.keys("?");
    tmux.wait("kill the selected flow");
    // As somebody else's stop, too.
    world.outer.ok("pkill -TSTP -f '^[^ ]*gw top '");
    tmux.wait_until("two stops", |screen| screen.matches("Stopped").count() == 2);
    tmux.text("fg");
    tmux.keys("Enter");
    tmux.wait("kill the selected flow");
    tmux.keys("q q");
    tmux.wait_until("the prompt", |screen| {
        screen.trim_end().ends_with("prompt:")
    });
    tmux.text("stty -a > /run/after");
    tmux.keys("Enter");
    eventually("a file", PATIENCE, || {
        let compared = world.outer.sh("cmp /run/before /run/after");
        (compared.code() == 0).then_some(())
    });
}

#[test]
fn a_gateway_that_is_silent_does_not_make_it_deaf() {
    let world = World::new();
    let gw = controlled(&world, &[]);
    let tmux = Tmux::top(&world.outer, "--interval 0.2");
    tmux.wait("no flows");
    gw.pause();
    tmux.wait_long("silence to be told", Duration::from_secs(15), |screen| {
        screen.contains("NO ANSWER for")
    });
    tmux.keys("?");
    tmux.wait("kill the selected flow");
    tmux.keys("Escape");
    gw.resume();
    tmux.wait_until("answers", |screen| {
        screen.contains("no flows") && !screen.contains("NO ANSWER")
    });
    gw.pause();
    tmux.keys("q");
    tmux.wait_for_end(0);
    gw.resume();
}

#[test]
fn many_flows_are_looked_at() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let mut crowd = world.guest.serve(&format!(
        "raise_limits(); held = [connect({REMOTE4:?}, 7000) for i in range(2100)]; ready()
sys.stdin.readline()"
    ));
    let tmux = Tmux::top(&world.outer, "--interval 0.3");
    tmux.wait("of 2100 flows");
    tmux.keys("End");
    tmux.wait_until("a selected flow", |screen| {
        screen
            .lines()
            .filter(|line| line.starts_with("* TCP"))
            .count()
            == 1
    });
    crowd.write(b"\n");
    crowd.done();
    tmux.wait("no flows");
}

#[test]
fn one_look_is_printed() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = controlled(&world, &[]);
    let mut flow = busy(&world.guest);
    let flow_port = port(&mut flow);
    let once = ["top", "--once", "--interval", "0.5", SOCKET];
    let printed = Launch::new(&world.outer, &once).run().success().stdout;
    let line = flows(&printed);
    assert_eq!(line.len(), 1, "{printed}");
    assert!(line[0].contains(&flow_port), "{printed}");
    assert!(
        printed.contains("kB/s") || printed.contains("MB/s"),
        "{printed}"
    );
    assert!(printed.is_ascii(), "{printed}");
    assert!(printed.lines().all(|line| line.len() <= 80), "{printed}");
    let gw = gw_binary();
    let wide = format!("COLUMNS=150 LINES=10 {} {}", gw.display(), once.join(" "));
    assert!(world.outer.ok(&wide).contains("Recvd"));
}

#[test]
fn mistakes_have_remedies() {
    let world = World::new();
    let top = |arguments: &[&str]| Launch::new(&world.outer, &[&["top"], arguments].concat()).run();
    let _gw = controlled(&world, &[]);
    let no_terminal = top(&[SOCKET]);
    assert_eq!(no_terminal.code(), 1);
    no_terminal
        .says("standard output is no terminal")
        .says("gw ctl /run/gw.sock flows");
    for arguments in [&[][..], &["--interval", "0", SOCKET], &["a", "b"]] {
        assert_eq!(top(arguments).code(), 2, "{arguments:?}");
    }
    top(&["--once", "/run/none"])
        .failure()
        .says("no gateway was started with --control /run/none");
    let gw = gw_binary();
    let run = |command: &str| {
        let tmux = Tmux::run(&world.outer, (80, 24), &[], command);
        let screen = tmux.wait_for_end(1).replace('\n', "");
        tmux.command("kill-server");
        screen
    };
    let dumb = run(&format!("TERM=dumb {} top {SOCKET}", gw.display()));
    assert!(
        dumb.contains("this terminal (TERM=dumb) cannot be drawn on"),
        "{dumb}"
    );
    let missing = run(&format!("{} top /run/none", gw.display()));
    assert!(missing.contains("no gateway was started"), "{missing}");
}
