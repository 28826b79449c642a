//! The system calls of the sandbox that need `unsafe`, or have no name elsewhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;

use super::{SandboxError, Stage};

/// What a mount may not be used for.
const ATTRIBUTES: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC;

/// Fails unless this process has one thread: what follows works on threads, not
/// on processes.
pub(super) fn require_single_thread() -> Result<(), SandboxError> {
    let stage = SandboxError::io_at(Stage::Threads);
    // Links of a directory: 2, and one for each within it.
    let links = std::fs::metadata("/proc/self/task")
        .map_err(&stage)?
        .nlink();
    match links {
        3 => Ok(()),
        _ => Err(stage(io::Error::other("there are several"))),
    }
}

/// Makes the mount `tree`, and all below it, read-only and free of programs and
/// devices. False where the kernel (before 5.12) cannot.
pub(super) fn restrict(tree: BorrowedFd<'_>) -> io::Result<bool> {
    let attributes = libc::mount_attr {
        attr_set: ATTRIBUTES,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: mount_setattr(2) reads a zero-terminated string and one
    // `mount_attr` of the size given, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOSYS) => Ok(false),
            e => Err(e),
        },
    }
}

/// Lets the descriptor number `fd` name what `new` names.
pub(super) fn replace(fd: RawFd, new: &OwnedFd) -> io::Result<()> {
    // SAFETY: dup3(2) takes integers. `fd` is open and stays so, under whoever
    // owns it; it only names another file, as if it had been opened like that.
    let result = unsafe { libc::dup3(new.as_raw_fd(), fd, libc::O_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Borrows a descriptor that is known by its number only, for a look at it.
pub(super) fn look_at<T>(fd: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the number was found among the open ones, and this process has
    // one thread, which closes nothing in between.
    look(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Leaves the session's keyring for an empty one: keys of the user are none of a
/// gateway's business.
pub(super) fn leave_keyring() {
    let (join, anonymous) = (libc::KEYCTL_JOIN_SESSION_KEYRING, 0usize);
    // SAFETY: keyctl(2) takes an integer and, here, a null pointer. Kernels
    // without keys refuse, and have none to take along.
    unsafe { libc::syscall(libc::SYS_keyctl, join, anonymous) };
}
