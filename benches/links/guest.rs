//! The guest: started with a network, told what to do by its console.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::console::Console;
use crate::error::{Context, Error, Result};
use crate::image::{self, Accelerator, Kernel};
use crate::{Program, load};

/// How long an emulated kernel may take to start.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// How long a lease may take.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);

/// What every guest is started from.
#[derive(Debug)]
pub(crate) struct Guest {
    kernel: Kernel,
    accelerator: Accelerator,
    initrd: PathBuf,
}

/// A running guest with an address.
#[derive(Debug)]
pub(crate) struct Machine {
    console: Console,
    _qemu: Program,
}

impl Guest {
    /// Makes the guest's file system in `scratch`.
    ///
    /// # Errors
    /// When a program or kernel is missing.
    pub(crate) fn prepare(scratch: &Path) -> Result<Self> {
        let kernel = image::cloud_kernel().map_err(Error)?;
        let accelerator = Accelerator::best(&kernel).map_err(Error)?;
        let initrd = scratch.join("initrd");
        image::write_initrd(&initrd, &kernel, &load::program()?).map_err(Error)?;
        Ok(Self {
            kernel,
            accelerator,
            initrd,
        })
    }

    /// What runs its instructions.
    pub(crate) fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Starts a guest on a network and waits until it has an address.
    ///
    /// # Errors
    /// When it does not start or gets none.
    pub(crate) fn start(&self, netdev: &str) -> Result<Machine> {
        let arguments = image::qemu_arguments(self.accelerator, &self.kernel, &self.initrd);
        let mut child = Command::new("qemu-system-x86_64")
            .args(arguments)
            .args(["-netdev", &format!("{netdev},id=link")])
            .args(["-device", "virtio-net-pci,romfile=,netdev=link"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "starting qemu-system-x86_64 (Debian: qemu-system-x86)".into())?;
        let ends = child.stdin.take().zip(child.stdout.take());
        let qemu = Program(child);
        let (input, output) = ends.ok_or_else(|| Error("QEMU has no console".into()))?;
        let mut console = Console::start(input, output, BOOT_PATIENCE).map_err(Error)?;
        console.run("join eth0", LEASE_PATIENCE).map_err(Error)?;
        Ok(Machine {
            console,
            _qemu: qemu,
        })
    }
}

impl Machine {
    /// Runs a script of one line that must succeed within `limit`, and returns
    /// what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<String> {
        self.console.run(script, limit).map_err(Error)
    }
}
