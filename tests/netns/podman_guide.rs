//! docs/guides/podman.md, tried by an ordinary user.
//!
//! The images of the page are busybox under their names, for there is no registry.

use crate::guides::{PAGE_SERVER, block, script};
use crate::harness::peer::dns_server;
use crate::harness::slirp4netns::{HOME, OrdinaryUser, PACKAGED};
use crate::harness::{Finished, PATIENCE, REMOTE4, Running, World, eventually, require};

const PAGE: &str = "podman.md";

/// The reader's home. Not below /run, for Podman covers that in the namespace of
/// its bridges.
const READERS_HOME: &str = "/mnt";

/// The page's reader, who has Podman and gw's Debian package.
struct Reader<'a> {
    user: OrdinaryUser<'a>,
    _servers: [Running; 2],
}

impl<'a> Reader<'a> {
    /// `None`, and a message, where the tests are not run by root.
    fn new(world: &'a World) -> Option<Self> {
        for program in ["podman", "conmon", "crun", "busybox", "curl"] {
            require(program);
        }
        let user = world.ordinary_user()?;
        world.install_package();
        // What the test machine lacks, it is told for all users.
        world.outer.ok(&format!(
            "set -e
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            mount --make-rshared /
            mount --bind {HOME} {READERS_HOME}
            mkdir -p /etc/containers {HOME}/image/bin {HOME}/image/www
            cat > /etc/containers/containers.conf <<'END'
[engine]
cgroup_manager = 'cgroupfs'
events_logger = 'file'
runtime = 'crun'
[containers]
cgroups = 'disabled'
END
            printf '[storage]\\ndriver = \"vfs\"\\n' > /etc/containers/storage.conf
            cp /bin/busybox {HOME}/image/bin/busybox
            for name in $(busybox --list); do
                [ -e {HOME}/image/bin/$name ] || ln -s busybox {HOME}/image/bin/$name
            done
            echo it works > {HOME}/image/www/index.html
            tar -C {HOME}/image -cf {HOME}/image.tar ."
        ));
        let reader = Self {
            user,
            _servers: [
                dns_server(&world.remote, REMOTE4, REMOTE4),
                world.remote.serve(PAGE_SERVER),
            ],
        };
        reader
            .sh("podman import -q ~/image.tar docker.io/library/alpine
                podman import -q -c 'CMD [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]' \
                    ~/image.tar docker.io/library/nginx")
            .success();
        reader.configure(&block(PAGE, "containers.conf", "toml"));
        Some(reader)
    }

    fn configure(&self, text: &str) {
        self.sh(&format!(
            "mkdir -p ~/.config/containers
            cat > ~/.config/containers/containers.conf <<'END'\n{text}\nEND"
        ))
        .success();
    }

    fn sh(&self, script: &str) -> Finished {
        self.user.run(&Self::shell(script))
    }

    fn shell(script: &str) -> [String; 5] {
        let home = format!("HOME={READERS_HOME}");
        ["env", &home, "sh", "-c", script].map(str::to_owned)
    }

    /// Follows a block of the page.
    fn follow(&self, name: &str) -> Finished {
        self.sh(&script(PAGE, name))
    }
}

#[test]
fn the_first_container() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    let shown = reader.follow("info").success().stdout;
    assert!(
        shown.starts_with(&format!("{PACKAGED} slirp4netns version ")),
        "{shown}"
    );
    assert!(shown.contains("(gw "), "{shown}");
    assert_eq!(reader.follow("first").success().stdout, "example");
}

#[test]
fn a_link_of_ones_own() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    let link = format!("{READERS_HOME}/.local/libexec/gw/slirp4netns");
    reader.follow("link").success();
    let text = block(PAGE, "containers.conf", "toml");
    reader.configure(&text.replace(PACKAGED, &link));
    let shown = reader.follow("info").success().stdout;
    assert!(
        shown.starts_with(&format!("{link} slirp4netns version ")),
        "{shown}"
    );
    assert_eq!(reader.follow("first").success().stdout, "example");
}

#[test]
fn options_for_one_container_and_for_all() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    let finished = reader.follow("options").success();
    finished.says("inet 10.9.0.100/24").says("mtu 1500");
    let text = block(PAGE, "containers.conf", "toml");
    let line = block(PAGE, "network_cmd_options", "toml");
    reader.configure(&text.replace("[engine]\n", &format!("[engine]\n{line}")));
    let show =
        "podman run --rm --network slirp4netns docker.io/library/alpine ip address show tap0";
    let finished = reader.sh(show).success();
    finished.says("inet 10.9.0.100/24").says("mtu 1500");
}

#[test]
fn a_published_port() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    reader.follow("ports").success();
    // The server in the container takes a moment.
    let page = eventually("the page", PATIENCE, || {
        let finished = reader.follow("curl");
        finished.status.success().then_some(finished.stdout)
    });
    assert_eq!(page, "it works\n");
}

#[test]
fn a_network_of_its_own() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    // Programs that are in no PATH.
    world
        .outer
        .ok("test -x /usr/lib/podman/netavark -a -x /usr/lib/podman/aardvark-dns");
    let finished = reader.follow("bridge").success();
    assert!(finished.stdout.ends_with("\nexample"), "{finished:#?}");
    let gateways = || {
        let all = world.processes();
        all.iter().filter(|line| line.starts_with(PACKAGED)).count()
    };
    for name in ["one", "two"] {
        let start = "podman run -d --network mine --name";
        reader
            .sh(&format!(
                "{start} {name} docker.io/library/alpine sleep 1000"
            ))
            .success();
        assert_eq!(gateways(), 1, "{:?}", world.processes());
    }
    reader.sh("podman rm -f -t 0 one two").success();
    eventually("the gateway's end", PATIENCE, || {
        (gateways() == 0).then_some(())
    });
}

#[test]
fn a_container_without_a_network_is_connected() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    let mut gw = reader.user.spawn(&Reader::shell(&script(PAGE, "own")));
    let fetch = "podman exec own wget -qO- http://www.example.org";
    let page = eventually("the page", PATIENCE, || {
        let finished = reader.sh(fetch);
        finished.status.success().then_some(finished.stdout)
    });
    assert_eq!(page, "example");
    reader.sh("podman rm -f -t 0 own").success();
    gw.done();
}

#[test]
fn podman_passes_on_why_the_gateway_failed() {
    let world = World::new();
    let Some(reader) = Reader::new(&world) else {
        return;
    };
    reader
        .sh(
            "podman run --rm --network slirp4netns:outbound_addr=192.0.2.99 \
             docker.io/library/alpine true",
        )
        .failure()
        .says("slirp4netns failed: \"")
        .says("192.0.2.99");
    reader.configure("[engine]\nnetwork_cmd_path = '/nowhere/slirp4netns'");
    let run = "podman run --rm --network slirp4netns docker.io/library/alpine true";
    reader.sh(run).failure().says("checking slirp4netns binary");
}
