//! Sockets with a name in the file system: who may use them, what to do with one
//! that somebody left behind, and taking it away at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, chown};
use socket2::{Domain, SockAddr, Socket, Type};

/// Bytes of a socket's path at most (`sun_path`, less a zero byte).
pub(super) const MAX_PATH: usize = 107;

/// Who may use a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of the file. Default 0600.
    pub mode: u32,
    /// Its group; `None`, the default: that of this process.
    pub group: Option<Gid>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            mode: 0o600,
            group: None,
        }
    }
}

/// No socket can be made at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// The path does not fit a socket's address.
    #[error("the path '{path}' is too long for a socket; 107 bytes fit")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("'{path}' exists and is not a socket; remove it, or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another program listens there.
    #[error("another program listens on '{path}'; stop it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot make the socket '{path}': {source}")]
    System {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl From<SocketFileError> for io::Error {
    fn from(error: SocketFileError) -> Self {
        Self::other(error)
    }
}

/// The file of a socket. Dropped, it is removed, unless another file has taken
/// its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Binds `socket` to `path`, where nothing may be yet.
    ///
    /// # Errors
    /// [`SocketFileError`].
    pub fn bind(socket: &Socket, path: &Path, access: &Access) -> Result<Self, SocketFileError> {
        let address = address(path)?;
        let failed = |source| SocketFileError::System {
            path: path.to_owned(),
            source,
        };
        // Linux gives the file the mode of the socket itself: at no time may
        // others use it.
        fchmod(socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed(e.into()))?;
        socket.bind(&address).map_err(failed)?;
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let file = Self {
            path: path.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
        };
        if access.group.is_some() {
            chown(path, None, access.group).map_err(|e| failed(e.into()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(access.mode)).map_err(failed)?;
        Ok(file)
    }

    /// Makes a socket of type `kind` at `path`, in place of one that nobody
    /// listens on any more. It does not block.
    ///
    /// # Errors
    /// [`SocketFileError`].
    pub fn make(
        kind: Type,
        path: &Path,
        access: &Access,
    ) -> Result<(Socket, Self), SocketFileError> {
        make_way(kind, path)?;
        let socket = Socket::new(Domain::UNIX, kind.nonblocking(), None).map_err(|source| {
            SocketFileError::System {
                path: path.to_owned(),
                source,
            }
        })?;
        let file = Self::bind(&socket, path, access)?;
        Ok((socket, file))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode));
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn address(path: &Path) -> Result<SockAddr, SocketFileError> {
    SockAddr::unix(path).map_err(|_| SocketFileError::TooLong {
        path: path.to_owned(),
    })
}

/// Removes a socket that nobody listens on.
fn make_way(kind: Type, path: &Path) -> Result<(), SocketFileError> {
    let at = || path.to_owned();
    let failed = |source| SocketFileError::System { path: at(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketFileError::NotASocket { path: at() });
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, kind.nonblocking(), None).map_err(failed)?;
    match probe.connect(&address(path)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => Err(failed(e)),
        // Even an error such as EAGAIN (all places of its queue are taken) or
        // EPROTOTYPE (another type of socket) comes from somebody who is there.
        _ => Err(SocketFileError::InUse { path: at() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn make(kind: Type, path: &Path) -> Result<(Socket, SocketFile), String> {
        SocketFile::make(kind, path, &Access::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_the_owner_may_use_it_and_it_goes_at_the_end() {
        let dir = tempfile::tempdir().expect("directory");
        for kind in [Type::STREAM, Type::DGRAM, Type::SEQPACKET] {
            let path = dir.path().join("socket");
            let (socket, file) = make(kind, &path).expect("made");
            let mode = fs::symlink_metadata(&path).expect("there").mode();
            assert_eq!(mode & 0o7777, 0o600);
            assert_eq!(file.path(), path);
            drop((socket, file));
            assert!(!path.exists());
        }
    }

    #[test]
    fn the_mode_is_as_asked_whatever_the_umask() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let access = Access {
            mode: 0o666,
            group: Some(nix::unistd::getegid()),
        };
        let _made = SocketFile::make(Type::STREAM, &path, &access).expect("made");
        let mode = fs::symlink_metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o666);
    }

    #[test]
    fn what_was_left_behind_is_replaced_and_what_lives_is_not() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).expect("bind"));
        let (_socket, file) = make(Type::STREAM, &path).expect("stale");
        drop(file);
        drop(UnixDatagram::bind(&path).expect("bind"));
        let (_socket, file) = make(Type::DGRAM, &path).expect("stale");
        drop(file);

        let live = UnixListener::bind(&path).expect("bind");
        for kind in [Type::STREAM, Type::DGRAM, Type::SEQPACKET] {
            let said = make(kind, &path).expect_err("in use");
            assert!(said.contains("another program listens on"), "{said}");
        }
        drop(live);
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "text").expect("write");
        let said = make(Type::STREAM, &path).expect_err("a file");
        assert!(said.contains("is not a socket"), "{said}");
        assert_eq!(fs::read(&path).expect("still there"), b"text");
    }

    #[test]
    fn what_took_its_place_is_not_removed() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let (_socket, file) = make(Type::STREAM, &path).expect("made");
        fs::remove_file(&path).expect("remove");
        let _other = UnixListener::bind(&path).expect("bind");
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn long_paths_are_refused_with_the_limit() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let said = make(Type::STREAM, &path).expect_err("too long");
        assert!(said.contains("107 bytes fit"), "{said}");
        assert!(address(Path::new(&"x".repeat(MAX_PATH))).is_ok());
        assert!(address(Path::new(&"x".repeat(MAX_PATH + 1))).is_err());
    }
}
