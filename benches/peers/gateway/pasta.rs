//! pasta, of passt.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Addresses, Gateway, Running, TAP, debian_version, version_line};
use crate::agent::monotonic_nanos;
use crate::error::{Context, Error, Result};

/// `pasta --config-net`. It has no ready descriptor: it goes into the background
/// when it is ready, so it is ready when the process that was started ends.
#[derive(Debug)]
pub(crate) struct Pasta {
    /// Where it writes its process id.
    pub(crate) pid_file: PathBuf,
}

impl Gateway for Pasta {
    fn name(&self) -> &'static str {
        "pasta"
    }

    fn version(&self) -> Result<String> {
        let line = version_line(Path::new("pasta"))?;
        Ok(debian_version("passt").map_or(line, |version| format!("pasta, Debian {version}")))
    }

    fn start(&self, guest: u32, mtu: u16) -> Result<Running> {
        let _ = std::fs::remove_file(&self.pid_file);
        let mut command = Command::new("pasta");
        command
            .args(["--config-net", "--quiet", "--ns-ifname", TAP])
            .args(["--mtu", &mtu.to_string()])
            // No port forwards: the others have none by default.
            .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
            .arg("--pid")
            .arg(&self.pid_file)
            .arg(guest.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Without a syslog it complains about that, line by line.
            .stderr(Stdio::null());
        let (spawned_nanos, spawned) = (monotonic_nanos(), Instant::now());
        let status = command
            .status()
            .context(|| format!("starting {command:?}"))?;
        let ready_after = spawned.elapsed();
        if !status.success() {
            return Err(Error(format!("{command:?} failed: {status}")));
        }
        let pid = std::fs::read_to_string(&self.pid_file)
            .context(|| "reading pasta's pid file".into())?;
        let pid: u32 = pid
            .trim()
            .parse()
            .context(|| "reading pasta's pid file".into())?;
        Ok(Running {
            pid: Some(pid),
            spawned_nanos,
            ready_after,
            child: None,
        })
    }

    /// A socket and a timer.
    fn descriptors_per_connection(&self) -> u64 {
        2
    }

    /// The host's default gateway stands for the host's loopback.
    fn host_loopback(&self) -> Addresses {
        Addresses {
            v4: Ipv4Addr::new(192, 0, 2, 254),
            v6: Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0xfe),
        }
    }
}
