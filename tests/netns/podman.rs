//! Debian's rootless Podman with `--network=slirp4netns` and its options.
//!
//! Podman runs as an ordinary user in the world's host; the remote is "outside".
//! Its image is Debian's static busybox, imported from an archive: there is no
//! registry. What Podman wants of a machine beyond that and a test machine may
//! lack (systemd, D-Bus, a unified cgroup hierarchy, overlay mounts by users) it
//! is told to do without.

use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::slirp4netns::{HOME, OrdinaryUser, Slirp4netns};
use crate::harness::{
    Finished, GUEST4, HOST4, PATIENCE, REMOTE4, REMOTE6, World, eventually, require,
};

/// The image that each test makes.
const IMAGE: &str = "localhost/busybox:test";

/// Podman, ready to be started by an ordinary user.
struct Podman<'a> {
    world: &'a World,
    user: OrdinaryUser<'a>,
}

impl<'a> Podman<'a> {
    /// `None`, and a message, where the tests are not run by root.
    fn new(world: &'a World) -> Option<Self> {
        for program in ["podman", "conmon", "crun", "busybox"] {
            require(program);
        }
        let user = world.ordinary_user()?;
        let binary = world.install_slirp4netns(Slirp4netns::UnderTest);
        world.outer.ok(&format!(
            "set -e
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            # Podman warns where mounts do not spread.
            mount --make-rshared /
            cat > {HOME}/containers.conf <<'END'
[engine]
cgroup_manager = 'cgroupfs'
events_logger = 'file'
runtime = 'crun'
network_cmd_path = '{binary}'
[containers]
cgroups = 'disabled'
END
            printf '[storage]\\ndriver = \"vfs\"\\n' > {HOME}/storage.conf
            mkdir -p {HOME}/image/bin {HOME}/image/www
            cp /bin/busybox {HOME}/image/bin/busybox
            for name in $(busybox --list); do
                [ -e {HOME}/image/bin/$name ] || ln -s busybox {HOME}/image/bin/$name
            done
            echo it works > {HOME}/image/www/index.html
            tar -C {HOME}/image -cf {HOME}/image.tar ."
        ));
        let podman = Self { world, user };
        podman.ok(&["import", "--quiet", &format!("{HOME}/image.tar"), IMAGE]);
        Some(podman)
    }

    /// Runs `podman` to its end.
    fn podman(&self, args: &[&str]) -> Finished {
        let first = [
            "env".to_owned(),
            format!("CONTAINERS_CONF={HOME}/containers.conf"),
            format!("CONTAINERS_STORAGE_CONF={HOME}/storage.conf"),
            format!("TMPDIR={HOME}"),
            "podman".to_owned(),
        ];
        let rest = args.iter().map(ToString::to_string);
        self.user
            .run(&first.into_iter().chain(rest).collect::<Vec<_>>())
    }

    /// Runs `podman`, which must succeed, and returns what it printed, trimmed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.podman(args).success().stdout.trim().to_owned()
    }

    /// Runs a shell script in a container to its end.
    fn container(&self, network: &str, script: &str) -> Finished {
        let network = format!("--network=slirp4netns{network}");
        self.podman(&["run", "--rm", &network, IMAGE, "/bin/sh", "-c", script])
    }

    /// As [`Podman::container`], for what must succeed: what it printed, trimmed.
    #[track_caller]
    fn inside(&self, network: &str, script: &str) -> String {
        self.container(network, script)
            .success()
            .stdout
            .trim()
            .to_owned()
    }

    /// Starts a web server in a container, its port published as 8080.
    fn web_server(&self, network: &str) {
        let network = format!("--network=slirp4netns{network}");
        self.ok(&[
            "run",
            "--detach",
            "--name=web",
            "--publish=8080:80",
            &network,
            IMAGE,
            "/bin/httpd",
            "-f",
            "-vv",
            "-p",
            "80",
            "-h",
            "/www",
        ]);
    }

    /// Fetches the page from outside, and returns the client's address as the
    /// server saw it.
    fn seen_client(&self) -> String {
        require("curl");
        let page = self.world.remote.ok(&format!(
            "curl -sS --retry 20 --retry-all-errors --retry-delay 0 --max-time 10 \
             http://{HOST4}:8080/index.html"
        ));
        assert_eq!(page.trim(), "it works");
        // "[::ffff:192.0.2.1]:40000: response:200"
        let log = eventually("the server's log", PATIENCE, || {
            let finished = self.podman(&["logs", "web"]).success();
            finished
                .stderr
                .contains("response:200")
                .then_some(finished.stderr)
        });
        let line = log.lines().find(|line| line.contains("response:200"));
        let address = line.and_then(|line| line.rsplit_once("]:"));
        let (address, _) = address.unwrap_or_else(|| panic!("no address in {log}"));
        address.trim_start_matches("[::ffff:").to_owned()
    }
}

/// Asks the remote for some bytes and counts them.
fn fetch(address: &str, port: u16) -> String {
    format!("echo get 100000 | nc -w 10 {address} {port} | wc -c")
}

#[test]
fn a_container_reaches_the_world_by_name() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _tcp = tcp_server(&world.remote, 7000);
    let shown = podman.inside("", "ip addr show tap0; ip route; cat /etc/resolv.conf");
    for wanted in [
        &format!("inet {GUEST4}/24"),
        "mtu 65520",
        "default via 10.0.2.2",
        "nameserver 10.0.2.3",
    ] {
        assert!(shown.contains(wanted), "no {wanted:?} in {shown}");
    }
    assert_eq!(podman.inside("", &fetch("www.example", 7000)), "100000");
}

/// The reason to choose this handler: the other one hides the client.
#[test]
fn a_port_published_by_slirp4netns_shows_the_clients_address() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    podman.web_server(":port_handler=slirp4netns");
    assert_eq!(podman.seen_client(), REMOTE4);
}

#[test]
fn a_port_published_by_rootlesskit() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    podman.web_server(":port_handler=rootlesskit");
    assert_eq!(podman.seen_client(), GUEST4);
}

#[test]
fn a_stopped_container_leaves_no_gateway() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    podman.web_server(":port_handler=slirp4netns");
    podman.seen_client();
    let gateways = || {
        let all = world.processes();
        all.into_iter()
            .filter(|line| line.contains("--api-socket"))
            .count()
    };
    assert_eq!(gateways(), 1, "{:?}", world.processes());
    podman.ok(&["rm", "--force", "--time=0", "web"]);
    eventually("the gateway's end", PATIENCE, || {
        (gateways() == 0).then_some(())
    });
    // The port is free again.
    podman.web_server(":port_handler=slirp4netns");
    podman.seen_client();
}

#[test]
fn a_port_in_use_is_an_error() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let _other = world.outer.serve("serve_tcp(8080)");
    podman
        .podman(&[
            "run",
            "--rm",
            "--publish=8080:80",
            "--network=slirp4netns:port_handler=slirp4netns",
            IMAGE,
            "/bin/true",
        ])
        .failure();
}

#[test]
fn ipv6_works_from_the_start() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let _tcp = tcp_server(&world.remote, 7000);
    let script = format!("ip addr show tap0; {}", fetch(REMOTE6, 7000));
    let shown = podman.inside(":enable_ipv6=true", &script);
    assert!(shown.contains("inet6 fd00::"), "{shown}");
    assert_eq!(shown.lines().last(), Some("100000"), "{shown}");
}

#[test]
fn mtu_and_network_are_chosen() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _tcp = tcp_server(&world.remote, 7000);
    let script = format!(
        "ip addr show tap0; cat /etc/resolv.conf; {}",
        fetch("www.example", 7000)
    );
    let shown = podman.inside(":mtu=1400,cidr=10.77.0.0/24", &script);
    for wanted in ["mtu 1400", "inet 10.77.0.100/24", "nameserver 10.77.0.3"] {
        assert!(shown.contains(wanted), "no {wanted:?} in {shown}");
    }
    assert_eq!(shown.lines().last(), Some("100000"), "{shown}");
}

#[test]
fn the_hosts_loopback_is_open_only_on_request() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let _server = tcp_server(&world.outer, 7000);
    let script = fetch("10.0.2.2", 7000);
    assert_eq!(
        podman.inside(":allow_host_loopback=true", &script),
        "100000"
    );
    podman
        .container(":allow_host_loopback=false", &script)
        .says("Network is unreachable");
}

#[test]
fn the_outbound_address_is_what_the_peer_sees() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let second = "192.0.2.77";
    world
        .outer
        .ok(&format!("ip address add {second}/24 dev veth0"));
    let _server = world.remote.serve(
        "l = listen(7000, '0.0.0.0')
ready()
while True:
    s, peer = l.accept()
    s.sendall(peer[0].encode())
    s.close()",
    );
    for (network, seen) in [
        (String::new(), HOST4),
        (format!(":outbound_addr={second}"), second),
        (":outbound_addr=veth0".to_owned(), HOST4),
    ] {
        let script = format!("nc -w 10 {REMOTE4} 7000 </dev/null");
        assert_eq!(podman.inside(&network, &script), seen, "{network}");
    }
}

#[test]
fn info_shows_the_version() {
    let world = World::new();
    let Some(podman) = Podman::new(&world) else {
        return;
    };
    let shown = podman.ok(&["info", "--format={{.Host.Slirp4NetNS.Version}}"]);
    assert!(shown.starts_with("slirp4netns version "), "{shown}");
    for wanted in [
        "commit: ",
        "libslirp: ",
        "SLIRP_CONFIG_VERSION_MAX: ",
        "libseccomp: ",
    ] {
        assert!(shown.contains(wanted), "no {wanted:?} in {shown}");
    }
    let path = podman.ok(&["info", "--format={{.Host.Slirp4NetNS.Executable}}"]);
    assert!(path.contains("under-test/slirp4netns"), "{path}");
}
