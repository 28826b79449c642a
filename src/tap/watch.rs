//! Notices that the namespace a TAP lives in is no longer wanted.
//!
//! The TAP itself keeps the namespace alive, so that its end cannot be seen
//! from inside. Seen is instead what the caller named: the process (through a
//! pidfd), or the file of the namespace, which is deleted, replaced or unmounted.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

use super::sys;

/// How often a file is looked at. The directory's events come sooner; an
/// unmount gives none.
const PERIOD: Duration = Duration::from_millis(900);

/// Waits for the end of what was attached to.
#[derive(Debug)]
pub struct Watch {
    process: Option<OwnedFd>,
    file: Option<WatchedFile>,
}

#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    id: FileId,
    /// Events of the directory, where it has any.
    events: Option<OwnedFd>,
}

/// Which file a path leads to. The TAP keeps the namespace alive, so that its
/// number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Watch {
    /// Watches a process through its pidfd.
    #[must_use]
    pub const fn process(pidfd: OwnedFd) -> Self {
        Self {
            process: Some(pidfd),
            file: None,
        }
    }

    /// Watches the file of a namespace, and its process if it is one of /proc.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn path(path: &Path) -> io::Result<Self> {
        let id = FileId::of(path)?;
        let process = process_of(path).and_then(|pid| sys::pidfd_open(pid).ok());
        let events = path
            .parent()
            .and_then(|dir| CString::new(dir.as_os_str().as_bytes()).ok())
            .and_then(|dir| sys::watch_directory(&dir).ok());
        Ok(Self {
            process,
            file: Some(WatchedFile {
                path: path.to_owned(),
                id,
                events,
            }),
        })
    }

    /// Resolves when the process has ended or the file is gone, within a second.
    ///
    /// # Errors
    /// When the descriptors cannot be waited for.
    pub async fn gone(&self) -> io::Result<()> {
        tokio::select! {
            result = ended(self.process.as_ref()) => result,
            result = vanished(self.file.as_ref()) => result,
        }
    }
}

/// Resolves when the process has ended; never without one.
async fn ended(pidfd: Option<&OwnedFd>) -> io::Result<()> {
    let Some(pidfd) = pidfd else {
        return std::future::pending().await;
    };
    sys::readable(pidfd.as_fd()).await
}

/// Resolves when the file is gone; never without one.
async fn vanished(file: Option<&WatchedFile>) -> io::Result<()> {
    let Some(file) = file else {
        return std::future::pending().await;
    };
    loop {
        if FileId::of(&file.path).ok() != Some(file.id) {
            return Ok(());
        }
        let pause = tokio::time::sleep(PERIOD);
        match &file.events {
            None => pause.await,
            Some(events) => {
                tokio::select! {
                    () = pause => {}
                    result = sys::readable(events.as_fd()) => {
                        result?;
                        drain(events);
                    }
                }
            }
        }
    }
}

/// Discards the events: that there are some is all they say.
fn drain(events: &OwnedFd) {
    let mut buf = [0; 4096];
    while nix::unistd::read(events, &mut buf).is_ok_and(|n| n > 0) {}
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

/// The process of a path such as `/proc/PID/ns/net`.
fn process_of(path: &Path) -> Option<Pid> {
    let text = path.to_str()?.strip_prefix("/proc/")?;
    let (pid, rest) = text.split_once('/')?;
    (rest == "ns/net").then_some(Pid::from_raw(pid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = Pid::from_raw(child.id().try_into().expect("pid"));
        let watch = Watch::process(sys::pidfd_open(pid).expect("pidfd"));
        runtime().block_on(async {
            let short = Duration::from_millis(50);
            assert!(
                tokio::time::timeout(short, watch.gone()).await.is_err(),
                "still there"
            );
            child.kill().expect("kill");
            let second = Duration::from_secs(1);
            tokio::time::timeout(second, watch.gone())
                .await
                .expect("seen")
                .expect("no error");
        });
        child.wait().expect("wait");
    }

    #[test]
    fn a_deleted_or_replaced_file_is_gone() {
        let dir = tempfile::tempdir().expect("directory");
        for replace in [false, true] {
            let path = dir.path().join("ns");
            let other = dir.path().join("other");
            fs::write(&path, "").expect("write");
            fs::write(&other, "").expect("write");
            let watch = Watch::path(&path).expect("watch");
            runtime().block_on(async {
                let act = async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if replace {
                        fs::rename(&other, &path)
                    } else {
                        fs::remove_file(&path)
                    }
                };
                let gone = tokio::time::timeout(Duration::from_secs(1), watch.gone());
                let (gone, acted) = tokio::join!(gone, act);
                acted.expect("changed");
                gone.expect("seen").expect("no error");
            });
        }
    }

    #[test]
    fn only_namespaces_of_proc_have_a_process() {
        for (path, pid) in [
            ("/proc/12/ns/net", Some(Pid::from_raw(12))),
            ("/proc/12/task/13/ns/net", None),
            ("/proc/self/ns/net", None),
            ("/run/netns/12", None),
        ] {
            assert_eq!(process_of(Path::new(path)), pid, "{path}");
        }
    }
}
