//! Guests with a kernel behind real programs, and the gateway serving them:
//! `exec:` with a child that bridges to a TAP, and TAPs that vde_plug carries,
//! into a switch of ours and through Debian's.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use gw::config::{
    Config, Configure, DEFAULT_MEMORY, GuestSockets, IcmpPolicy, InterfaceConfig, ObserveConfig,
};
use gw::gateway::{Gateway, Inherited, StopReason};
use gw::net::{AddressPlan, Mtu, PlanV4};
use gw::policy::HostLoopback;
use gw::tap::process::{ProcessCommand, ProcessOptions, ProcessSource, environment};
use gw::tap::switch::Switch;
use gw::tap::vde::client::{ClientOptions, VdeClient};
use gw::tap::vde::switch::{SwitchOptions, VdeSwitch};
use gw::tap::{IpGuest, IpPorts, Medium};
use tempfile::TempDir;

use crate::harness::{OURS, Program, place, switch, until, vde_switch};

/// Bytes that iperf3 carries each way.
const AMOUNT: u64 = 32 << 20;

pub(crate) fn config() -> Config {
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
            guest_sockets: GuestSockets::Unseen,
            processes: GuestSockets::Unseen,
        },
        host_loopback: HostLoopback::Open,
        outbound4: None,
        outbound6: None,
        dns: None,
        icmp: IcmpPolicy::GatewayOnly,
        forwards: Vec::new(),
        auto_publish: None,
        observe: ObserveConfig::default(),
        impairments: Vec::new(),
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

/// Servers for a guest, and where it says what came of it.
struct Measurement {
    /// One for each direction: the first may still be busy when the client is
    /// done with it.
    _servers: [Program; 2],
    ports: [u16; 2],
    _dir: TempDir,
    result: PathBuf,
    config: Config,
}

impl Measurement {
    fn new() -> Self {
        let (upload, up) = iperf3_server();
        let (download, down) = iperf3_server();
        let (dir, result) = place("result");
        Self {
            _servers: [upload, download],
            ports: [up, down],
            _dir: dir,
            result,
            config: config(),
        }
    }

    /// What runs in a namespace of its own, with a URL for vde_plug or none.
    fn guest(&self, url: Option<&str>) -> Vec<OsString> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/links/guest.py");
        let [up, down] = self.ports.map(|port| port.to_string());
        let mut words: Vec<OsString> = ["-n", "/usr/bin/python3", script, &up, &down]
            .map(Into::into)
            .into();
        words.push(self.result.clone().into());
        words.extend(url.map(Into::into));
        words
    }

    /// Serves the guest behind `link` until it is done.
    fn serve(self, link: Switch) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let gateway = Gateway::new(&self.config, Box::new(link), Inherited::default());
            let gateway = gateway.expect("gateway");
            let stop = async {
                let end = Instant::now() + Duration::from_secs(60);
                while !self.result.exists() && Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                StopReason::CommandEnded
            };
            gateway.run(|| {}, stop).await.expect("served");
        });
        let text = fs::read_to_string(&self.result).expect("iperf3 came to its end");
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
            let rate = end["sum_received"]["bits_per_second"].as_f64();
            println!("{:.0} Mbit/s", rate.expect("a number") / 1e6);
        }
    }
}

/// Ends with the test.
struct Guest(Child);

impl Guest {
    fn start(measurement: &Measurement, switch: &Path) -> Self {
        let url = format!("vde://{}", switch.display());
        let child = Command::new("unshare")
            .args(measurement.guest(Some(&url)))
            .envs(environment(&measurement.config.plan))
            .spawn();
        Self(child.expect("unshare"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: makes a namespace and needs root; run it with sudo");
    }
    is_root
}

fn bridge(measurement: &Measurement, medium: Medium) -> ProcessSource {
    let source = ProcessSource::start(ProcessOptions {
        environment: environment(&measurement.config.plan),
        medium,
        ..ProcessOptions::new(ProcessCommand::Program {
            program: "unshare".into(),
            arguments: measurement.guest(None),
        })
    });
    source.expect("started")
}

#[test]
fn a_child_that_bridges_to_a_tap() {
    if !is_root() {
        return;
    }
    let measurement = Measurement::new();
    let source = bridge(&measurement, Medium::Ethernet);
    measurement.serve(switch(OURS, source));
}

#[test]
fn a_child_that_bridges_to_a_tun() {
    if !is_root() {
        return;
    }
    let measurement = Measurement::new();
    let source = bridge(&measurement, Medium::Ip);
    let guest = IpGuest::new(&measurement.config.plan).expect("random numbers");
    let source = IpPorts::new(Box::new(source), guest);
    measurement.serve(switch(OURS, source));
}

#[test]
fn a_tap_that_vde_plug_carries_into_our_switch() {
    if !is_root() {
        return;
    }
    let measurement = Measurement::new();
    let (_dir, path) = place("switch");
    let source = VdeSwitch::new(&SwitchOptions::new(path.clone())).expect("made");
    let link = switch(OURS, source);
    let _guest = Guest::start(&measurement, &path);
    measurement.serve(link);
}

#[test]
fn a_tap_that_vde_switch_carries_to_our_client() {
    if !is_root() {
        return;
    }
    let measurement = Measurement::new();
    let (_dir, path) = place("switch");
    let _theirs = vde_switch(&path);
    let options = ClientOptions {
        switch: Some(path.clone()),
        ..ClientOptions::default()
    };
    let link = switch(OURS, VdeClient::new(options).expect("client"));
    let _guest = Guest::start(&measurement, &path);
    measurement.serve(link);
}
