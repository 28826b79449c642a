//! `gw run --report`: what a command did, for programs and for people.

mod browser;

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::{ALT4, ALT6, Finished, Launch, REMOTE4, World};

const PORT: u16 = 7000;
const BYTES: u64 = 3 << 20;

/// Where reports go: the world's own memory file system.
const FOLDER: &str = "/run/reports";

/// Panics unless `value` is what a schema of the repository says.
#[track_caller]
pub(crate) fn check_schema(name: &str, value: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("docs/schema")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the schema is there");
    let schema = serde_json::from_str(&text).expect("the schema is JSON");
    let validator = jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the schema is one");
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?} in {value:#}");
}

/// A world with servers for [`SCRIPT`].
fn world() -> (World, Vec<crate::harness::Running>) {
    let world = World::new();
    let servers = vec![
        tcp_server(&world.remote, PORT),
        udp_echo(&world.remote, PORT),
        dns_server(&world.remote, REMOTE4, REMOTE4),
    ];
    world.outer.ok(&format!("mkdir {FOLDER}"));
    (world, servers)
}

/// A download by name, an upload by address, a datagram, a refusal, and a flow that
/// stays open to the end.
fn script() -> String {
    let ([other4, _], [other6, _]) = (ALT4, ALT6);
    format!(
        "import socket, time
def get(at, count):
    s = socket.create_connection((at, {PORT}), 5)
    s.sendall(b'get %d\\n' % count)
    s.shutdown(1)
    while s.recv(65536): pass
held = socket.create_connection(('{other6}', {PORT}), 5)
held.sendall(b'echo\\n')
held.sendall(b'x' * 5000)
get('www.example', {BYTES})
time.sleep(0.4)
get('{other4}', 1000)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.sendto(b'x' * 100, ('{other4}', {PORT}))
u.settimeout(5)
assert len(u.recv(200)) == 100
try:
    socket.create_connection(('{REMOTE4}', 1), 5)
except ConnectionRefusedError:
    pass
held.sendall(b'x' * 9000)
raise SystemExit(3)"
    )
}

fn run(world: &World, reports: &[&str], command: &[&str]) -> Finished {
    let reports: Vec<String> = reports
        .iter()
        .map(|r| format!("--report={FOLDER}/{r}"))
        .collect();
    let reports: Vec<&str> = reports.iter().map(String::as_str).collect();
    Launch::new(
        &world.outer,
        &[&["run"], &reports[..], &["--"], command].concat(),
    )
    .run()
}

fn read(world: &World, name: &str) -> String {
    let path = world
        .outer
        .root()
        .join(FOLDER.trim_start_matches('/'))
        .join(name);
    std::fs::read_to_string(path).expect("the report is there")
}

fn read_json(world: &World, name: &str) -> Value {
    let report: Value = serde_json::from_str(&read(world, name)).expect("JSON");
    check_schema("report.schema.json", &report);
    report
}

fn rows<'a>(report: &'a Value, table: &str) -> &'a [Value] {
    report[table].as_array().expect("a table")
}

/// The flow for which all of these members are so.
#[track_caller]
fn flow<'a>(report: &'a Value, members: &[(&str, Value)]) -> &'a Value {
    let found: Vec<&Value> = rows(report, "flows")
        .iter()
        .filter(|flow| members.iter().all(|(name, value)| flow[name] == *value))
        .collect();
    assert_eq!(found.len(), 1, "{members:?} in {report:#}");
    found[0]
}

#[test]
fn programs_read_what_a_command_did() {
    let (world, _servers) = world();
    let script = script();
    let finished = run(&world, &["r.json"], &["python3", "-c", &script]);
    assert_eq!(finished.code(), 3, "{finished:?}");
    let report = read_json(&world, "r.json");
    assert_eq!(
        report["command"]["arguments"],
        serde_json::json!(["python3", "-c", script])
    );
    assert_eq!(report["command"]["exit_status"], 3);

    let download = flow(
        &report,
        &[
            ("name", "www.example".into()),
            ("verdict", "connected".into()),
        ],
    );
    assert_eq!(download["to_guest"]["bytes"], BYTES);
    assert_eq!(download["from_guest"]["bytes"], "get 3145728\n".len());
    assert_eq!(download["verdict"], "connected");
    assert_eq!(download["ended"], "finished");
    assert_eq!(download["remote"], format!("{REMOTE4}:{PORT}"));
    assert_eq!(download["process"]["name"], "python3");
    let packets = download["to_guest"]["packets"].as_u64().expect("a count");
    assert!((BYTES / 1460..BYTES / 1000).contains(&packets), "{packets}");
    let times = ["start_seconds", "connect_seconds", "end_seconds"];
    let [start, connect, end] = times.map(|t| download[t].as_f64().expect("a time"));
    assert!(start < end && connect < end - start, "{download:#}");

    let refused = flow(&report, &[("verdict", "refused".into())]);
    assert_eq!(refused["remote"], format!("{REMOTE4}:1"));
    assert_eq!(refused["ended"], "turned_away");
    assert!(refused.get("connect_seconds").is_none(), "{refused:#}");

    let remote = format!("{}:{PORT}", ALT4[0]);
    let datagram = flow(
        &report,
        &[("protocol", "udp".into()), ("remote", remote.into())],
    );
    assert_eq!(datagram["to_guest"]["bytes"], 100);
    assert_eq!(datagram["from_guest"]["bytes"], 100);

    let held = flow(
        &report,
        &[("remote", format!("[{}]:{PORT}", ALT6[0]).into())],
    );
    assert!(
        held["end_seconds"].as_f64() > held["start_seconds"].as_f64(),
        "{held:#}"
    );

    // Sums agree with each other.
    let sum = |table: &str| -> u64 {
        let rows = rows(&report, table).iter();
        rows.map(|row| row["to_guest"]["bytes"].as_u64().expect("a count"))
            .sum()
    };
    let total = report["total"]["to_guest"]["bytes"]
        .as_u64()
        .expect("a count");
    assert_eq!(sum("flows"), total);
    assert_eq!(sum("remotes"), total);
    let bytes = |name: &str| -> u64 {
        let passed = report["throughput"][name].as_array().expect("figures");
        passed
            .iter()
            .map(|bytes| bytes.as_u64().expect("a count"))
            .sum()
    };
    for direction in ["to_guest", "from_guest"] {
        assert_eq!(
            report["link"][direction]["bytes"],
            bytes(direction),
            "{direction}"
        );
    }
    assert!(bytes("to_guest") > BYTES);
    let duration = report["duration_seconds"].as_f64().expect("a time");
    let intervals = report["throughput"]["to_guest"]
        .as_array()
        .expect("figures")
        .len();
    let interval = report["throughput"]["interval_seconds"]
        .as_f64()
        .expect("a time");
    assert!((intervals - 1) as f64 * interval <= duration, "{report:#}");
}

#[test]
fn a_command_that_does_nothing_has_a_report_too() {
    let (world, _servers) = world();
    run(&world, &["r.json", "r.html"], &["sh", "-c", "kill -9 $$"]);
    let report = read_json(&world, "r.json");
    assert_eq!(report["command"]["signal"], 9);
    assert_eq!(report["flows"], serde_json::json!([]));
    assert!(read(&world, "r.html").contains("ended by signal 9"));
}

#[test]
fn a_report_that_cannot_be_written_stops_the_command_from_starting() {
    let (world, _servers) = world();
    for (name, status, said) in [
        ("no/such.json", 1, "No such file or directory"),
        ("r.txt", 2, "in .json for programs"),
        ("r", 2, "in .html for people"),
    ] {
        let finished = run(&world, &[name], &["echo", "ran"]);
        assert_eq!(finished.code(), status, "{finished:?}");
        finished.says(said).lacks("ran");
    }
    let twice = run(&world, &["a.json", "a.json"], &["echo", "ran"]);
    assert_eq!(twice.code(), 2, "{twice:?}");
    // A folder and a pipe by the name of a file.
    world
        .outer
        .ok(&format!("mkdir {FOLDER}/d.json; mkfifo {FOLDER}/p.json"));
    for name in ["d.json", "p.json"] {
        let finished = run(&world, &[name], &["echo", "ran"]);
        assert_eq!(finished.code(), 1, "{finished:?}");
        finished.says("no ordinary file").lacks("ran");
    }
    // What was made for a command that did not start is gone.
    run(&world, &["b.json", "no/such.json"], &["true"]).failure();
    assert_eq!(world.outer.ok(&format!("ls {FOLDER}")), "d.json\np.json\n");
}

#[test]
fn an_older_report_stays_until_there_is_a_new_one() {
    let (world, _servers) = world();
    world.outer.ok(&format!("seq 1000000 > {FOLDER}/r.json"));
    run(
        &world,
        &["r.json"],
        &["sh", "-c", &format!("tail -n 1 {FOLDER}/r.json")],
    )
    .success()
    .says("1000000");
    read_json(&world, "r.json");
}

#[test]
fn a_full_disk_costs_the_report_and_not_the_exit_status() {
    let (world, _servers) = world();
    world
        .outer
        .ok(&format!("mount -t tmpfs -o size=4k none {FOLDER}"));
    let finished = run(&world, &["r.html"], &["sh", "-c", "exit 5"]);
    assert_eq!(finished.code(), 5, "{finished:?}");
    finished
        .says("cannot write the report")
        .says("No space left");
}
