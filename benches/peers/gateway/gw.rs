//! `gw` itself.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

use super::{Addresses, Gateway, ReadyPipe, Running, TAP, version_line};
use crate::error::Result;

/// `gw --netns`, ready when it writes to `--ready-fd`.
#[derive(Debug)]
pub(crate) struct Gw {
    /// The program.
    pub(crate) program: PathBuf,
}

impl Gateway for Gw {
    fn name(&self) -> &'static str {
        "gw"
    }

    fn version(&self) -> Result<String> {
        version_line(&self.program)
    }

    fn start(&self, guest: u32, mtu: u16) -> Result<Running> {
        let ready = ReadyPipe::new()?;
        let mut command = Command::new(&self.program);
        command
            .arg("--quiet")
            .arg("--host-loopback")
            .args(["--ifname", TAP])
            .args(["--mtu", &mtu.to_string()])
            .args(["--ready-fd", &ready.child_fd().to_string()])
            .args(["--netns", &guest.to_string()]);
        ready.spawn(&mut command)
    }

    fn host_loopback(&self) -> Addresses {
        Addresses {
            v4: Ipv4Addr::new(10, 0, 2, 2),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        }
    }
}
