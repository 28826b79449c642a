//! The slirp4netns personality, the program it takes the place of, and the
//! ordinary user for whom both are made.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::netns::{Finished, Netns, Running};
use super::{World, gw_binary, require, scripts_dir};

/// Debian's slirp4netns, the other side of every comparison.
const REFERENCE: &str = "/usr/bin/slirp4netns";

/// Where a world has its programs; the user without privilege may go there.
const BIN: &str = "/run/.etc/bin";

/// Which program is meant by "slirp4netns".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slirp4netns {
    /// What [`slirp4netns_binary`] names.
    UnderTest,
    /// Debian's.
    Reference,
}

/// The binary under test: `gw`, or what `SLIRP4NETNS_BIN` names.
pub(crate) fn slirp4netns_binary() -> PathBuf {
    std::env::var_os("SLIRP4NETNS_BIN").map_or_else(gw_binary, PathBuf::from)
}

/// The Debian package's link to `gw`; see [`World::install_package`].
pub(crate) const PACKAGED: &str = "/usr/libexec/gw/slirp4netns";

impl Slirp4netns {
    fn folder(self) -> &'static str {
        match self {
            Self::UnderTest => "under-test",
            Self::Reference => "reference",
        }
    }

    fn binary(self) -> PathBuf {
        match self {
            Self::UnderTest => slirp4netns_binary(),
            Self::Reference => {
                require("slirp4netns");
                REFERENCE.into()
            }
        }
    }

    /// The folder in which it is named `slirp4netns`, in a world where it was
    /// installed.
    pub(crate) fn path(self) -> String {
        format!("{BIN}/{}", self.folder())
    }
}

impl World {
    /// Puts the program where everybody in the world can start it, by the name
    /// `slirp4netns`: the name is what tells `gw` which personality is wanted.
    /// Returns its path.
    pub(crate) fn install_slirp4netns(&self, program: Slirp4netns) -> String {
        let folder = program.path();
        self.outer.ok(&format!(
            "set -e
            mkdir -p {folder}
            touch {folder}/binary
            mount --bind {binary} {folder}/binary
            ln -s binary {folder}/slirp4netns",
            binary = program.binary().display(),
        ));
        format!("{folder}/slirp4netns")
    }

    /// Puts the program where the Debian package has it: `gw` in /usr/bin, and
    /// [`PACKAGED`]. Only root can.
    pub(crate) fn install_package(&self) {
        self.outer.ok(&format!(
            "set -e
            for dir in bin libexec; do
                mkdir -p /run/.etc/usr/$dir/upper /run/.etc/usr/$dir/work
                mount -t overlay -o lowerdir=/usr/$dir \\
                    -o upperdir=/run/.etc/usr/$dir/upper,workdir=/run/.etc/usr/$dir/work \\
                    overlay /usr/$dir
            done
            touch /usr/bin/gw
            mount --bind {gw} /usr/bin/gw
            mkdir -p /usr/libexec/gw
            ln -s ../../bin/gw {PACKAGED}",
            gw = slirp4netns_binary().display(),
        ));
    }

    /// Makes the tests' Python helpers readable to everybody in the world.
    pub(crate) fn install_scripts(&self) {
        self.outer.ok(&format!(
            "mkdir -p {SCRIPTS}; mountpoint -q {SCRIPTS} || mount --bind {} {SCRIPTS}",
            scripts_dir().display()
        ));
    }

    /// An ordinary user with a name, a home and a range of subordinate ids, and
    /// a /dev/net/tun that everybody may open. Returns `None`, and says so,
    /// where the tests do not run as root and so cannot become somebody else.
    pub(crate) fn ordinary_user(&self) -> Option<OrdinaryUser<'_>> {
        if !super::is_root() {
            eprintln!("SKIPPED: only root can become an ordinary user");
            return None;
        }
        for program in ["newuidmap", "setpriv"] {
            require(program);
        }
        self.install_scripts();
        self.open_tun();
        self.outer.ok(&format!(
            "set -e
            echo {NAME}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/sh >> /etc/passwd
            echo {NAME}:x:{USER_ID}: >> /etc/group
            echo {NAME}:1000000:65536 > /etc/subuid
            echo {NAME}:1000000:65536 > /etc/subgid
            mkdir -p {HOME} {RUNTIME_DIR}
            chown {USER_ID}:{USER_ID} {HOME} {RUNTIME_DIR}
            chmod 700 {HOME} {RUNTIME_DIR}
            echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range"
        ));
        Some(OrdinaryUser { host: &self.outer })
    }
}

/// [`OrdinaryUser`]'s name. Hopefully nobody's on the machine, as is the id.
const NAME: &str = "gw-test-user";
/// [`OrdinaryUser`]'s id, as user and as group.
pub(crate) const USER_ID: u32 = 54_711;
/// Its home.
pub(crate) const HOME: &str = "/run/.home";
/// Its `XDG_RUNTIME_DIR`.
pub(crate) const RUNTIME_DIR: &str = "/run/user/54711";
/// Where [`World::install_scripts`] puts the Python helpers.
pub(crate) const SCRIPTS: &str = "/run/.etc/scripts";

/// Somebody in the host who is not root; see [`World::ordinary_user`].
pub(crate) struct OrdinaryUser<'a> {
    host: &'a Netns,
}

impl OrdinaryUser<'_> {
    /// A command as this user; its arguments are still to be given.
    fn command(&self) -> Command {
        let mut command = self.host.command();
        command
            .args(["env", "-i", "-C", HOME, "LC_ALL=C"])
            .arg(format!("PATH={}", super::PATH))
            .arg(format!("HOME={HOME}"))
            .arg(format!("USER={NAME}"))
            .arg(format!("XDG_RUNTIME_DIR={RUNTIME_DIR}"))
            .arg(format!("PYTHONPATH={SCRIPTS}"))
            .arg("PYTHONDONTWRITEBYTECODE=1")
            .arg("setpriv")
            .args([format!("--reuid={USER_ID}"), format!("--regid={USER_ID}")])
            // The bounding set stays: newuidmap needs it.
            .args(["--clear-groups", "--inh-caps=-all", "--"]);
        command
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, program: &[impl AsRef<OsStr>]) -> Finished {
        let mut command = self.command();
        command
            .args(["timeout", "-k", "2", "25"])
            .args(program)
            .stdin(Stdio::null());
        Finished::collect(&said(program), command)
    }

    /// Starts a program beside the test.
    pub(crate) fn spawn(&self, program: &[impl AsRef<OsStr>]) -> Running {
        let mut command = self.command();
        command.args(program);
        Running::start(&said(program), command)
    }
}

fn said(program: &[impl AsRef<OsStr>]) -> String {
    let words: Vec<_> = program
        .iter()
        .map(|word| word.as_ref().to_string_lossy())
        .collect();
    words.join(" ")
}
