//! docs/guides/rootlesskit.md, tried by an ordinary user.

use crate::guides::script;
use crate::harness::peer::dns_server;
use crate::harness::slirp4netns::OrdinaryUser;
use crate::harness::{DNS4, Finished, GUEST4, REMOTE4, World, require};

const PAGE: &str = "rootlesskit.md";

/// The page's reader, who has rootlesskit and gw's Debian package. `None`, and a
/// message, where the tests are not run by root.
fn reader(world: &World) -> Option<OrdinaryUser<'_>> {
    require("rootlesskit");
    let user = world.ordinary_user()?;
    world.install_package();
    Some(user)
}

/// Follows a block of the page, and has `ip` say more than the reader asks for:
/// only gw turns offloads on.
fn follow(user: &OrdinaryUser<'_>, name: &str) -> Finished {
    let script = script(PAGE, name).replace("ip address", "ip -d address");
    user.run(&["sh", "-c", &script])
}

#[test]
fn rootlesskit_alone() {
    let world = World::new();
    let Some(user) = reader(&world) else {
        return;
    };
    follow(&user, "alone")
        .success()
        .says(&format!("inet {GUEST4}/24"))
        .says("mtu 65520")
        .says(&format!("nameserver {DNS4}"))
        .says("vnet_hdr on");
}

/// The command line of dockerd-rootless.sh.
#[test]
fn what_docker_starts() {
    let world = World::new();
    let Some(user) = reader(&world) else {
        return;
    };
    require("curl");
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _page = world.remote.serve(crate::guides::PAGE_SERVER);
    let finished = follow(&user, "docker").success();
    finished
        .says(&format!("inet {GUEST4}/24"))
        .says("mtu 65520")
        .says("vnet_hdr on")
        .says("example");
}

#[test]
fn rootlesskit_tells_why_the_gateway_failed_on_request() {
    let world = World::new();
    let Some(user) = reader(&world) else {
        return;
    };
    let failing = script(PAGE, "alone").replace("--disable", "--cidr=10.0.2.0/26 --disable");
    user.run(&["sh", "-c", &failing])
        .failure()
        .says("failed to setup network")
        .says("slirp4netns failed");
    user.run(&[
        "sh",
        "-c",
        &failing.replace("rootlesskit ", "rootlesskit --debug "),
    ])
    .failure()
    .says("prefix length needs to be 1-25");
}
