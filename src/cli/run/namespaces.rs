//! New namespaces for the calling process.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::cli::resolve::Identity;
use crate::tap::{AttachError, userns_remedy};

/// Moves the calling process, which must have one thread, into a user, a network
/// and a mount namespace of its own. Its uid and gid are mapped as `identity`
/// says; no others are mapped.
pub(in crate::cli) fn enter_new(identity: Identity) -> Result<(), AttachError> {
    let (uid, gid) = (geteuid(), getegid());
    let others = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    match unshare(CloneFlags::CLONE_NEWUSER | others) {
        Ok(()) => map_ids(identity, uid, gid),
        // Root does without a user namespace where there can be none.
        Err(e) => unshare(others).map_err(|_| denied(e)),
    }
}

/// Moves the calling process, which must have one thread, into a user namespace
/// of its own and nothing else. Says whether there can be one, for root too.
pub(in crate::cli) fn enter_user() -> Result<(), AttachError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(denied)?;
    map_ids(Identity::Same, uid, gid)
}

fn map_ids(identity: Identity, uid: Uid, gid: Gid) -> Result<(), AttachError> {
    let (inner_uid, inner_gid) = match identity {
        Identity::Same => (uid.as_raw(), gid.as_raw()),
        Identity::Root => (0, 0),
    };
    // Giving up setgroups(2) is the price of mapping a gid without privileges
    // (user_namespaces(7)).
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{inner_uid} {uid} 1")),
        ("gid_map", format!("{inner_gid} {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|e| denied(nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))?;
    }
    Ok(())
}

fn denied(errno: nix::Error) -> AttachError {
    AttachError::Unshare {
        errno: errno.into(),
        remedy: userns_remedy(),
    }
}
