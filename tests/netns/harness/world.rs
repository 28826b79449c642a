//! A host, a guest and a remote of the test's own.

use std::process::Command;

use super::gw::{NOBODY, NOBODY_BINARY, gw_binary};
use super::netns::{Netns, User};
use super::{ALT4, ALT6, HOST4, HOST6, PATH, REMOTE4, REMOTE6, require};

/// The three namespaces that nearly every test needs.
///
/// Fields are dropped in order: the gateway's guest first, the host last.
pub(crate) struct World {
    /// Where the guest's programs run; `gw --netns` is pointed at it.
    pub(crate) guest: Netns,
    /// Where servers run.
    pub(crate) remote: Netns,
    /// "The host": where `gw` runs.
    pub(crate) outer: Netns,
}

/// Set up in the host before anything else. A memory file system on /run takes
/// PID files and names of namespaces; /etc can be written to.
const OUTER_SETUP: &str = r"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/.etc/upper /run/.etc/work
if ! mount -t overlay -o lowerdir=/etc,upperdir=/run/.etc/upper,workdir=/run/.etc/work overlay /etc
then
    cp -a /etc /run/.etc/copy && mount --bind /run/.etc/copy /etc
fi
rm -f /etc/resolv.conf /etc/hosts
echo nameserver 192.0.2.1 > /etc/resolv.conf
echo '127.0.0.1 localhost' > /etc/hosts
echo 0 0 > /proc/sys/net/ipv4/ping_group_range
";

/// Set up in each network namespace. Where the machine does not allow cubic in
/// namespaces, reno takes its place: bbr paces even a veth.
const ANY_SETUP: &str = r"
cd /proc/sys/net
echo cubic 2>/dev/null > ipv4/tcp_congestion_control || echo reno > ipv4/tcp_congestion_control
echo 0 > ipv6/conf/all/accept_dad
echo 0 > ipv6/conf/default/accept_dad
cd /
ip link set lo up
";

impl World {
    /// A world with the default topology and no gateway.
    pub(crate) fn new() -> Self {
        for program in ["nsenter", "ip", "ping"] {
            require(program);
        }
        let outer = hold_outer();
        let remote = hold_remote(&outer);
        let guest = hold_guest(&outer);
        let world = Self {
            guest,
            remote,
            outer,
        };
        world.connect();
        world
    }

    /// One more guest namespace.
    pub(crate) fn another_guest(&self) -> Netns {
        hold_guest(&self.outer)
    }

    /// One more namespace on the host's side, not connected to anything.
    pub(crate) fn another_remote(&self) -> Netns {
        hold_remote(&self.outer)
    }

    /// Lays the cable between host and remote, with every address the tests use.
    fn connect(&self) {
        let remote_pid = self.remote.inner_pid();
        let [a4, b4] = ALT4;
        let [a6, b6] = ALT6;
        // The number makes the two ends' numbers differ: the kernel announces a
        // pair with equal ones up to a second late.
        self.outer.ok(&format!(
            "set -e
            ip link add veth0 index 70 type veth peer name veth0 netns {remote_pid}
            ip address add {HOST4}/24 dev veth0
            ip address add {HOST6}/64 dev veth0 nodad
            ip link set veth0 up"
        ));
        self.remote.ok(&format!(
            "set -e
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
            echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
            ip address add {REMOTE4}/24 dev veth0
            ip address add {REMOTE6}/64 dev veth0 nodad
            ip address add {a4}/32 dev lo
            ip address add {b4}/32 dev lo
            ip address add {a6}/128 dev lo
            ip address add {b6}/128 dev lo
            ip link set veth0 up
            ip route add unreachable {no_host4}
            ip route add blackhole {black4}
            ip link add dead type veth peer name end
            ip link set dead up
            ip link set end up
            echo 10 > /proc/sys/net/ipv6/neigh/dead/retrans_time_ms
            ip -6 route add {no_host6} dev dead
            ip -6 route add blackhole {black6}",
            no_host4 = super::NO_HOST4,
            black4 = super::BLACK_HOLE4,
            no_host6 = super::NO_HOST6,
            black6 = super::BLACK_HOLE6,
        ));
        // The first ping may wait for the interfaces to be announced.
        self.outer.ok(&format!(
            "ip route add default via {REMOTE4} && ip -6 route add default via {REMOTE6}
            timeout 10 sh -c 'until ping -n -q -c 1 -W 0.1 {REMOTE6}; do :; done' >/dev/null"
        ));
    }

    /// Gives a user without privilege what a common machine gives: a
    /// /dev/net/tun that everybody may open (the world's own node, not the
    /// machine's) and ping sockets. Returns false, and says so, where the tests
    /// do not run as root and so cannot become somebody else.
    pub(crate) fn allow_nobody(&self) -> bool {
        if !super::is_root() {
            eprintln!("SKIPPED: only root can become a user without privilege");
            return false;
        }
        self.open_tun();
        self.outer.ok(&format!(
            "set -e
            touch {NOBODY_BINARY}
            mount --bind {gw} {NOBODY_BINARY}
            echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range",
            gw = gw_binary().display(),
        ));
        true
    }

    /// Covers /dev/net/tun with a node of the world's own that everybody may open.
    pub(super) fn open_tun(&self) {
        self.outer
            .ok("mknod -m 666 /run/.etc/tun c 10 200 && mount --bind /run/.etc/tun /dev/net/tun");
    }

    /// A guest namespace that belongs to the user without privilege.
    pub(crate) fn guest_of_nobody(&self) -> Netns {
        let unshare = ["unshare", "--user", "--map-root-user", "--net", "--"];
        let unshare = [NOBODY, &unshare].concat();
        self.outer
            .hold_inside(&unshare, "ip link set lo up", User::Other)
    }

    /// Replaces the host's resolv.conf, the way network managers do it.
    pub(crate) fn set_resolv_conf(&self, text: &str) {
        self.outer.ok(&format!(
            "printf '%b' '{}' > /etc/resolv.conf.new && mv /etc/resolv.conf.new /etc/resolv.conf",
            text.replace('\n', "\\n")
        ));
    }

    /// Command lines of all processes in the world except the keepers.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let proc = self.outer.root().join("proc");
        for entry in std::fs::read_dir(proc)
            .expect("the world's /proc")
            .flatten()
        {
            if !entry
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
            {
                continue;
            }
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // Processes that ended and wait to be reaped have no command line;
            // the keepers are a plain `cat`.
            if command.is_empty() || command == b"cat\0" {
                continue;
            }
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
        found
    }

    /// What may be left behind on the host: interfaces, files, mounts.
    pub(crate) fn host_state(&self) -> String {
        self.outer.ok(
            "ip -br link | cut -d' ' -f1; ip route; ip -6 route | grep -v expires; \
             find /run -path /run/.etc -prune -o -print; cut -d' ' -f5 /proc/self/mountinfo; \
             ss -Hltun; cat /etc/resolv.conf",
        )
    }
}

/// The guest's resolv.conf is what `gw --netns` tells its user to put there.
const GUEST_SETUP: &str = r"
echo nameserver 10.0.2.3 > /run/guest-resolv.conf.$$
mount --bind /run/guest-resolv.conf.$$ /etc/resolv.conf
rm /run/guest-resolv.conf.$$ 2>/dev/null || true
";

fn hold_outer() -> Netns {
    let mut unshare = Command::new("unshare");
    unshare.env_clear().env("PATH", PATH).env("LC_ALL", "C");
    let user = if super::is_root() {
        User::Same
    } else {
        User::Ours
    };
    if user == User::Ours {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--"]);
    Netns::hold(unshare, &format!("{ANY_SETUP}{OUTER_SETUP}"), user)
}

/// A namespace of the host's own user.
fn hold_remote(outer: &Netns) -> Netns {
    outer.hold_inside(&["unshare", "--net", "--"], ANY_SETUP, User::Same)
}

/// A namespace with a user namespace of its own, as containers have.
fn hold_guest(outer: &Netns) -> Netns {
    let unshare = [
        "unshare",
        "--net",
        "--user",
        "--map-root-user",
        "--mount",
        "--",
    ];
    outer.hold_inside(&unshare, &format!("{ANY_SETUP}{GUEST_SETUP}"), User::Ours)
}
