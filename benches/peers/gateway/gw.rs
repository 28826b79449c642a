//! `gw` itself, and with something switched on.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Addresses, Gateway, ReadyPipe, Running, TAP, version_line};
use crate::error::Result;
use crate::report::model::OURS;

/// `gw --netns`, ready when it writes to `--ready-fd`.
#[derive(Debug)]
pub(crate) struct Gw {
    /// The program.
    pub(crate) program: PathBuf,
    /// What it is called in tables.
    pub(crate) name: &'static str,
    /// Options beside those that every run has.
    pub(crate) extra: Vec<String>,
}

impl Gw {
    /// As it is without further options.
    pub(crate) fn plain(program: PathBuf) -> Self {
        Self {
            program,
            name: OURS,
            extra: Vec::new(),
        }
    }

    /// With one thing switched on, each; files go to `scratch`.
    pub(crate) fn with_costs(program: &Path, scratch: &Path) -> Vec<Self> {
        let file = |name: &str| scratch.join(name).display().to_string();
        let variant = |name, extra: &[&str]| Self {
            program: program.to_owned(),
            name,
            extra: extra.iter().map(ToString::to_string).collect(),
        };
        let capture = format!("{},snaplen=128,size=64M,files=2", file("costs.pcapng"));
        let metrics = format!("unix:{}", file("metrics.sock"));
        vec![
            variant("capture", &["--pcap", &capture]),
            variant("flow log", &["--flow-log", &file("costs.jsonl")]),
            variant("metrics", &["--metrics", &metrics]),
            variant("idle rule", &["--impair", IDLE_RULE]),
        ]
    }
}

/// A rule that nothing of the load matches.
const IDLE_RULE: &str = "to 203.0.113.0/24 loss=50%";

impl Gateway for Gw {
    fn name(&self) -> &'static str {
        self.name
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
            .args(&self.extra)
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
