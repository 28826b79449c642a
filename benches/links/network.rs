//! What a guest can be connected to.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::{Context, Error, Result};
use crate::{PATIENCE, Program};

/// A way to the server for a guest under QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// `gw serve --link qemu:PATH`.
    GwQemu,
    /// `-netdev user`, libslirp in QEMU itself.
    QemuUser,
    /// `gw serve --link vdeswitch:DIR`.
    GwVdeSwitch,
    /// Debian's switch and, plugged into it, the slirp of vde2.
    VdeSlirp,
}

/// A network that a guest can be connected to; gone when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// What QEMU is told, without an `id`.
    pub(crate) netdev: String,
    _programs: Vec<Program>,
}

impl Network {
    pub(crate) const ALL: [Self; 4] = [
        Self::GwQemu,
        Self::QemuUser,
        Self::GwVdeSwitch,
        Self::VdeSlirp,
    ];

    /// What it is called in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GwQemu => crate::report::GW_QEMU,
            Self::QemuUser => crate::report::QEMU_USER,
            Self::GwVdeSwitch => crate::report::GW_VDESWITCH,
            Self::VdeSlirp => crate::report::VDE_SLIRP,
        }
    }

    /// The version of its programs.
    ///
    /// # Errors
    /// When one is not there.
    pub(crate) fn version(self, gw: &Path) -> Result<String> {
        match self {
            Self::GwQemu | Self::GwVdeSwitch => first_line(gw, "gw"),
            Self::QemuUser => first_line(Path::new("qemu-system-x86_64"), "qemu-system-x86"),
            Self::VdeSlirp => {
                // It has no option that says its version.
                let there = Command::new("slirpvde").arg("--help").output();
                there.context(|| "running slirpvde (Debian: vde2)".into())?;
                first_line(Path::new("vde_switch"), "vde2")
            }
        }
    }

    /// Starts what it consists of, with sockets in `place`.
    ///
    /// # Errors
    /// When a program does not start or makes no socket.
    pub(crate) fn start(self, gw: &Path, place: &Path) -> Result<Running> {
        let socket = place.join("socket");
        let path = socket.display();
        let serve = |link: String| {
            let mut command = Command::new(gw);
            command.args(["serve", "--quiet", "--link", &link]);
            Program::start(&mut command, "gw")
        };
        let control = socket.join("ctl");
        let (netdev, programs) = match self {
            Self::QemuUser => ("user".to_owned(), Vec::new()),
            Self::GwQemu => {
                let mut gw = serve(format!("qemu:{path}"))?;
                wait_for(&socket, &mut gw)?;
                let netdev = format!("stream,server=off,addr.type=unix,addr.path={path}");
                (netdev, vec![gw])
            }
            Self::GwVdeSwitch => {
                let mut gw = serve(format!("vdeswitch:{path}"))?;
                wait_for(&control, &mut gw)?;
                (format!("vde,sock={path}"), vec![gw])
            }
            Self::VdeSlirp => {
                let mut command = Command::new("vde_switch");
                let mut switch = Program::start(
                    command.arg("--sock").arg(&socket).stdout(Stdio::null()),
                    "vde2",
                )?;
                wait_for(&control, &mut switch)?;
                let mut command = Command::new("slirpvde");
                command
                    .args(["--dhcp", "--socket"])
                    .arg(&socket)
                    .stderr(Stdio::null());
                let slirp = Program::start(&mut command, "vde2")?;
                (format!("vde,sock={path}"), vec![slirp, switch])
            }
        };
        Ok(Running {
            netdev,
            _programs: programs,
        })
    }
}

/// Waits until `program` has made the socket that it is reached by.
fn wait_for(socket: &Path, program: &mut Program) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        if program.has_ended() {
            return Err(Error(format!("no {}: {program:?} ended", socket.display())));
        }
        if Instant::now() > deadline {
            return Err(Error(format!("no {} after {PATIENCE:?}", socket.display())));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

/// The first line that a program says about its version.
fn first_line(program: &Path, package: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .context(|| format!("running {} (Debian: {package})", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Ok(line.unwrap_or("of unknown version").to_owned())
}
