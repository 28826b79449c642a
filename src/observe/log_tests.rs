use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde_json::Value;

use super::super::testing::{Flow, flow};
use super::*;
use crate::policy::Protocol;

const SCHEMA: &str = include_str!("../../docs/schema/flow-log.schema.json");

/// A log into a file, and the file.
fn log() -> (FlowLog, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let target = LogTarget::Path(file.path().to_owned());
    (FlowLog::open(&target, None).expect("opens"), file)
}

/// A log into `out`, as if that had been handed down.
fn log_into(out: impl Into<OwnedFd>) -> FlowLog {
    FlowLog::open(&LogTarget::Fd(7), Some(out.into())).expect("opens")
}

fn parsed(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn a_flow(number: u64) -> Flow {
    flow(Instant::now(), number, "192.0.2.1:443")
        .named("www.example")
        .of(77, "curl")
}

/// Every member of a line is described, and every described one is there.
#[track_caller]
fn check(line: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    if let Err(error) = validator.validate(line) {
        panic!("{error} in {line}");
    }
    let event = line["event"].as_str().expect("an event");
    let described = schema["$defs"][event]["properties"].as_object();
    let described = described.expect("members").keys();
    let members = line.as_object().expect("an object").keys();
    assert!(members.eq(described), "{line}");
}

#[test]
fn lines_are_as_the_schema_says() {
    let (mut log, file) = log();
    let full = a_flow(1);
    let mut bare = a_flow(2);
    bare.name = None;
    bare.process = None;
    bare.closed.opened.id = None;
    bare.closed.opened.by = Party::Host;
    bare.closed.opened.protocol = Protocol::Udp;
    (bare.closed.verdict, bare.closed.peer) = (None, None);
    (bare.closed.rtt, bare.closed.connect_time) = (None, None);
    bare.closed.how = HowEnded::Impaired("blackhole");
    for flow in [&full, &bare] {
        log.record(&flow.opened());
        log.record(&flow.closed());
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
    log.record(&Record::Lost { events: 3, at });
    log.finish();
    let lines = parsed(&std::fs::read_to_string(file.path()).expect("text"));
    assert_eq!(lines.len(), 5);
    lines.iter().for_each(check);
    let [open, close, _, other, lost] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(open["event"], "open");
    assert_eq!(open["time"], close["opened"]);
    assert_eq!(close["id"], "1");
    assert_eq!(close["remote"], "192.0.2.1:443");
    assert_eq!(close["duration_seconds"], 0.5);
    assert_eq!(close["connect_seconds"], 0.02);
    assert_eq!(close["to_guest"]["bytes"], 1000);
    assert_eq!(close["impaired"], false);
    assert_eq!(other["direction"], "inbound");
    assert_eq!(other["verdict"], "undecided");
    assert_eq!(other["impaired"], true);
    assert_eq!(other["impairment"], "blackhole");
    assert_eq!(lost["time"], "2023-11-14T22:13:20.000001Z");
    assert_eq!(lost["events"], 3);
}

#[test]
fn names_are_any_bytes() {
    let (mut log, file) = log();
    let mut flow = a_flow(1);
    flow.name = Some("a\"\n\u{7f}\\.example".into());
    flow.process = flow.process.map(|process| {
        let exe = Some("/tmp/\n\"".into());
        Arc::new(Process {
            exe,
            ..(*process).clone()
        })
    });
    log.record(&flow.opened());
    log.finish();
    let lines = parsed(&std::fs::read_to_string(file.path()).expect("text"));
    assert_eq!(lines[0]["name"], "a\"\n\u{7f}\\.example");
}

#[test]
fn a_log_is_appended_to() {
    let (mut log, file) = log();
    log.record(&a_flow(1).opened());
    log.flush();
    let target = LogTarget::Path(file.path().to_owned());
    let mut again = FlowLog::open(&target, None).expect("opens");
    again.record(&a_flow(2).opened());
    again.flush();
    log.record(&a_flow(1).closed());
    log.finish();
    let lines = parsed(&std::fs::read_to_string(file.path()).expect("text"));
    let flows: Vec<_> = lines.iter().map(|line| line["flow"].as_u64()).collect();
    assert_eq!(flows, [Some(1), Some(2), Some(1)]);
}

#[test]
fn a_slow_reader_loses_lines_and_is_told_how_many() {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let mut log = log_into(ours);
    let mut told = 0;
    while log.lost == 0 {
        for _ in 0..100 {
            log.record(&a_flow(1).opened());
            told += 1;
        }
        log.flush();
        assert!(log.is_waiting() || log.lost == 0);
        assert!(log.pending.len() < MAX_PENDING + 4096);
    }
    let mut text = Vec::new();
    theirs.set_nonblocking(true).expect("non-blocking");
    while log.is_waiting() {
        let _ = theirs.read_to_end(&mut text);
        log.flush();
    }
    log.finish();
    drop(log);
    theirs.set_nonblocking(false).expect("blocking");
    theirs.read_to_end(&mut text).expect("the rest");
    let lines = parsed(std::str::from_utf8(&text).expect("text"));
    let last = lines.last().expect("lines");
    check(last);
    assert_eq!(last["event"], "lost");
    let lost = last["events"].as_u64().expect("a count");
    assert_eq!(lines.len() as u64 - 1 + lost, told);
}

#[test]
fn a_reader_that_leaves_ends_the_log() {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut log = log_into(ours);
    log.record(&a_flow(1).opened());
    log.flush();
    drop(theirs);
    log.record(&a_flow(2).opened());
    log.flush();
    assert!(log.out.is_none() && !log.is_waiting());
    log.record(&a_flow(3).opened());
    assert!(log.pending.is_empty());
    log.finish();
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_the_end() {
    let (ours, _theirs) = UnixStream::pair().expect("sockets");
    let mut log = log_into(ours);
    while !log.is_waiting() {
        for _ in 0..100 {
            log.record(&a_flow(1).opened());
        }
        log.flush();
    }
    let begun = Instant::now();
    log.finish();
    assert!(begun.elapsed() < 3 * LAST_CHANCE);
}

#[test]
fn a_full_disk_ends_the_log() {
    let full = OpenOptions::new().write(true).open("/dev/full");
    let mut log = log_into(full.expect("/dev/full"));
    log.record(&a_flow(1).opened());
    log.flush();
    assert!(log.out.is_none());
}

#[test]
fn what_cannot_be_opened_is_named() {
    let path = LogTarget::Path("/no/such/folder/x".into());
    let error = FlowLog::open(&path, None).expect_err("refused").to_string();
    assert!(error.contains("'/no/such/folder/x'"), "{error}");
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let error = FlowLog::open(&LogTarget::Path(pipe), None).expect_err("refused");
    assert!(error.to_string().contains("start its reader"), "{error}");
}

#[test]
fn batches_are_of_whole_lines() {
    let lines = b"one\ntwo\nthree\n";
    for (most, expected) in [
        (100, &lines[..]),
        (14, &lines[..]),
        (13, b"one\ntwo\n"),
        (4, b"one\n"),
        (3, b"one\n"),
    ] {
        assert_eq!(whole_lines(lines, most), expected, "{most}");
    }
}

#[test]
fn a_line_fits_a_write_to_a_pipe() {
    let mut flow = a_flow(u64::MAX);
    flow.name = Some("x".repeat(255).into());
    flow.process = flow.process.map(|process| {
        let exe = Some(format!("/{}", "y".repeat(1023)).into());
        Arc::new(Process {
            exe,
            ..(*process).clone()
        })
    });
    let (mut log, _file) = log();
    log.record(&flow.closed());
    assert!(log.pending.len() < PIPE_BUF, "{}", log.pending.len());
}
