//! Giving up the file system, capabilities and system calls, each in a process
//! of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use gw::sandbox::{Power, enter, forbid_system_calls};
use gw::tap::sys::fork_child;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Gid, Uid, UnlinkatFlags, setgroups, setresgid, setresuid, unlinkat};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Runs `body` in a process of its own, which must end as it should.
#[track_caller]
fn in_a_child(body: impl FnOnce()) {
    let status = run(body);
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

fn run(body: impl FnOnce()) -> WaitStatus {
    let mut child = fork_child(|| {
        body();
        0
    })
    .expect("forks");
    child.wait().expect("ends")
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A system call by its number, without looking at what it returns.
fn call(number: libc::c_long, argument: libc::c_long) {
    // SAFETY: the calls tried here take integers, or pointers of which null is
    // an error; in a process that ends here in any case.
    unsafe { libc::syscall(number, argument, 0, 0, 0, 0) };
}

pub(crate) fn forbidden_system_calls_kill() {
    for (what, number, argument) in [
        ("execve", libc::SYS_execve, 0),
        ("execveat", libc::SYS_execveat, -1),
        ("ptrace", libc::SYS_ptrace, 0),
        ("mount", libc::SYS_mount, 0),
        ("umount2", libc::SYS_umount2, 0),
        ("setns", libc::SYS_setns, -1),
        ("unshare", libc::SYS_unshare, 0),
        ("chroot", libc::SYS_chroot, 0),
        ("pivot_root", libc::SYS_pivot_root, 0),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, -1),
        ("pidfd_open", libc::SYS_pidfd_open, -1),
        ("bpf", libc::SYS_bpf, -1),
        ("io_uring_setup", libc::SYS_io_uring_setup, 0),
        ("setuid", libc::SYS_setuid, -1),
        ("keyctl", libc::SYS_keyctl, -1),
        // Like fork(2).
        ("clone", libc::SYS_clone, libc::SIGCHLD.into()),
        ("prctl", libc::SYS_prctl, libc::PR_GET_DUMPABLE.into()),
        #[cfg(target_arch = "x86_64")]
        ("x32's getpid", 0x4000_0000 | libc::SYS_getpid, 0),
    ] {
        let status = run(|| {
            forbid_system_calls().expect("installed");
            call(number, argument);
        });
        let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _));
        assert!(killed, "{what}: {status:?}");
    }
    let status = run(|| {
        forbid_system_calls().expect("installed");
        // SAFETY: TIOCSTI reads one byte, which outlives the call.
        unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
    });
    assert!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
        "typing: {status:?}"
    );
}

pub(crate) fn what_serving_needs_is_not_forbidden() {
    in_a_child(|| {
        forbid_system_calls().expect("installed");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut server, _) = listener.accept().expect("accepts");
        client.write_all(b"x").expect("writes");
        server.read_exact(&mut [0]).expect("reads");
        fs::read(RESOLV_CONF).expect("reads files");
        // A thread with a name: nobody starts one today, but it must not kill.
        let thread = std::thread::Builder::new().name("t".to_owned());
        let done = thread.spawn(|| 7).expect("a thread").join();
        assert_eq!(done.expect("joined"), 7);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let pause = tokio::time::sleep(std::time::Duration::from_millis(2));
            let blocking = tokio::task::spawn_blocking(|| 7);
            pause.await;
            assert_eq!(blocking.await.expect("done"), 7);
        });
    });
}

pub(crate) fn an_open_directory_is_no_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("socket"), "").expect("a file");
    let path = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let inside = open(folder.path(), path, Mode::empty()).expect("opens");
    let root = open("/", path, Mode::empty()).expect("opens");
    let gone = tempfile::tempdir().expect("a folder");
    let removed = open(gone.path(), path, Mode::empty()).expect("opens");
    drop(gone);
    in_a_child(|| {
        enter(&Power::Own, Path::new(RESOLV_CONF)).expect("enters");
        assert_eq!(names("/"), ["etc", "run"]);
        let look = |fd: &OwnedFd, name: &str| {
            let stat = fstatat(fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok::<_, nix::Error>((stat.st_dev, stat.st_ino))
        };
        for fd in [&inside, &root, &removed] {
            let own = fstat(fd).expect("open");
            let up = look(fd, "../../../..").expect("there is a parent");
            assert_eq!(up, (own.st_dev, own.st_ino), "{}", fd.as_raw_fd());
            assert!(look(fd, "root").is_err());
        }
        openat(&inside, "socket", OFlag::O_RDONLY, Mode::empty()).expect("still there");
        unlinkat(&inside, "socket", UnlinkatFlags::NoRemoveDir).expect("removes");
    });
    assert!(!folder.path().join("socket").exists());
}

pub(crate) fn the_host_keeps_its_mounts() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let before = mounts();
    in_a_child(|| {
        enter(&Power::Own, Path::new(RESOLV_CONF)).expect("enters");
        assert!(File::create("/etc/gw-test").is_err(), "read-only");
        assert!(File::create("/gw-test").is_err(), "read-only");
    });
    assert_eq!(mounts(), before);
}

pub(crate) fn who_has_no_power_makes_some() {
    in_a_child(|| {
        let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
        setgroups(&[]).expect("no groups");
        setresgid(gid, gid, gid).expect("nobody");
        setresuid(uid, uid, uid).expect("nobody");
        let power = Power::choose(None);
        assert!(matches!(power, Power::New), "{power:?}");
        // A change of user hides /proc/self from the user it has become.
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
        enter(&power, Path::new(RESOLV_CONF)).expect("enters");
        assert_eq!(names("/"), ["etc", "run"]);
    });
}
