//! System calls that a gateway which serves does not make, as data.

use libc::c_long;

/// A system call: its name and number.
pub(super) type Call = (&'static str, c_long);

macro_rules! calls {
    ($($name:ident = $number:ident),* $(,)?) => {
        &[$((stringify!($name), libc::$number)),*]
    };
}

/// On every architecture.
const EVERYWHERE: &[Call] = calls![
    // Programs.
    execve = SYS_execve,
    execveat = SYS_execveat,
    // Other processes.
    ptrace = SYS_ptrace,
    process_vm_readv = SYS_process_vm_readv,
    process_vm_writev = SYS_process_vm_writev,
    process_madvise = SYS_process_madvise,
    pidfd_open = SYS_pidfd_open,
    pidfd_getfd = SYS_pidfd_getfd,
    pidfd_send_signal = SYS_pidfd_send_signal,
    kcmp = SYS_kcmp,
    // Namespaces and mounts.
    setns = SYS_setns,
    unshare = SYS_unshare,
    mount = SYS_mount,
    umount2 = SYS_umount2,
    pivot_root = SYS_pivot_root,
    chroot = SYS_chroot,
    open_tree = SYS_open_tree,
    move_mount = SYS_move_mount,
    mount_setattr = SYS_mount_setattr,
    fsopen = SYS_fsopen,
    fsconfig = SYS_fsconfig,
    fsmount = SYS_fsmount,
    fspick = SYS_fspick,
    quotactl = SYS_quotactl,
    swapon = SYS_swapon,
    swapoff = SYS_swapoff,
    // Files by other ways than paths.
    name_to_handle_at = SYS_name_to_handle_at,
    open_by_handle_at = SYS_open_by_handle_at,
    lookup_dcookie = SYS_lookup_dcookie,
    mknodat = SYS_mknodat,
    // Who the process is.
    setuid = SYS_setuid,
    setgid = SYS_setgid,
    setreuid = SYS_setreuid,
    setregid = SYS_setregid,
    setresuid = SYS_setresuid,
    setresgid = SYS_setresgid,
    setfsuid = SYS_setfsuid,
    setfsgid = SYS_setfsgid,
    setgroups = SYS_setgroups,
    capset = SYS_capset,
    personality = SYS_personality,
    // Keys.
    add_key = SYS_add_key,
    request_key = SYS_request_key,
    keyctl = SYS_keyctl,
    // The kernel itself.
    bpf = SYS_bpf,
    perf_event_open = SYS_perf_event_open,
    userfaultfd = SYS_userfaultfd,
    io_uring_setup = SYS_io_uring_setup,
    io_uring_enter = SYS_io_uring_enter,
    io_uring_register = SYS_io_uring_register,
    init_module = SYS_init_module,
    finit_module = SYS_finit_module,
    delete_module = SYS_delete_module,
    kexec_load = SYS_kexec_load,
    reboot = SYS_reboot,
    syslog = SYS_syslog,
    acct = SYS_acct,
    vhangup = SYS_vhangup,
    settimeofday = SYS_settimeofday,
    clock_settime = SYS_clock_settime,
    clock_adjtime = SYS_clock_adjtime,
    adjtimex = SYS_adjtimex,
    sethostname = SYS_sethostname,
    setdomainname = SYS_setdomainname,
    move_pages = SYS_move_pages,
    migrate_pages = SYS_migrate_pages,
];

/// On x86-64 only; elsewhere there is only the newer form of each.
#[cfg(target_arch = "x86_64")]
const HERE: &[Call] = calls![
    fork = SYS_fork,
    vfork = SYS_vfork,
    kexec_file_load = SYS_kexec_file_load,
    mknod = SYS_mknod,
    iopl = SYS_iopl,
    ioperm = SYS_ioperm,
    modify_ldt = SYS_modify_ldt,
    uselib = SYS_uselib,
    ustat = SYS_ustat,
    sysfs = SYS_sysfs,
];
/// On ARM. By its number: not every C library there has a name for it.
#[cfg(target_arch = "aarch64")]
const HERE: &[Call] = &[("kexec_file_load", 294)];
/// Elsewhere.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const HERE: &[Call] = &[];

/// Those that kill the process that makes them.
pub(super) fn all() -> impl Iterator<Item = Call> {
    EVERYWHERE.iter().chain(HERE).copied()
}

/// Names of the system calls that [`forbid_system_calls`] forbids whatever their
/// arguments are.
///
/// [`forbid_system_calls`]: super::forbid_system_calls
pub fn forbidden() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name).chain(["prctl"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What slirp4netns 1.2.0 says it blocks, on x86-64, less umount, which that
    /// has not.
    #[cfg(target_arch = "x86_64")]
    const SLIRP4NETNS: &str = "execve lookup_dcookie pidfd_getfd ptrace process_vm_readv \
        process_vm_writev delete_module finit_module init_module chroot fsconfig fsmount fsopen \
        fspick mount move_mount open_tree pivot_root umount2 open_by_handle_at execveat \
        pidfd_open pidfd_send_signal prctl setns unshare kexec_file_load kexec_load reboot \
        name_to_handle_at";

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn nothing_is_allowed_that_slirp4netns_forbids() {
        for name in SLIRP4NETNS.split_ascii_whitespace() {
            assert!(forbidden().any(|ours| ours == name), "{name}");
        }
    }

    #[test]
    fn each_is_there_once() {
        let mut names: Vec<_> = forbidden().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
