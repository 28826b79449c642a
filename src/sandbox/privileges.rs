//! Who the process is, and what it may do.

use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{fstat, stat};
use nix::unistd::{Gid, Uid, getegid, geteuid, getppid, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Signal, parent_process_death_signal, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{Power, SandboxError, Stage, sys};

/// The one that is kept.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Capabilities that the kernel's interface has room for.
const MAX_CAPABILITIES: u32 = 64;

/// True when this process may make mount namespaces as it is.
pub(super) fn is_sufficient() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

pub(super) fn is_own_userns(userns: &OwnedFd) -> bool {
    match (fstat(userns), stat("/proc/self/ns/user")) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino),
        // The kernel will say.
        _ => false,
    }
}

/// Makes sure that a mount namespace can be made.
pub(super) fn take_power(power: &Power) -> Result<(), SandboxError> {
    let stage = SandboxError::at(Stage::UserNamespace);
    match power {
        Power::Own => Ok(()),
        Power::Join(userns) => {
            setns(userns, CloneFlags::CLONE_NEWUSER).map_err(&stage)?;
            become_its_root().map_err(&stage)
        }
        Power::New => {
            let (uid, gid) = (geteuid(), getegid());
            unshare(CloneFlags::CLONE_NEWUSER).map_err(&stage)?;
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("{uid} {uid} 1")),
                ("gid_map", format!("{gid} {gid} 1")),
            ] {
                fs::write(format!("/proc/self/{file}"), text)
                    .map_err(SandboxError::io_at(Stage::UserNamespace))?;
            }
            Ok(())
        }
    }
}

/// Files can be made only by a user that the namespace knows. Where it has no
/// root the present one may be known.
fn become_its_root() -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    for result in [setresgid(gid, gid, gid), setresuid(uid, uid, uid)] {
        match result {
            Err(Errno::EINVAL) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Gives up all but [`KEPT`], for good.
pub(super) fn give_up() -> Result<(), SandboxError> {
    let stage = |e: rustix::io::Errno| SandboxError {
        stage: Stage::Capabilities,
        source: e.into(),
    };
    sys::leave_keyring();
    set_no_new_privs(true).map_err(stage)?;
    // In a user namespace that the guest may be root of, capabilities there do
    // not suffice to trace who cannot be dumped (ptrace(2)).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(stage)?;
    clear_ambient_capability_set().map_err(stage)?;
    for number in 0..MAX_CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if capability == KEPT {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Behind the last that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            result => result.map_err(stage)?,
        }
    }
    let kept = capabilities(None).map_err(stage)?.permitted & KEPT;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(stage)
}

/// The signal at the parent's end (prctl(2)), which the kernel forgets when a
/// process changes who it is. Parents such as rootlesskit count on it.
#[derive(Debug)]
pub(super) struct DeathSignal {
    signal: Option<Signal>,
    parent: nix::unistd::Pid,
}

impl DeathSignal {
    pub(super) fn now() -> Self {
        Self {
            signal: parent_process_death_signal().ok().flatten(),
            parent: getppid(),
        }
    }

    /// Sets it again. A parent that ended in the meantime would not be noticed
    /// any more, so that the signal is sent here.
    pub(super) fn restore(self) {
        if self.signal.is_none() {
            return;
        }
        let _ = set_parent_process_death_signal(self.signal);
        if let Some(signal) = self.signal
            && getppid() != self.parent
        {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        }
    }
}
