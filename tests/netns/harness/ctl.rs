//! A gateway with a control socket, and `gw ctl` at it.

use super::{Finished, Gw, Launch, World};

/// Where the socket is, in [`World::outer`].
pub(crate) const SOCKET: &str = "/run/gw.sock";

/// A gateway that can be controlled, and does to traffic what `rules` say.
#[track_caller]
pub(crate) fn controlled(world: &World, rules: &[&str]) -> Gw {
    let mut arguments = vec!["--control", SOCKET];
    for rule in rules {
        arguments.extend(["--impair", rule]);
    }
    Gw::attach(world, &arguments)
}

/// Runs `gw ctl` with these arguments behind the socket.
#[track_caller]
pub(crate) fn ctl(world: &World, arguments: &[&str]) -> Finished {
    Launch::new(&world.outer, &[&["ctl", SOCKET], arguments].concat()).run()
}
