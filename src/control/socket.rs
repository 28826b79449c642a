//! Making a unix socket that nobody else can reach, and taking it away again.
//!
//! # Theory of operation
//! Linux gives the file that bind(2) makes the mode of the socket's own inode,
//! less the umask. So the mode is set on the socket before, and there is no
//! moment at which others could connect; neither the umask, which is the whole
//! process's, nor a file of another name is touched.
//!
//! bind(2) fails when anything has the path. A socket that nobody listens on
//! (connect(2) says ECONNREFUSED) is what a gateway that was killed left: it is
//! removed and bind(2) tried once more. Everything else is left alone, and is an
//! error.
//!
//! A file is known by device and inode, below a descriptor of its folder: at the
//! end it is removed if the path still leads to it, wherever the process's root
//! is by then.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Bytes of a path that bind(2) takes (`sun_path` less the terminating zero).
pub const MAX_PATH: usize = 107;

/// Connections that wait to be accepted. Many, because connect(2) does not wait
/// for room when the client's socket is non-blocking, as a Go program's is.
const BACKLOG: i32 = 1024;

/// A socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system has no room for the path.
    #[error("the control socket's path '{0}' is too long: unix sockets take {max} bytes; choose a shorter one with --control", max = MAX_PATH)]
    TooLong(PathBuf),
    /// The same, in slirp4netns's words.
    #[error("the specified API socket path is too long")]
    ApiTooLong(PathBuf),
    /// Somebody listens there.
    #[error(
        "somebody listens at '{0}' already: end that program ('gw ctl {0} shutdown', if it is gw), or choose another path"
    )]
    Live(PathBuf),
    /// The path leads to something else.
    #[error("'{0}' is there already and no socket; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot make the socket '{path}': {source}; choose another path")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that listens, and its file. Dropped, the file is removed if it is
/// still that socket's.
#[derive(Debug)]
pub struct Listening {
    listener: Option<UnixListener>,
    _file: File,
}

impl Listening {
    /// The socket, for who accepts; the file stays here.
    pub fn take(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Makes the control socket.
///
/// # Errors
/// [`SocketError`].
pub fn bind_control(path: &Path) -> Result<Listening, SocketError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    let owners = Mode::S_IRUSR | Mode::S_IWUSR;
    match bind(path, owners) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => remove_stale(path)?,
        result => return result.map_err(at(path)),
    }
    bind(path, owners).map_err(at(path))
}

/// Makes slirp4netns's socket: whatever has the path makes way. The file's mode
/// is the one that slirp4netns's has with the usual umask; with another one,
/// still nobody but the owner may connect.
///
/// # Errors
/// [`SocketError`].
pub fn bind_api(path: &Path) -> Result<Listening, SocketError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::ApiTooLong(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).map_err(at(path)),
        _ => bind(path, Mode::from_bits_truncate(0o755)).map_err(at(path)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { path, source }
}

fn bind(path: &Path, mode: Mode) -> io::Result<Listening> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(socket.as_fd(), mode)?;
    socket.set_nonblocking(true)?;
    let folder = open_folder(path)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = File::find(folder, path)?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
    Ok(Listening {
        listener: Some(listener),
        _file: file,
    })
}

/// Makes way for a new socket, if nobody listens on the one there.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at(path)(e)),
    };
    if !there.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::debug!(path = %path.display(), "a socket that nobody listens on is replaced");
            std::fs::remove_file(path).map_err(at(path))
        }
        // EAGAIN: its queue is full, so somebody listens.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(SocketError::Live(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(path)(e)),
    }
}

fn open_folder(path: &Path) -> nix::Result<OwnedFd> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(folder, flags, Mode::empty())
}

/// A socket's file.
#[derive(Debug)]
struct File {
    folder: OwnedFd,
    name: PathBuf,
    identity: (libc::dev_t, libc::ino_t),
}

impl File {
    fn find(folder: OwnedFd, path: &Path) -> nix::Result<Self> {
        let name = path.file_name().ok_or(Errno::EISDIR)?;
        let stat = look_up(&folder, name)?;
        Ok(Self {
            name: name.into(),
            identity: (stat.st_dev, stat.st_ino),
            folder,
        })
    }
}

fn look_up(folder: &OwnedFd, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

impl Drop for File {
    fn drop(&mut self) {
        let Ok(stat) = look_up(&self.folder, self.name.as_os_str()) else {
            return;
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFSOCK && (stat.st_dev, stat.st_ino) == self.identity {
            // Where it cannot be removed, the next one replaces it.
            let _ = unlinkat(&self.folder, &self.name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    fn in_runtime<T>(body: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        body(folder.path())
    }

    #[test]
    fn the_file_is_for_its_owner_only_and_goes_away() {
        in_runtime(|folder| {
            let path = folder.join("s");
            type Bind = fn(&Path) -> Result<Listening, SocketError>;
            let binds: [(Bind, u32); 2] = [(bind_control, 0o600), (bind_api, 0o755)];
            for (bind, expected) in binds {
                let listening = bind(&path).expect("binds");
                let mode = path.metadata().expect("there").permissions().mode();
                // Less the umask of whoever runs the tests; to write is the
                // owner's alone, and that is what connecting takes.
                assert_eq!(mode & !expected & 0o7777, 0);
                assert_eq!(mode & 0o722, 0o600 | (expected & 0o100 & mode));
                UnixStream::connect(&path).expect("listens");
                drop(listening);
                assert!(!path.exists());
            }
        });
    }

    #[test]
    fn what_is_there_already_is_respected_unless_it_is_stale() {
        in_runtime(|folder| {
            let path = folder.join("s");
            let live = bind_control(&path).expect("binds");
            let error = bind_control(&path).map(drop).expect_err("live");
            assert!(matches!(error, SocketError::Live(_)), "{error}");
            assert!(UnixStream::connect(&path).is_ok(), "left alone");
            // As a gateway that was killed leaves it.
            let inode = path.metadata().expect("there").ino();
            std::mem::forget(live._file);
            drop(live.listener);
            let new = bind_control(&path).expect("replaces it");
            assert!(UnixStream::connect(&path).is_ok());
            let _ = inode;
            drop(new);

            std::fs::write(&path, "somebody's").expect("writes");
            let error = bind_control(&path).map(drop).expect_err("a file");
            assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("left"), "somebody's");
            // That which slirp4netns does.
            drop(bind_api(&path).expect("replaces anything"));

            std::os::unix::fs::symlink(folder.join("nowhere"), &path).expect("links");
            let error = bind_control(&path).map(drop).expect_err("a link");
            assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        });
    }

    #[test]
    fn somebody_elses_file_is_not_removed() {
        in_runtime(|folder| {
            let path = folder.join("s");
            let first = bind_control(&path).expect("binds");
            std::fs::remove_file(&path).expect("removes");
            // A new inode for certain: the old one's number could be used again.
            let keep = std::fs::write(folder.join("other"), "");
            keep.expect("writes");
            let second = bind_api(&path).expect("binds");
            let same = first._file.identity == second._file.identity;
            drop(first);
            assert!(same || path.exists());
            drop(second);
            assert!(!path.exists());
        });
    }

    #[test]
    fn errors_say_what_to_do() {
        in_runtime(|folder| {
            let long = folder.join("x".repeat(MAX_PATH));
            let text = |result: Result<Listening, SocketError>| {
                result.map(drop).expect_err("refused").to_string()
            };
            let said = text(bind_control(&long));
            assert!(
                said.contains("too long") && said.contains("shorter"),
                "{said}"
            );
            assert_eq!(
                text(bind_api(&long)),
                "the specified API socket path is too long"
            );
            let said = text(bind_control(&folder.join("no/such")));
            assert!(said.contains("No such file or directory"), "{said}");
            // The longest that is taken.
            let room = MAX_PATH - folder.as_os_str().len() - 1;
            drop(bind_control(&folder.join("y".repeat(room))).expect("fits"));
        });
    }
}
