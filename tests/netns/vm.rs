//! Virtual machines on links of `gw serve`: kernels of their own that get their
//! addresses by DHCP and router advertisements, resolve a name and fetch a file.

use crate::harness::{
    GATEWAY4, Gw, Launch, Netns, PATIENCE, REMOTE4, REMOTE6, Running, Vm, World, eventually,
    gw_binary, require,
};

/// The name of the server beyond the gateway, which has two addresses.
const NAME: &str = "files.example";

/// Size of the file that guests fetch.
const FILE_LEN: usize = 4 << 20;

/// Where `gw` meets the other end, in the world's own /run.
const MEETING: &str = "/run/link";

/// A host, and a server with a file beyond it.
struct Site {
    _dns: Running,
    _http: Running,
    /// SHA-256 of the file.
    sum: String,
    // Last, for it is dropped last.
    world: World,
}

impl Site {
    fn new() -> Self {
        let world = World::new();
        for program in ["busybox", "dnsmasq"] {
            require(program);
        }
        let dns = world.remote.spawn(&format!(
            "dnsmasq --conf-file=/dev/null --no-daemon --user=root --pid-file= --no-resolv \
             --no-hosts --local=/example/ --listen-address={REMOTE4} --bind-interfaces \
             --host-record={NAME},{REMOTE4},{REMOTE6}"
        ));
        world.remote.wait_listener('u', &format!("{REMOTE4}:53"));
        let sum = world.remote.ok(&format!(
            "mkdir /run/www && head -c {FILE_LEN} /dev/urandom > /run/www/file
             sha256sum < /run/www/file"
        ));
        let http = world.remote.spawn("busybox httpd -f -p 8000 -h /run/www");
        world.remote.wait_listener('t', ":8000");
        Self {
            _dns: dns,
            _http: http,
            sum: sum.trim().to_owned(),
            world,
        }
    }

    /// Starts `gw serve` with these links.
    #[track_caller]
    fn gateway(&self, links: &[&str]) -> Gw {
        let links = links.iter().flat_map(|link| ["--link", link]);
        let arguments: Vec<&str> = std::iter::once("serve").chain(links).collect();
        Launch::new(self.host(), &arguments).start()
    }

    /// What every guest must be able to do once it has a link.
    #[track_caller]
    fn serves(&self, vm: &mut Vm) {
        vm.join();
        let routes = vm.ok("ip route");
        assert!(
            routes.contains(&format!("default via {GATEWAY4}")),
            "{routes}"
        );
        let answers = vm.ok(&format!("nslookup {NAME}"));
        assert!(answers.contains(REMOTE4), "{answers}");
        assert_eq!(self.fetched(vm, NAME), self.sum);
        // By router advertisement, which the guest asks for when its link comes up.
        vm.ok("until ip -6 route | grep -q ^default; do sleep 0.1; done");
        let addresses = vm.ok("ip -6 address show scope global");
        assert!(addresses.contains("inet6 fd00:"), "{addresses}");
        assert_eq!(self.fetched(vm, &format!("[{REMOTE6}]")), self.sum);
    }

    /// The sum of the file as the guest gets it from `host`.
    #[track_caller]
    fn fetched(&self, vm: &mut Vm, host: &str) -> String {
        vm.ok(&format!("wget -q -O - http://{host}:8000/file | sha256sum"))
    }

    /// Where `gw`, QEMU and all run.
    fn host(&self) -> &Netns {
        &self.world.outer
    }
}

/// QEMU's side of UDP between two ports.
const UDP: &str = "dgram,local.type=inet,local.host=127.0.0.1,local.port=4001,\
                   remote.type=inet,remote.host=127.0.0.1,remote.port=4000";

/// A User-Mode Linux that connects to [`MEETING`].
#[track_caller]
fn bess(site: &Site) -> Vm {
    let device = format!("vec0:transport=bess,dst={MEETING}");
    Vm::user_mode_linux(site.host(), "vec0", &device)
}

/// QEMU's side of a stream to a unix socket.
fn stream() -> String {
    format!("stream,server=off,addr.type=unix,addr.path={MEETING}")
}

/// A switch of Debian's in `netns`, at [`MEETING`].
fn vde_switch(netns: &Netns) -> Running {
    require("vde_switch");
    let switch = netns.spawn(&format!("vde_switch --sock {MEETING}"));
    let control = netns.root().join("run/link/ctl");
    eventually("vde_switch", PATIENCE, || control.exists().then_some(()));
    switch
}

#[test]
fn a_qemu_stream_to_a_unix_socket() {
    let site = Site::new();
    let _gw = site.gateway(&[&format!("qemu:{MEETING}")]);
    let mut vm = Vm::qemu(site.host(), &stream());
    site.serves(&mut vm);
    // Its power goes, and another takes its place.
    vm.cut_power();
    let mut vm = Vm::qemu(site.host(), &stream());
    site.serves(&mut vm);
}

#[test]
fn a_qemu_stream_over_tcp() {
    let site = Site::new();
    let _gw = site.gateway(&["qemu:127.0.0.1:4000"]);
    let netdev = "stream,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=4000";
    let mut vm = Vm::qemu(site.host(), netdev);
    site.serves(&mut vm);
}

#[test]
fn two_guests_on_two_links_reach_each_other() {
    let site = Site::new();
    let _gw = site.gateway(&[&format!("qemu:{MEETING}"), "udp:127.0.0.1:4000"]);
    let mut first = Vm::qemu_with_mac(site.host(), &stream(), "52:54:00:00:00:01");
    let mut second = Vm::qemu_with_mac(site.host(), UDP, "52:54:00:00:00:02");
    first.join_as("first");
    site.serves(&mut second);
    let address = first.address();
    assert_ne!(address, second.address());
    let answers = second.ok("nslookup first.gw.internal");
    assert!(answers.contains(&address), "{answers}");
    second.ok("ping -c 3 -W 5 first");
    // One goes; the other does not notice.
    first.cut_power();
    assert_eq!(site.fetched(&mut second, NAME), site.sum);
}

#[test]
fn qemu_datagrams_over_udp_and_a_gateway_that_is_started_again() {
    let site = Site::new();
    let gw = site.gateway(&["udp:127.0.0.1:4000"]);
    let mut vm = Vm::qemu(site.host(), UDP);
    site.serves(&mut vm);
    gw.terminate();
    let _gw = site.gateway(&["udp:127.0.0.1:4000"]);
    site.serves(&mut vm);
}

#[test]
fn a_qemu_udp_socket() {
    let site = Site::new();
    let _gw = site.gateway(&["udp:127.0.0.1:4000"]);
    let netdev = "socket,udp=127.0.0.1:4000,localaddr=127.0.0.1:4001";
    let mut vm = Vm::qemu(site.host(), netdev);
    site.serves(&mut vm);
}

#[test]
fn qemu_datagrams_at_a_unix_socket() {
    let site = Site::new();
    let link = format!("unixgram:{MEETING}");
    let gw = site.gateway(&[&link]);
    let netdev = format!(
        "dgram,local.type=unix,local.path=/run/qemu,remote.type=unix,remote.path={MEETING}"
    );
    let mut vm = Vm::qemu(site.host(), &netdev);
    site.serves(&mut vm);
    gw.terminate();
    let _gw = site.gateway(&[&link]);
    site.serves(&mut vm);
}

#[test]
fn qemu_plugged_into_our_switch() {
    let site = Site::new();
    let _gw = site.gateway(&[&format!("vdeswitch:{MEETING}")]);
    let netdev = format!("vde,sock={MEETING}");
    let mut vm = Vm::qemu(site.host(), &netdev);
    site.serves(&mut vm);
    vm.cut_power();
    let mut vm = Vm::qemu(site.host(), &netdev);
    site.serves(&mut vm);
}

#[test]
fn qemu_and_us_plugged_into_debians_switch() {
    let site = Site::new();
    let _switch = vde_switch(site.host());
    let link = format!("vde:{MEETING}");
    let gw = site.gateway(&[&link]);
    let mut vm = Vm::qemu(site.host(), &format!("vde,sock={MEETING}"));
    site.serves(&mut vm);
    gw.terminate();
    let _gw = site.gateway(&[&link]);
    site.serves(&mut vm);
}

#[test]
fn user_mode_linux_over_bess() {
    let site = Site::new();
    let _gw = site.gateway(&[&format!("bess:{MEETING}")]);
    let mut vm = bess(&site);
    site.serves(&mut vm);
    vm.cut_power();
    let mut vm = bess(&site);
    site.serves(&mut vm);
}

#[test]
fn user_mode_linux_over_bess_in_place_of_slirp4netns() {
    let site = Site::new();
    let _slirp4netns = site.host().spawn(&format!(
        "{} slirp4netns --enable-ipv6 --target-type=bess {MEETING}",
        gw_binary().display()
    ));
    let socket = site.host().root().join("run/link");
    eventually("the socket", PATIENCE, || socket.exists().then_some(()));
    let mut vm = bess(&site);
    site.serves(&mut vm);
}

#[test]
fn user_mode_linux_plugged_into_our_switch() {
    let site = Site::new();
    let _gw = site.gateway(&[&format!("vdeswitch:{MEETING}")]);
    let device = format!("eth0=vde,{MEETING}");
    let mut vm = Vm::user_mode_linux(site.host(), "eth0", &device);
    site.serves(&mut vm);
}
