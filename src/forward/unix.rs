//! Unix sockets on the host that lead to the guest.
//!
//! The file belongs to its owner alone (mode 0600) from its first moment on: the
//! kernel makes it with the mode of the socket that is bound, which is set
//! before. So the process's umask, which threads share, is left alone. What is
//! left of a program that has died is replaced; anything else that is in the way
//! stays. At the end the file is removed if it is still this one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};

use super::bind::{BACKLOG, BindError};
use super::spec::Publish;
use super::{HostSocket, SocketKind};

/// The file of a socket that was made here. Dropped, it is removed, unless
/// another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// Held open, so that the file is found whatever becomes of the path.
    folder: OwnedFd,
    name: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(now) = self.stat()
            && (now.st_dev, now.st_ino) == (self.device, self.inode)
        {
            let _ = unlinkat(&self.folder, &self.name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

impl SocketFile {
    fn stat(&self) -> nix::Result<FileStat> {
        fstatat(&self.folder, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }
}

/// Listens at `path`.
pub(super) fn listen(path: &Path) -> Result<(OwnedFd, SocketFile), BindError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => BindError::NoFolder(path.to_owned()),
        Some(libc::EADDRINUSE) => BindError::PathInUse(path.to_owned()),
        Some(libc::EMFILE | libc::ENFILE) => BindError::TooManyFiles,
        _ => BindError::Path {
            path: path.to_owned(),
            source: error,
        },
    };
    let name = path
        .file_name()
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(folder, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let mut file = SocketFile {
        folder,
        name: name.into(),
        device: 0,
        inode: 0,
    };
    clear(path, &file)?;
    let socket = bind(path).map_err(failed)?;
    let made = file.stat().map_err(|e| failed(e.into()))?;
    (file.device, file.inode) = (made.st_dev, made.st_ino);
    socket.listen(BACKLOG).map_err(failed)?;
    Ok((socket.into(), file))
}

/// What the core is given of a socket that listens.
pub(super) const fn host_socket(socket: OwnedFd, publish: &Publish) -> HostSocket {
    HostSocket {
        socket,
        kind: SocketKind::Unix,
        guest: publish.guest,
        port: publish.guest_ports.first,
    }
}

fn bind(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Removes the socket that a program which has died left behind.
fn clear(path: &Path, file: &SocketFile) -> Result<(), BindError> {
    let Ok(there) = file.stat() else {
        // Nothing in the way, or what binding will complain about.
        return Ok(());
    };
    let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFSOCK {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match probe(path) {
        // Nobody listens: the one answer that says so.
        Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => {
            let _ = unlinkat(&file.folder, &file.name, UnlinkatFlags::NoRemoveDir);
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(BindError::Path {
            path: path.to_owned(),
            source: e,
        }),
        // A full backlog says that somebody listens, as an accepted connection does.
        _ => Err(BindError::PathInUse(path.to_owned())),
    }
}

fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn the_file_is_its_owners_and_goes_at_the_end() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (socket, file) = listen(&path).expect("listens");
        let there = fs::metadata(&path).expect("is there");
        assert!(there.file_type().is_socket());
        assert_eq!(there.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("connects");
        drop(socket);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_left_of_the_dead_is_replaced() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        let (_socket, _file) = listen(&path).expect("listens");
        UnixStream::connect(&path).expect("connects");
    }

    #[test]
    fn what_is_alive_stays() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let _alive = UnixListener::bind(&path).expect("a socket");
        assert!(matches!(listen(&path), Err(BindError::PathInUse(_))));
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("a file");
        assert!(matches!(listen(&file), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&file).expect("still there"), b"x");
        let nowhere = folder.path().join("no/where");
        assert!(matches!(listen(&nowhere), Err(BindError::NoFolder(_))));
    }

    #[test]
    fn a_successors_file_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (_socket, file) = listen(&path).expect("listens");
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("a socket");
        drop(file);
        assert!(path.exists());
    }
}
