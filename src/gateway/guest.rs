//! The translation core, as the table of forwards sees it.

use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};

use crate::forward::{GuestSide, HostSocket, SocketKind};
use crate::net::AddressPlan;
use crate::policy::{HostTarget, Protocol};
use crate::slirp::{GuestTarget, Listener, ListenerId, ListenerKind, Slirp};

impl GuestSide for Slirp {
    type Listener = ListenerId;

    fn listen(&mut self, socket: HostSocket) -> io::Result<ListenerId> {
        let kind = match socket.kind {
            SocketKind::Tcp => ListenerKind::Tcp,
            SocketKind::Unix => ListenerKind::Unix,
            SocketKind::Udp => ListenerKind::Udp,
        };
        let target = target(&self.policy_mut().plan, socket.guest, socket.port);
        self.listen(Listener {
            socket: socket.socket,
            kind,
            target,
        })
    }

    fn close(&mut self, listener: ListenerId) {
        self.unlisten(listener);
    }

    fn expose(&mut self, protocol: Protocol, port: u16, target: HostTarget) {
        self.policy_mut().exposed.insert(protocol, port, target);
    }

    fn conceal(&mut self, protocol: Protocol, port: u16) {
        self.policy_mut().exposed.remove(protocol, port);
    }
}

/// The guest's address and port; without one, the guest's own of both families.
fn target(plan: &AddressPlan, guest: Option<IpAddr>, port: u16) -> GuestTarget {
    let v4 = |addr| SocketAddrV4::new(addr, port);
    let v6 = |addr| SocketAddrV6::new(addr, port, 0, 0);
    match guest {
        Some(IpAddr::V4(addr)) => GuestTarget {
            v4: Some(v4(addr)),
            v6: None,
        },
        Some(IpAddr::V6(addr)) => GuestTarget {
            v4: None,
            v6: Some(v6(addr)),
        },
        None => GuestTarget {
            v4: plan.v4.map(|plan| v4(plan.guest)),
            v6: plan.v6.map(|plan| v6(plan.guest)),
        },
    }
}
