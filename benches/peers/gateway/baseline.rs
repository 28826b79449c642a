//! No gateway: the client is in the host's namespace. What the kernel and the
//! load generators can do.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{Addresses, Gateway, Role, Running};
use crate::agent::monotonic_nanos;
use crate::error::Result;

/// The ceiling.
#[derive(Debug)]
pub(crate) struct Baseline;

impl Gateway for Baseline {
    fn name(&self) -> &'static str {
        "none"
    }

    fn version(&self) -> Result<String> {
        Ok("no gateway: the client in the host's namespace, MTU of loopback and veth".into())
    }

    fn role(&self) -> Role {
        Role::Baseline
    }

    fn start(&self, _guest: u32, _mtu: u16) -> Result<Running> {
        Ok(Running {
            pid: None,
            spawned_nanos: monotonic_nanos(),
            ready_after: Duration::ZERO,
            child: None,
        })
    }

    fn host_loopback(&self) -> Addresses {
        Addresses {
            v4: Ipv4Addr::LOCALHOST,
            v6: Ipv6Addr::LOCALHOST,
        }
    }
}
