//! The host's resolv.conf and the servers in it.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use super::Check;
use crate::services::dns::name_servers;

const NAME: &str = "name servers";

/// Bytes of the file that are looked at.
const MAX_FILE: u64 = 64 << 10;

/// What was found.
#[derive(Debug)]
pub(super) struct Facts {
    /// The servers that the file names; why it cannot be read.
    servers: io::Result<Vec<Server>>,
}

/// A server and whether there is a way to it.
#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    way: io::Result<()>,
}

impl Facts {
    /// Reads the file at `path`. No packet is sent to the servers.
    pub(super) fn collect(path: &Path) -> Self {
        Self {
            servers: read(path).map(|text| {
                let servers = name_servers(&text).into_iter();
                servers
                    .map(|addr| Server {
                        addr,
                        way: way(addr),
                    })
                    .collect()
            }),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // Opening a FIFO would wait; anything but a file counts as empty.
    if std::fs::metadata(path)?.is_file() {
        File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// Asks the kernel for a route, which is all that connecting a datagram socket is.
fn way(to: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))?.connect(to)
}

/// Of the file at `path`.
pub(super) fn check(path: &Path, facts: &Facts) -> Check {
    let path = path.display();
    let servers = match &facts.servers {
        Ok(servers) => servers,
        Err(error) => {
            return Check::warning(
                NAME,
                format!("{path} cannot be read ({error})"),
                "127.0.0.1 is asked; let this user read the file, or name a server with --dns",
            );
        }
    };
    let list = |servers: &mut dyn Iterator<Item = &Server>| {
        let addrs = servers.map(|server| server.addr.ip().to_string());
        addrs.collect::<Vec<_>>().join(", ")
    };
    if servers.is_empty() {
        return Check::warning(
            NAME,
            format!("{path} names none that can be asked, so that 127.0.0.1 is"),
            "add a line 'nameserver ADDRESS', or name one with --dns",
        );
    }
    if servers.iter().all(|server| server.way.is_err()) {
        return Check::warning(
            NAME,
            format!("there is no route to {}", list(&mut servers.iter())),
            format!("connect this host, correct {path}, or name another with --dns"),
        );
    }
    let mut used = servers.iter().filter(|server| server.way.is_ok());
    let detail = list(&mut used);
    if servers.iter().all(|server| server.addr.ip().is_loopback()) {
        // What makes other programs fail in namespaces, and so is asked for.
        return Check::pass(NAME, format!("{detail}, which gw asks from the host"));
    }
    Check::pass(NAME, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    fn facts(servers: &[(&str, bool)]) -> Facts {
        let server = |(addr, way): &(&str, bool)| Server {
            addr: SocketAddr::new(addr.parse().expect("an address"), 53),
            way: way
                .then_some(())
                .ok_or_else(|| io::Error::other("no route")),
        };
        Facts {
            servers: Ok(servers.iter().map(server).collect()),
        }
    }

    fn found(facts: &Facts) -> (Status, String) {
        let check = check(Path::new("/etc/resolv.conf"), facts);
        assert_eq!(check.remedy.is_none(), check.status == Status::Pass);
        (check.status, check.detail)
    }

    #[test]
    fn each_outcome() {
        use Status::{Pass, Warning};
        for (servers, status, words) in [
            (&[][..], Warning, "names none"),
            (&[("192.0.2.1", true)], Pass, "192.0.2.1"),
            (
                &[("192.0.2.1", false), ("2001:db8::1", true)],
                Pass,
                "2001:db8::1",
            ),
            (&[("192.0.2.1", false)], Warning, "no route to 192.0.2.1"),
            (&[("127.0.0.53", true)], Pass, "asks from the host"),
        ] {
            let (found, detail) = found(&facts(servers));
            assert_eq!(found, status, "{servers:?}");
            assert!(detail.contains(words), "{detail}");
        }
        let unreadable = Facts {
            servers: Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        };
        assert_eq!(found(&unreadable).0, Warning);
    }

    #[test]
    fn files_are_read() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("resolv.conf");
        assert!(Facts::collect(&path).servers.is_err());
        std::fs::write(&path, "nameserver 127.0.0.53\nnameserver x\n").expect("write");
        let servers = Facts::collect(&path).servers.expect("read");
        assert_eq!(servers.len(), 1);
        assert!(servers[0].way.is_ok());
        let empty = Facts::collect(Path::new("/dev/null")).servers;
        assert!(empty.expect("read").is_empty());
    }
}
