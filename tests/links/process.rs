//! `exec:` with a child that does something real: it bridges its standard input
//! and output to a TAP in a namespace of its own, and the gateway serves the
//! kernel behind that.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use gw::config::{Config, Configure, DEFAULT_MEMORY, IcmpPolicy, InterfaceConfig};
use gw::gateway::{Gateway, StopReason};
use gw::net::{AddressPlan, Mtu, PlanV4};
use gw::policy::HostLoopback;
use gw::tap::process::{ProcessCommand, ProcessOptions, ProcessSource, environment};

use crate::harness::{OURS, Program, place, switch, until};

/// Bytes that iperf3 carries each way.
const AMOUNT: u64 = 32 << 20;

fn config() -> Config {
    Config {
        plan: AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: None,
            gateway_mac: OURS,
            mtu: Mtu::ETHERNET,
        },
        interface: InterfaceConfig {
            name: "tap0".to_owned(),
            mac: None,
            configure: Configure::LeaveAlone,
        },
        host_loopback: HostLoopback::Open,
        outbound4: None,
        outbound6: None,
        dns: None,
        icmp: IcmpPolicy::GatewayOnly,
        forwards: Vec::new(),
        memory: DEFAULT_MEMORY,
        ready_fd: None,
        exit_fd: None,
        pid_file: None,
        control: None,
        slirp4netns_api: None,
    }
}

/// A port where nobody listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

fn iperf3_server() -> (Program, u16) {
    let port = free_port();
    let number = port.to_string();
    let program = Program::start("iperf3", &["-s", "-B", "127.0.0.1", "-p", &number]);
    let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
    until("iperf3", || {
        let table = fs::read_to_string("/proc/net/tcp").expect("readable");
        table.contains(&listening).then_some(())
    });
    (program, port)
}

fn bridge(ports: [u16; 2], result: &Path, plan: &AddressPlan) -> ProcessOptions {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/links/bridge.py");
    let [up, down] = ports.map(|port| port.to_string());
    let result = result.as_os_str().to_owned();
    let arguments = ["-n", "/usr/bin/python3", script, &up, &down].map(Into::into);
    ProcessOptions {
        environment: environment(plan),
        ..ProcessOptions::new(ProcessCommand::Program {
            program: "unshare".into(),
            arguments: arguments.into_iter().chain([result]).collect(),
        })
    }
}

#[test]
fn iperf3_through_a_child_that_bridges_to_a_tap() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: makes a namespace and needs root; run it with sudo");
        return;
    }
    let (_dir, result) = place("result");
    // One for each direction: the first may still be busy when the client is done.
    let (_upload, up) = iperf3_server();
    let (_download, down) = iperf3_server();
    let config = config();
    let options = bridge([up, down], &result, &config.plan);
    let source = ProcessSource::start(options).expect("started");
    let link = switch(OURS, source);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let gateway = Gateway::new(&config, Box::new(link)).expect("gateway");
        let stop = async {
            let end = Instant::now() + Duration::from_secs(60);
            while !result.exists() && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            StopReason::CommandEnded
        };
        gateway.run(|| {}, stop).await.expect("served");
    });
    let text = fs::read_to_string(&result).expect("iperf3 came to its end");
    let results: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(result["error"], serde_json::Value::Null);
        let end = &result["end"];
        let bytes = |sum: &str| end[sum]["bytes"].as_u64().expect("a number");
        assert!(bytes("sum_sent") >= AMOUNT, "{end}");
        // The receiver stops counting when it hears that the sender is done,
        // which is on another connection.
        assert!(bytes("sum_received") >= AMOUNT / 2, "{end}");
    }
}
