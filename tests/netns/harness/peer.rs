//! Programs that most tests need on the other side.

use super::{Netns, Running};

/// Serves TCP on every address of `netns`: each connection is answered with
/// what its first line asks for.
///
/// - `get N`: N bytes of the known stream, then the end;
/// - `put`: reads to the end, answers with `count digest`;
/// - `echo`: sends back what comes, to the end.
pub(crate) fn tcp_server(netns: &Netns, port: u16) -> Running {
    netns.serve(&format!("serve_tcp({port})"))
}

/// Serves UDP on every address of `netns`, both families: each datagram is
/// answered from the address it was sent to with itself.
pub(crate) fn udp_echo(netns: &Netns, port: u16) -> Running {
    netns.serve(&format!("serve_udp_echo({port})"))
}

/// A scripted DNS server, see `scripts/prelude.py`. `address` is what it
/// answers for `www.*`, to tell servers apart.
pub(crate) fn dns_server(netns: &Netns, at: &str, address: &str) -> Running {
    netns.serve(&format!("serve_dns({at:?}, {address:?})"))
}
