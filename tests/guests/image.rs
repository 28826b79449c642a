//! Tiny virtual machines: kernels of Debian's, and an initial file system with
//! busybox that does what the console says (see `init` beside this file).
//!
//! Used by the tests and by the benchmark of links, so it returns errors as text
//! that says what to do.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program that is everything in a guest.
const BUSYBOX: &str = "/bin/busybox";

/// What a guest under QEMU needs for its network device, below the modules'
/// directory; what a kernel has built in is not there.
const VIRTIO: &[&str] = &[
    "kernel/drivers/virtio/virtio.ko",
    "kernel/drivers/virtio/virtio_ring.ko",
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
    "kernel/drivers/virtio/virtio_pci.ko",
    "kernel/net/core/failover.ko",
    "kernel/drivers/net/net_failover.ko",
    "kernel/drivers/net/virtio_net.ko",
];

/// What User-Mode Linux has as modules and needs for IPv6.
const IPV6: &[&str] = &["kernel/lib/crc-ccitt.ko", "kernel/net/ipv6/ipv6.ko"];

/// How long a guest may take to say its first word under KVM. One that hangs says
/// none; one that is slow for once is emulated instead, which is no harm.
const KVM_PATIENCE: Duration = Duration::from_secs(4);

/// A kernel and what of its modules a guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What is started: an image for QEMU, or a program, User-Mode Linux.
    pub(crate) image: PathBuf,
    modules: Vec<PathBuf>,
}

/// A file that a guest has besides busybox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The file here.
    pub(crate) from: PathBuf,
    /// Its absolute path in the guest.
    pub(crate) to: PathBuf,
}

/// What runs a guest's instructions under QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator. Tens of times slower, works everywhere.
    Tcg,
}

impl Accelerator {
    /// The fastest one with which a guest starts here. The answer is kept until
    /// the machine is started again.
    pub(crate) fn best(kernel: &Kernel) -> Result<Self, String> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| format!("reading the machine's boot id: {error}"))?;
        let known = target_dir().join("guests-accelerator");
        let said = fs::read_to_string(&known).unwrap_or_default();
        match said.strip_prefix(boot.trim()).map(str::trim) {
            Some("kvm") => return Ok(Self::Kvm),
            Some("tcg") => return Ok(Self::Tcg),
            _ => {}
        }
        let best = if starts_under_kvm(kernel)? {
            Self::Kvm
        } else {
            Self::Tcg
        };
        // Without the note, the next one tries again.
        let _ = fs::write(&known, format!("{} {}", boot.trim(), best.name()));
        Ok(best)
    }

    /// As QEMU names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Arguments for a QEMU whose guest speaks on standard input and output, without
/// any network device.
pub(crate) fn qemu_arguments(
    accelerator: Accelerator,
    kernel: &Kernel,
    initrd: &Path,
) -> Vec<String> {
    let cpu = match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    };
    let fixed = "-nodefaults -no-user-config -no-reboot -display none -serial stdio -m 160 -cpu";
    let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    arguments.push(cpu.to_owned());
    arguments.push("-machine".to_owned());
    arguments.push(format!("q35,accel={}", accelerator.name()));
    for (option, file) in [("-kernel", &*kernel.image), ("-initrd", initrd)] {
        arguments.push(option.to_owned());
        arguments.push(file.display().to_string());
    }
    // An end on panic, and nothing but the most serious between the answers.
    let console = "console=ttyS0 quiet loglevel=1 panic=-1";
    arguments.extend(["-append".to_owned(), console.to_owned()]);
    arguments
}

/// Debian's kernel for clouds.
pub(crate) fn cloud_kernel() -> Result<Kernel, String> {
    let (image, dir) = find_cloud_kernel()?;
    let modules = VIRTIO.iter().filter_map(|name| module(&dir.join(name)));
    Ok(Kernel {
        modules: modules.collect(),
        image,
    })
}

/// The same kernel with these modules, all of which it must have, and no network
/// device of the machine's.
#[allow(dead_code, reason = "one benchmark has use for other modules")]
pub(crate) fn cloud_kernel_with(modules: &[&str]) -> Result<Kernel, String> {
    let (image, dir) = find_cloud_kernel()?;
    let modules = modules.iter().map(|name| {
        module(&dir.join(name)).ok_or_else(|| missing(&dir.join(name).display().to_string()))
    });
    Ok(Kernel {
        modules: modules.collect::<Result<_, _>>()?,
        image,
    })
}

/// An image, and the directory of its modules.
fn find_cloud_kernel() -> Result<(PathBuf, PathBuf), String> {
    let suffix = "-cloud-amd64";
    for root in roots() {
        for image in entries(&root.join("boot")) {
            let version = image
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"))
                .filter(|version| version.ends_with(suffix));
            let Some(version) = version else { continue };
            let modules = ["lib/modules", "usr/lib/modules"]
                .iter()
                .map(|dir| root.join(dir).join(version))
                .find(|dir| dir.exists());
            if let Some(dir) = modules {
                return Ok((image, dir));
            }
        }
    }
    Err(missing(&format!("boot/vmlinuz-*{suffix}")))
}

/// Debian's User-Mode Linux, whose network devices are built in.
#[allow(dead_code, reason = "the benchmark measures QEMU only")]
pub(crate) fn user_mode_linux() -> Result<Kernel, String> {
    for root in roots() {
        let image = root.join("usr/bin/linux.uml");
        if image.exists() {
            let versions = entries(&root.join("usr/lib/uml/modules"));
            let modules = versions.last().map_or_else(Vec::new, |dir| {
                let files = IPV6.iter().filter_map(|name| module(&dir.join(name)));
                files.collect()
            });
            return Ok(Kernel { image, modules });
        }
    }
    Err(missing("usr/bin/linux.uml"))
}

/// A program of this machine's and the libraries that it is linked with, for a
/// guest, where it is at `to`. The Debian package that has it is `package`.
#[allow(dead_code, reason = "only the benchmarks bring programs")]
pub(crate) fn program(from: &Path, to: &str, package: &str) -> Result<Vec<Extra>, String> {
    let output = Command::new("ldd")
        .arg(from)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("running ldd: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{} is missing or not what ldd expects: install the Debian package {package}",
            from.display()
        ));
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    // Lines are `name => path (address)`, or `path (address)` for the loader.
    let libraries = listing.lines().filter_map(|line| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(Extra {
            from: path.into(),
            to: path.into(),
        })
    });
    let program = Extra {
        from: from.into(),
        to: to.into(),
    };
    Ok(std::iter::once(program).chain(libraries).collect())
}

/// Writes a guest's initial file system to `file`.
pub(crate) fn write_initrd(file: &Path, kernel: &Kernel, extras: &[Extra]) -> Result<(), String> {
    let busybox = Extra {
        from: BUSYBOX.into(),
        to: BUSYBOX.into(),
    };
    if !busybox.from.exists() {
        return Err(format!(
            "{BUSYBOX} is missing: install the Debian package busybox-static"
        ));
    }
    let modules = kernel.modules.iter().map(|from| Extra {
        from: from.clone(),
        to: Path::new("/modules").join(from.file_name().unwrap_or_default()),
    });
    let files: Vec<Extra> = std::iter::once(busybox)
        .chain(modules)
        .chain(extras.iter().cloned())
        .collect();
    let tree = tempfile::tempdir().map_err(|error| format!("making a directory: {error}"))?;
    fill(tree.path(), &files).map_err(|error| format!("gathering a guest's files: {error}"))?;
    pack(tree.path(), file).map_err(|error| {
        format!("packing a guest's files (with Debian's cpio and findutils): {error}")
    })
}

/// Puts all of a guest's files into `tree`.
fn fill(tree: &Path, files: &[Extra]) -> io::Result<()> {
    for (name, text) in [
        ("init", include_str!("init")),
        ("lease", include_str!("lease")),
    ] {
        let path = tree.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    fs::create_dir_all(tree.join("etc"))?;
    for extra in files {
        let to = tree.join(extra.to.strip_prefix("/").unwrap_or(&extra.to));
        fs::create_dir_all(to.parent().unwrap_or(tree))?;
        fs::copy(&extra.from, to)?;
    }
    Ok(())
}

/// Makes the archive that a kernel unpacks. Not compressed: unpacking would be
/// the guest's work.
fn pack(tree: &Path, file: &Path) -> io::Result<()> {
    let output = Command::new("sh")
        .args(["-c", "find . | cpio --quiet -o -H newc -R 0:0"])
        .current_dir(tree)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() || output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(said));
    }
    fs::write(file, output.stdout)
}

/// Whether a guest gets as far as its first word under KVM: there are machines
/// that have the device and on which guests hang.
fn starts_under_kvm(kernel: &Kernel) -> Result<bool, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("making a directory: {error}"))?;
    let initrd = dir.path().join("initrd");
    write_initrd(&initrd, kernel, &[])?;
    let said = dir.path().join("said");
    let output = fs::File::create(&said).map_err(|error| format!("making a file: {error}"))?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(qemu_arguments(Accelerator::Kvm, kernel, &initrd))
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            format!("starting qemu-system-x86_64 (Debian: qemu-system-x86): {error}")
        })?;
    let deadline = Instant::now() + KVM_PATIENCE;
    let mut works = false;
    while !works && Instant::now() < deadline && matches!(qemu.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
        works = fs::read_to_string(&said).is_ok_and(|said| said.contains("::ready"));
    }
    let _ = qemu.kill();
    let _ = qemu.wait();
    Ok(works)
}

/// Where kernels are looked for: what `fetch` unpacked, then what is installed.
fn roots() -> [PathBuf; 2] {
    [target_dir().join("guests"), PathBuf::from("/")]
}

/// Cargo's target directory: this program is in a directory of a profile in it.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let of_profile = program.ancestors().find(|dir| dir.ends_with("deps"));
    let target = of_profile.and_then(|deps| deps.parent()?.parent());
    target.map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// A module's file, as it is or compressed.
fn module(path: &Path) -> Option<PathBuf> {
    ["", ".xz", ".zst", ".gz"]
        .iter()
        .map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())))
        .find(|path| path.exists())
}

/// What is in a directory, sorted; nothing, if it is not there.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn missing(what: &str) -> String {
    format!(
        "{what} is neither in / nor in {}: run tests/guests/fetch (tests/run does)",
        target_dir().join("guests").display()
    )
}
