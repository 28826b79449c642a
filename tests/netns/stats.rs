//! `--stats`: the summary at the end.

use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{ALT6, Finished, Gw, Launch, REMOTE4, World, gw_binary};
use crate::report::check_schema;

const PORT: u16 = 7000;
const BYTES: u64 = 1 << 20;

/// Downloads by name and by address, and asks where nobody listens.
fn script() -> String {
    let [by_addr, _] = ALT6;
    format!(
        "import socket
def get(at):
    s = socket.create_connection((at, {PORT}), 5)
    s.sendall(b'get {BYTES}\\n')
    s.shutdown(1)
    while s.recv(65536): pass
get('www.example')
get('{by_addr}')
try:
    socket.create_connection(('{REMOTE4}', 1), 5)
except ConnectionRefusedError:
    print('refused')"
    )
}

fn run(options: &[&str]) -> Finished {
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let script = script();
    let command = ["--", "python3", "-c", &script];
    Launch::new(
        &world.outer,
        &[&["run", "--stats"], options, &command].concat(),
    )
    .run()
}

#[test]
fn a_command_is_summed_up_on_standard_error() {
    let finished = run(&[]).success();
    assert_eq!(finished.stdout, "refused\n");
    for part in [
        "2.10 MB received",
        "led nowhere: 1 refused",
        "| www.example:7000",
        &format!("| [{}]:7000", ALT6[0]),
        "| www.example:1 ",
        "1.05 MB",
        "At most ",
    ] {
        assert!(finished.stderr.contains(part), "{part}: {finished:#?}");
    }
    assert!(!finished.stderr.contains('\x1b'), "{finished:?}");
}

#[test]
fn programs_get_one_object() {
    let finished = run(&["--log-format", "json"]).success();
    let line = finished.stderr.lines().last().expect("a line");
    let summary: serde_json::Value = serde_json::from_str(line).expect("JSON");
    check_schema("summary.schema.json", &summary);
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["protocols"]["tcp"]["to_guest"]["bytes"], 2 * BYTES);
    assert_eq!(summary["total"]["verdicts"]["refused"], 1);
    assert_eq!(summary["connect"]["count"], 2);
    let remotes = summary["remotes"].as_array().expect("remotes");
    let name = remotes
        .iter()
        .find(|r| r["name"] == "www.example" && r["port"] == PORT);
    let name = name.unwrap_or_else(|| panic!("no name in {summary:#}"));
    assert_eq!(name["to_guest"]["bytes"], BYTES);
    assert_eq!(name["addresses"][0], REMOTE4);
}

#[test]
fn a_namespace_is_summed_up_when_its_gateway_ends() {
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    let gw = Gw::attach(&world, &["--stats"]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {BYTES})"));
    let said = gw.terminate();
    assert!(said.contains(&format!("| {REMOTE4}:7000")), "{said}");
    assert!(said.contains("1.05 MB received"), "{said}");
    // Flows that are open at the end count, too.
    let gw = Gw::attach(&world, &["--stats", "--quiet"]);
    let mut held = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, {PORT})
s.sendall(b'echo\\nhello')
assert s.recv(5) == b'hello'
ready()
s.recv(1)"
    ));
    let said = gw.terminate();
    assert!(said.starts_with("1 flow in "), "{said}");
    drop(held.output());
}

#[test]
fn links_are_summed_up_as_well() {
    let world = World::new();
    let _server = tcp_server(&world.remote, PORT);
    let pid = world.guest.inner_pid();
    let link = format!("tap:tap0,netns={pid},static");
    let gw = Launch::new(&world.outer, &["serve", "--link", &link, "--stats"]).start();
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {BYTES})"));
    let said = gw.terminate();
    assert!(said.contains(&format!("| {REMOTE4}:7000")), "{said}");
}

#[test]
fn terminals_get_colours_unless_they_do_not_want_them() {
    let world = World::new();
    let gw = gw_binary();
    let on_terminal = |environment: &str| {
        world.outer.ok(&format!(
            "{environment} script -qec '{} run --stats -- nc -z {REMOTE4} 1' /dev/null || true",
            gw.display()
        ))
    };
    let said = on_terminal("TERM=xterm");
    assert!(said.contains('│') && said.contains("\x1b["), "{said:?}");
    let said = on_terminal("NO_COLOR=1 TERM=xterm");
    assert!(said.contains('│') && !said.contains("\x1b[38"), "{said:?}");
}
