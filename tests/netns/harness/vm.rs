//! A virtual machine in a [`World`](super::World): a kernel of its own, whose
//! console takes shell scripts. It has one network device, the link to be tested.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::console::Console;
use super::image::{
    Accelerator, Kernel, cloud_kernel, qemu_arguments, user_mode_linux, write_initrd,
};
use super::netns::only_child;
use super::{Netns, require};

/// How long a kernel may take to start when it is emulated on a busy machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);

/// How long one script may take.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(30);

/// A running guest; ended when dropped.
pub(crate) struct Vm {
    console: Console,
    /// Its network device.
    interface: &'static str,
    // Ended before anything else goes.
    _machine: Machine,
}

/// The program that runs a guest.
struct Machine {
    /// `nsenter`.
    starter: Child,
    pid: Pid,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.starter.try_wait(), Ok(None)) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.starter.wait();
        }
    }
}

impl Vm {
    /// A guest under QEMU in `netns`, with what `netdev` says as the other end of
    /// its network device, without an `id`.
    #[track_caller]
    pub(crate) fn qemu(netns: &Netns, netdev: &str) -> Self {
        Self::qemu_with_mac(netns, netdev, "52:54:00:12:34:56")
    }

    /// As [`Vm::qemu`], for one of several guests.
    #[track_caller]
    pub(crate) fn qemu_with_mac(netns: &Netns, netdev: &str, mac: &str) -> Self {
        for program in ["qemu-system-x86_64", "cpio"] {
            require(program);
        }
        let kernel = found(cloud_kernel());
        let accelerator = found(Accelerator::best(&kernel));
        let initrd = initrd(netns, &kernel);
        let mut command = netns.command();
        command
            .arg("qemu-system-x86_64")
            .args(qemu_arguments(accelerator, &kernel, &initrd))
            .args(["-netdev", &format!("{netdev},id=link")])
            .arg("-device")
            .arg(format!("virtio-net-pci,romfile=,netdev=link,mac={mac}"));
        Self::start(command, "eth0")
    }

    /// A User-Mode Linux in `netns`, with `device` (`NAME...=...`) as its only
    /// network device, which it calls `interface`.
    #[track_caller]
    pub(crate) fn user_mode_linux(netns: &Netns, interface: &'static str, device: &str) -> Self {
        require("cpio");
        let kernel = found(user_mode_linux());
        let initrd = initrd(netns, &kernel);
        let mut command = netns.command();
        command
            .arg(&kernel.image)
            // With half of it, the first process sometimes may not fork. It takes
            // the part that is used from /dev/shm, where containers have 64 MB.
            .args(["mem=96M", "con=null", "con0=fd:0,fd:1", "root=/dev/ram0"])
            .args(["quiet", "loglevel=1", "panic=-1", "uml_dir=/run/uml"])
            .arg(format!("initrd={}", initrd.display()))
            .arg(device);
        Self::start(command, interface)
    }

    #[track_caller]
    fn start(mut command: Command, interface: &'static str) -> Self {
        let mut starter = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let pid = only_child(Pid::from_raw(
            starter.id().try_into().expect("a process id"),
        ));
        let input = starter.stdin.take().expect("stdin is a pipe");
        let output = starter.stdout.take().expect("stdout is a pipe");
        let machine = Machine { starter, pid };
        let console = Console::start(input, output, BOOT_PATIENCE)
            .unwrap_or_else(|why| panic!("{command:?}: {why}"));
        Self {
            console,
            interface,
            _machine: machine,
        }
    }

    /// Runs a script of one line that must succeed, and returns what it printed,
    /// trimmed.
    #[track_caller]
    pub(crate) fn ok(&mut self, script: &str) -> String {
        found(self.console.run(script, SCRIPT_PATIENCE))
    }

    /// Brings the network device up with a lease by DHCP.
    #[track_caller]
    pub(crate) fn join(&mut self) {
        let interface = self.interface;
        self.ok(&format!("join {interface}"));
    }

    /// As [`Vm::join`], as a guest that has a name.
    #[track_caller]
    pub(crate) fn join_as(&mut self, name: &str) {
        let interface = self.interface;
        self.ok(&format!("join {interface} {name}"));
    }

    /// Its IPv4 address.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        let shown = self.ok(&format!("ip -4 address show dev {}", self.interface));
        let mut words = shown.split_whitespace().skip_while(|word| *word != "inet");
        let address = words.nth(1).and_then(|word| word.split('/').next());
        address
            .unwrap_or_else(|| panic!("no address in {shown}"))
            .to_owned()
    }

    /// Ends it as if its power had been cut.
    pub(crate) fn cut_power(self) {}
}

/// Writes the file system that a guest starts with, where the world's programs
/// find it and where it goes with the world.
#[track_caller]
fn initrd(netns: &Netns, kernel: &Kernel) -> PathBuf {
    let name = "run/initrd";
    let file = netns.root().join(name);
    // Another guest may have it open.
    let _ = fs::remove_file(&file);
    found(write_initrd(&file, kernel, &[]));
    PathBuf::from("/").join(name)
}

#[track_caller]
fn found<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|why| panic!("{why}"))
}
