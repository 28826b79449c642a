//! The emulated machine in which everything is measured, on a clock of its own.
//!
//! QEMU counts the instructions that it emulates, and one is a nanosecond
//! (`-icount shift=0`); while the machine has nothing to do its clock jumps to the
//! next timer (`sleep=off`). So time in it does not depend on how fast or busy
//! this machine is: a packet that is delayed by 20 ms arrives 20.02 ms later, and
//! ten idle seconds take none.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::console::Console;
use crate::error::{Context, Error, Result};
use crate::image::{self, Accelerator, Extra};
use crate::inside;
use crate::model::{Order, Outcome};

/// What is measured and how, beyond what Debian's kernel has built in.
const MODULES: [&str; 3] = [
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/veth.ko",
    "kernel/net/sched/sch_netem.ko",
];

/// Where Debian has netem's tables of distributions.
const TABLES: &str = "/usr/lib/x86_64-linux-gnu/tc";

/// Room for the programs, twice (as an archive and unpacked), and for gw's buffers.
const MEMORY: &str = "768";

/// How long the kernel may take to start.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// How long one order may take, on this machine's clock.
const PATIENCE: Duration = Duration::from_secs(900);

/// Where this program is in the machine.
const OURS: &str = "/sbin/measure";

/// An emulated machine; ends when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    console: Console,
    qemu: Child,
}

impl Machine {
    /// Starts one with this program and `gw` in it, with files in `scratch`.
    ///
    /// # Errors
    /// When a program or a kernel is missing.
    pub(crate) fn start(gw: &Path, scratch: &Path) -> Result<Self> {
        let kernel = image::cloud_kernel_with(&MODULES).map_err(Error)?;
        let initrd = scratch.join("initrd");
        image::write_initrd(&initrd, &kernel, &files(gw)?).map_err(Error)?;
        // Ends with this program, however that ends.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(image::qemu_arguments(Accelerator::Tcg, &kernel, &initrd))
            .args(["-m", MEMORY, "-icount", "shift=0,sleep=off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| {
                "starting qemu-system-x86_64 with setpriv (Debian: qemu-system-x86, util-linux)"
                    .into()
            })?;
        let ends = child.stdin.take().zip(child.stdout.take());
        let Some((input, output)) = ends else {
            return Err(Error("QEMU has no console".into()));
        };
        let console = Console::start(input, output, BOOT_PATIENCE).map_err(|error| {
            let _ = child.kill();
            Error(format!("starting QEMU: {error}"))
        })?;
        Ok(Self {
            console,
            qemu: child,
        })
    }

    /// Runs a script of one line that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn run(&mut self, script: &str) -> Result<String> {
        self.console.run(script, PATIENCE).map_err(Error)
    }

    /// Has an order carried out.
    ///
    /// # Errors
    /// When something fails in the machine.
    pub(crate) fn carry_out(&mut self, order: &Order) -> Result<Outcome> {
        let text = serde_json::to_string(order).context(|| "writing an order".into())?;
        let printed = self.run(&format!("{OURS} {} '{text}'", crate::INSIDE))?;
        let outcome = printed
            .lines()
            .find_map(|line| line.strip_prefix(inside::MARK))
            .ok_or_else(|| Error(format!("no outcome in: {printed}")))?;
        serde_json::from_str(outcome).context(|| format!("reading the outcome {outcome}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Programs, their libraries and tables.
fn files(gw: &Path) -> Result<Vec<Extra>> {
    let ours = std::env::current_exe().context(|| "finding this program".into())?;
    let mut files = Vec::new();
    for (from, to, package) in [
        (ours.as_path(), OURS, "none: build it with cargo"),
        (gw, inside::GW, "none: build it with cargo"),
        (Path::new("/usr/sbin/ip"), inside::IP, "iproute2"),
        (Path::new("/usr/sbin/tc"), inside::TC, "iproute2"),
    ] {
        files.extend(image::program(from, to, package).map_err(Error)?);
    }
    let tables = std::fs::read_dir(TABLES)
        .context(|| format!("reading netem's tables in {TABLES} (Debian: iproute2)"))?;
    for table in tables {
        let from = table.context(|| format!("reading {TABLES}"))?.path();
        if from
            .extension()
            .is_some_and(|extension| extension == "dist")
        {
            files.push(Extra {
                to: from.clone(),
                from,
            });
        }
    }
    Ok(files)
}
