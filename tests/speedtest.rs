//! `gw speedtest` as a user runs it: a gateway, a namespace, and every byte
//! verified.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs `gw speedtest` with short phases.
fn speedtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gw"))
        .args(["speedtest", "--duration", "0.3"])
        .args(arguments)
        .output()
        .expect("gw starts")
}

/// Its JSON result, which must say that all is well.
fn result(arguments: &[&str]) -> Value {
    let output = speedtest(&[arguments, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert_eq!(
        stderr, "",
        "no progress bar and no message where there is no terminal"
    );
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], true, "{json}");
    json
}

/// The phase of that kind and number of streams.
fn phase<'a>(json: &'a Value, kind: &str, streams: u64) -> &'a Value {
    let phases = json["phases"].as_array().expect("phases");
    let found = phases.iter().find(|phase| {
        let phase = &phase["phase"];
        phase["kind"] == kind && phase["streams"].as_u64().unwrap_or(1) == streams
    });
    &found.unwrap_or_else(|| panic!("no {kind} in {json}"))["result"]["Ok"]
}

#[test]
fn all_phases_work_over_ipv4() {
    let json = result(&["--streams", "2"]);
    assert_eq!(json["phases"].as_array().map(Vec::len), Some(9));
    assert_eq!(
        (&json["mtu"], &json["protocol"]),
        (&Value::from(1500), &Value::from("IPv4"))
    );
    for (kind, streams) in [
        ("tcp-upload", 1),
        ("tcp-download", 1),
        ("tcp-upload", 2),
        ("tcp-download", 2),
    ] {
        assert!(
            phase(&json, kind, streams)["bytes"].as_u64() > Some(0),
            "{kind}: {json}"
        );
    }
    for kind in ["udp-upload", "udp-download"] {
        let flood = &phase(&json, kind, 1)["flood"];
        assert!(flood["good"].as_u64() > Some(0), "{kind}: {json}");
        assert_eq!(flood["corrupt"], 0, "{kind}: {json}");
        assert_eq!(flood["duplicates"], 0, "{kind}: {json}");
    }
    for kind in ["tcp-latency", "udp-latency", "connections"] {
        assert!(
            phase(&json, kind, 1)["count"].as_u64() > Some(0),
            "{kind}: {json}"
        );
    }
}

#[test]
fn ipv6_and_other_mtus_work_too() {
    for arguments in [
        &["--ipv6"][..],
        &["--ipv6", "--mtu", "65520", "--streams", "1"],
        &["--mtu", "65520", "--streams", "1"],
        &["--mtu", "576", "--streams", "1"],
    ] {
        result(arguments);
    }
}

#[test]
fn what_cannot_be_is_refused_with_status_2() {
    for (arguments, message) in [
        (&["--ipv6", "--mtu", "576"][..], "use --mtu 1280 or more"),
        (&["--duration", "0"], "0.1 to 3600"),
        (&["--streams", "65"], "1..=64"),
        (&["--mtu", "67"], "68 to 65520"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_gw"))
            .arg("speedtest")
            .args(arguments)
            .output()
            .expect("gw starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_table_is_plain_without_a_terminal() {
    let output = speedtest(&["--streams", "1"]);
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{table}");
    assert_eq!(
        table.lines().filter(|line| line.starts_with("| ")).count(),
        1 + 7,
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "{table}");
    assert!(
        table.contains("Gbit/s") && table.contains("datagrams;"),
        "{table}"
    );
}
