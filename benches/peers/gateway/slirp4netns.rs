//! slirp4netns.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Addresses, Gateway, ReadyPipe, Running, TAP, version_line};
use crate::error::Result;

/// `slirp4netns --configure`, ready when it writes to `--ready-fd`.
#[derive(Debug)]
pub(crate) struct Slirp4netns;

impl Gateway for Slirp4netns {
    fn name(&self) -> &'static str {
        "slirp4netns"
    }

    fn version(&self) -> Result<String> {
        version_line(Path::new("slirp4netns"))
    }

    fn start(&self, guest: u32, mtu: u16) -> Result<Running> {
        let ready = ReadyPipe::new()?;
        let mut command = Command::new("slirp4netns");
        command
            .args(["--configure", "--enable-ipv6"])
            .args(["--mtu", &mtu.to_string()])
            .args(["--ready-fd", &ready.child_fd().to_string()])
            .args([&guest.to_string(), TAP])
            // It reports the descriptor it passes around.
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ready.spawn(&mut command)
    }

    fn host_loopback(&self) -> Addresses {
        Addresses {
            v4: Ipv4Addr::new(10, 0, 2, 2),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        }
    }
}
