//! The system calls that need `unsafe`, each behind a safe function.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::MacAddr;

/// Longest interface name, in bytes (`IFNAMSIZ` less the terminating zero).
pub const MAX_IFNAME: usize = libc::IFNAMSIZ - 1;

/// Turns the -1 of a system call into its error.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A TAP's or TUN's flags (`IFF_*` of `linux/if_tun.h`).
pub(super) type TunFlags = libc::c_int;

fn ifreq(name: &str, flags: TunFlags) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > MAX_IFNAME || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `ifreq` is plain data for which all zero bytes are a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // The kernel's field is a short; every flag we use fits its 16 bits.
    let [a, b, ..] = flags.to_le_bytes();
    request.ifr_ifru.ifru_flags = i16::from_le_bytes([a, b]);
    Ok(request)
}

/// `TUNSETIFF`: attaches `tun` to the interface `name`, made when missing.
pub(super) fn tun_set_iff(tun: BorrowedFd<'_>, name: &str, flags: TunFlags) -> io::Result<()> {
    let mut request = ifreq(name, flags)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(())
}

/// `TUNGETIFF`: the flags of the interface that `tun` is attached to.
pub(super) fn tun_get_flags(tun: BorrowedFd<'_>) -> io::Result<TunFlags> {
    // SAFETY: `ifreq` is plain data for which all zero bytes are a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: TUNGETIFF fills `ifru_flags`; any bits are a value of a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(TunFlags::from(flags) & 0xffff)
}

/// `SIOCGIFHWADDR`: the MAC address of the TAP that `tun` is attached to.
pub(super) fn tun_get_mac(tun: BorrowedFd<'_>) -> io::Result<MacAddr> {
    // SAFETY: `ifreq` is plain data for which all zero bytes are a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: SIOCGIFHWADDR writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: SIOCGIFHWADDR fills `ifru_hwaddr`, plain bytes.
    let bytes = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(bytes) {
        [*to] = from.to_ne_bytes();
    }
    Ok(MacAddr(mac))
}

/// `TUNSETOFFLOAD`: what the kernel may leave to us (`TUN_F_*`).
pub(super) fn tun_set_offload(tun: BorrowedFd<'_>, offload: libc::c_uint) -> io::Result<()> {
    let argument = libc::c_ulong::from(offload);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, argument) })?;
    Ok(())
}

/// `TUNSETVNETHDRSZ`: bytes of the header in front of each frame.
pub(super) fn tun_set_header_len(tun: BorrowedFd<'_>, len: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })?;
    Ok(())
}

/// `NS_GET_USERNS`: the user namespace that owns the namespace `ns`.
pub(super) fn owning_userns(ns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument.
    let fd = check(unsafe { libc::ioctl(ns.as_raw_fd(), libc::NS_GET_USERNS) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `NS_GET_NSTYPE`: which kind of namespace `fd` is (`CLONE_NEW*`).
pub(super) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) })
}

/// A descriptor of the process `pid` that polls readable when it has ended.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    check(fd)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that the caller of this program handed down, and
/// keeps it from being handed down further. Of the standard three a copy is
/// taken, since the rest of the program uses them too.
///
/// # Errors
/// `EBADF` when it is not open, or was not handed down: a descriptor that is open
/// and would be closed for a program is one that this program has opened.
pub fn adopt_fd(fd: RawFd) -> io::Result<OwnedFd> {
    let fd = if (0..=libc::STDERR_FILENO).contains(&fd) {
        // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes integers; a bad number is
        // an error.
        check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) })?
    } else {
        // SAFETY: fcntl(2) with F_GETFD takes integers; a bad number is an error.
        let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
        if flags & libc::FD_CLOEXEC != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: fcntl(2) with F_SETFD takes integers; a bad number is an error.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        fd
    };
    // SAFETY: it is open, as fcntl said, and either new or handed to this
    // program to own: callers adopt before they open anything themselves, so
    // that the number is not that of something else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `inotify_init1` and a watch on what leaves the directory `dir`.
pub(super) fn watch_directory(dir: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: inotify_init1(2) takes one integer.
    let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mask = libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;
    // SAFETY: `dir` is a zero-terminated string that outlives the call.
    check(unsafe {
        libc::inotify_add_watch(fd.as_raw_fd(), dir.as_ptr(), mask | libc::IN_ONLYDIR)
    })?;
    Ok(fd)
}

/// Registers a descriptor with the runtime, to be told when it becomes readable.
///
/// # Errors
/// When the descriptor cannot be polled, or the runtime has no room.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the result, so that it stays open and
    // keeps naming the same file for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Resolves when `fd` polls readable, or has hung up.
///
/// # Errors
/// When it is of a kind that cannot be waited for, such as a regular file.
pub async fn readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for longer than the registration
    // lives, so that it stays open and its number is not another's.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    fd.readable().await?.retain_ready();
    Ok(())
}

/// Resolves when the other end of a pipe or socket is closed. Data that comes
/// in the meantime is neither read nor taken for anything.
///
/// # Errors
/// When `fd` is of a kind that cannot be waited for, such as a regular file.
pub async fn hung_up(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: as in `readable`.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    loop {
        let mut guard = registered.readable().await?;
        // A socket whose peer will send no more is closed for our purpose.
        if guard.ready().is_read_closed() {
            return Ok(());
        }
        // Cleared before looking: what happens after the look wakes us again.
        guard.clear_ready();
        // With no events asked for, poll(2) tells of hang-up and error alone.
        let mut look = [PollFd::new(fd, PollFlags::empty())];
        poll(&mut look, PollTimeout::ZERO)?;
        if look[0].any().unwrap_or(true) {
            return Ok(());
        }
    }
}

/// Resolves when poll(2), asked for nothing, tells of `fd`: its other end is
/// closed altogether, or it is broken. Data, and an end that will only send no
/// more, are taken for nothing.
///
/// # Errors
/// When `fd` is of a kind that cannot be waited for, such as a regular file.
pub async fn disconnected(fd: BorrowedFd<'_>) -> io::Result<()> {
    let interest = Interest::READABLE | Interest::ERROR;
    // SAFETY: as in `readable`.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    loop {
        let mut look = [PollFd::new(fd, PollFlags::empty())];
        poll(&mut look, PollTimeout::ZERO)?;
        if look[0].any().unwrap_or(true) {
            return Ok(());
        }
        // What happened since the look has made an edge.
        registered.ready(interest).await?.clear_ready();
    }
}

/// True when this process ignores `signal`, as its caller may have arranged
/// (nohup(1), a shell's background jobs).
#[must_use]
pub fn is_ignored(which: Signal) -> bool {
    // SAFETY: `sigaction` is plain data for which all zero bytes are a value.
    let mut now: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    #[expect(
        clippy::as_conversions,
        reason = "the discriminants are the signal numbers"
    )]
    let number = which as libc::c_int;
    // SAFETY: without a new action sigaction(2) only writes the present one to
    // `now`, which outlives the call.
    let result = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut now) };
    result == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Gives SIGPIPE its default effect again, which Rust's start-up code had taken
/// away: a command to be executed expects it.
///
/// # Errors
/// None that is known.
pub fn restore_sigpipe() -> io::Result<()> {
    // SAFETY: no handler is installed: SIG_DFL runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Lets ended children stay until they are waited for. A caller that ignores
/// SIGCHLD, which is inherited, would have the kernel reap them and forget how
/// they ended. A handler that somebody installed stays.
fn keep_children() -> io::Result<()> {
    if is_ignored(Signal::SIGCHLD) {
        // SAFETY: no handler is installed: SIG_DFL runs no code of ours.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    }
    Ok(())
}

/// Starts `command` in a process group of its own. It is killed (SIGKILL) when
/// the calling thread ends, however that happens.
///
/// # Errors
/// As [`std::process::Command::spawn`].
pub(super) fn spawn_to_die_with_us(command: &mut Command) -> io::Result<std::process::Child> {
    keep_children()?;
    let parent = nix::unistd::getpid();
    let die = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have gone before that took effect.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes two system calls, which
    // are async-signal-safe, and neither allocates nor locks.
    unsafe { command.pre_exec(die) };
    command.spawn()
}

/// A process made by [`fork_child`].
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaped: Option<WaitStatus>,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// True when it has been waited for: its id may be another's now.
    #[must_use]
    pub const fn is_reaped(&self) -> bool {
        self.reaped.is_some()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// None that is known.
    pub fn wait(&mut self) -> io::Result<WaitStatus> {
        loop {
            if let Some(status) = self.reaped {
                return Ok(status);
            }
            match waitpid(self.pid, None) {
                Err(nix::Error::EINTR) => {}
                result => self.reaped = Some(result?),
            }
        }
    }
}

/// Forks; the child runs `body` and ends with the status it returns.
///
/// # Errors
/// When the system has no room for a process, or this one has more than one
/// thread: the child would find other threads' locks held for ever.
pub fn fork_child(body: impl FnOnce() -> i32) -> io::Result<Child> {
    if thread_count()? != 1 {
        return Err(io::Error::other(
            "this process has several threads; fork before starting them",
        ));
    }
    keep_children()?;
    // SAFETY: there is one thread, so that no lock is held by another and the
    // child may do what it likes, as after any sequential program's fork.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child,
            reaped: None,
        }),
        ForkResult::Child => {
            let status = body();
            // SAFETY: _exit(2) ends the process without running the parent's
            // exit handlers; nothing after it relies on this stack.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Threads of this process; 1 where /proc is not to be had.
fn thread_count() -> io::Result<u64> {
    // Its links are those of any directory, 2, and one for each thread: one
    // call instead of reading the directory.
    match std::fs::metadata("/proc/self/task") {
        Ok(tasks) => Ok(tasks.nlink().saturating_sub(2)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(1),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_threads_is_not_forked() {
        // The test harness has a thread of its own beside this one.
        let other = std::thread::spawn(std::thread::park);
        assert!(thread_count().expect("count") > 1);
        assert!(fork_child(|| 0).is_err());
        other.thread().unpark();
        other.join().expect("joined");
    }
}
