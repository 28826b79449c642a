//! What every test stands on: a world of namespaces, the gateway in it, and
//! programs on either side.
//!
//! ```text
//!   guest ── TAP ── gw ── outer ("the host") ── veth ── remote (servers)
//! ```
//!
//! Nothing of the machine is touched: each namespace is made by the test,
//! belongs to a PID namespace of its own and ends with it. Readiness is waited
//! for with a deadline, never slept for.

#[path = "../../guests/console.rs"]
pub(crate) mod console;
pub(crate) mod ctl;
pub(crate) mod gw;
#[path = "../../guests/image.rs"]
pub(crate) mod image;
pub(crate) mod netns;
pub(crate) mod peer;
pub(crate) mod slirp4netns;
pub(crate) mod vm;
pub(crate) mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use gw::{Gw, Launch, gw_binary};
pub(crate) use netns::{Finished, Netns, Running};
pub(crate) use vm::Vm;
pub(crate) use world::World;

/// Where programs are looked for, whatever the caller's own path is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long something that should happen at once may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The remote's address on the link to the host.
pub(crate) const REMOTE4: &str = "192.0.2.1";
/// The remote's IPv6 address on the link to the host.
pub(crate) const REMOTE6: &str = "2001:db8::1";
/// The host's own address on that link.
pub(crate) const HOST4: &str = "192.0.2.2";
/// The host's own IPv6 address on that link.
pub(crate) const HOST6: &str = "2001:db8::2";
/// Further addresses of the remote.
pub(crate) const ALT4: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
/// Further IPv6 addresses of the remote.
pub(crate) const ALT6: [&str; 2] = ["2001:db8:1::1", "2001:db8:1::2"];
/// The remote answers for these: destination network unreachable.
pub(crate) const NO_NET4: &str = "203.0.113.1";
/// The remote answers for this: no route to destination.
pub(crate) const NO_NET6: &str = "2001:db8:f::1";
/// The remote answers for this: destination host unreachable.
pub(crate) const NO_HOST4: &str = "203.0.113.2";
/// The remote looks for this on a link where it is not: address unreachable.
pub(crate) const NO_HOST6: &str = "2001:db8:f::2";
/// The remote swallows what goes there.
pub(crate) const BLACK_HOLE4: &str = "203.0.113.3";
/// The remote swallows what goes there.
pub(crate) const BLACK_HOLE6: &str = "2001:db8:f::3";

/// The gateway's, resolver's and guest's addresses with default options.
pub(crate) const GATEWAY4: &str = "10.0.2.2";
/// See [`GATEWAY4`].
pub(crate) const GATEWAY6: &str = "fd00::2";
/// See [`GATEWAY4`].
pub(crate) const DNS4: &str = "10.0.2.3";
/// See [`GATEWAY4`].
pub(crate) const DNS6: &str = "fd00::3";
/// See [`GATEWAY4`].
pub(crate) const GUEST4: &str = "10.0.2.100";
/// See [`GATEWAY4`].
pub(crate) const GUEST6: &str = "fd00::100";

/// Polls until `probe` yields a value; panics after `limit`.
#[track_caller]
pub(crate) fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Debian packages of the programs that are used.
const PACKAGES: &[(&str, &str)] = &[
    ("arping", "iputils-arping"),
    ("bwrap", "bubblewrap"),
    ("busybox", "busybox-static"),
    ("chromium-headless-shell", "chromium-headless-shell"),
    ("conmon", "conmon"),
    ("cpio", "cpio"),
    ("crun", "crun"),
    ("curl", "curl"),
    ("dhclient", "isc-dhcp-client"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nc", "netcat-openbsd"),
    ("ndisc6", "ndisc6"),
    ("newuidmap", "uidmap"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("podman", "podman"),
    ("python3", "python3"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("rdisc6", "ndisc6"),
    ("rootlessctl", "rootlesskit"),
    ("rootlesskit", "rootlesskit"),
    ("script", "bsdutils"),
    ("setpriv", "util-linux"),
    ("slirp4netns", "slirp4netns"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("systemd-socket-activate", "systemd"),
    ("tcpdump", "tcpdump"),
    ("tmux", "tmux"),
    ("traceroute", "traceroute"),
    ("tshark", "tshark"),
    ("udhcpc", "udhcpc"),
    ("vde_plug", "vdeplug"),
    ("vde_switch", "vde-switch"),
];

/// Panics with the Debian package's name when `program` is not installed: a
/// test that did not run must not look like one that passed.
#[track_caller]
pub(crate) fn require(program: &str) {
    let found = PATH
        .split(':')
        .any(|dir| Path::new(dir).join(program).exists());
    let package = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map(|(_, package)| package);
    let package = package.unwrap_or_else(|| panic!("{program} is not in PACKAGES"));
    assert!(
        found,
        "{program} is missing: install the Debian package {package}, or run tests/run, which does"
    );
}

/// The folder with the Python helpers.
fn scripts_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/scripts")
}

/// True when the tests run as the machine's root (device nodes can be made).
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn the_run_script_installs_every_program() {
    let script = include_str!("../../run");
    for (program, package) in PACKAGES {
        assert!(
            script.contains(&format!("    {package}")),
            "{package}, for {program}"
        );
    }
}
