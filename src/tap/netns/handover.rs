//! Hands a TAP from the child that has made it to its parent, and with it the
//! sockets that show the sockets of its namespace, if there are any.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use nix::sys::stat::stat;
use serde::{Deserialize, Serialize};

use super::{Made, system};
use crate::tap::{AttachError, SocketOwners, SocketWatch, Tap};

/// Bytes of the child's report: an error with two paths in it, escaped.
const MAX_REPORT: usize = 64 << 10;

/// Descriptors that a child hands over.
#[derive(Debug)]
pub struct Handed {
    /// The TAP.
    pub tap: OwnedFd,
    /// A socket of `sock_diag` in the TAP's namespace, to follow what listens.
    pub sockets: Option<OwnedFd>,
    /// Another, to find the processes that flows belong to.
    pub owners: Option<OwnedFd>,
}

/// The child's report.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    made: Made,
    /// Which descriptors come behind the TAP's.
    sockets: bool,
    owners: bool,
    /// The inode of the network namespace.
    namespace: Option<u64>,
}

/// What a parent has of its child's work.
#[derive(Debug)]
pub struct Received {
    /// The link.
    pub tap: Tap,
    /// Shows the namespace's sockets, if that was asked for.
    pub sockets: Option<SocketWatch>,
    /// Shows whose they are, if that was asked for.
    pub owners: Option<SocketOwners>,
    /// What was made.
    pub made: Made,
}

/// The two ends over which a TAP is handed from a child to its parent.
///
/// # Errors
/// When there is no room for descriptors.
pub fn handover_pair() -> Result<(OwnedFd, OwnedFd), AttachError> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|e| system("socketpair", e.into()))
}

/// Sends what a child has made, or why it could not.
///
/// # Errors
/// When the parent is gone.
pub fn report(socket: &impl AsRawFd, made: Result<(Handed, Made), AttachError>) -> io::Result<()> {
    let (handed, report) = match made {
        Ok((handed, made)) => {
            let report = Report {
                made,
                sockets: handed.sockets.is_some(),
                owners: handed.owners.is_some(),
                namespace: own_namespace(),
            };
            (Some(handed), Ok(report))
        }
        Err(e) => (None, Err(e)),
    };
    let text = serde_json::to_vec(&report)?;
    let fds = handed
        .iter()
        .flat_map(|h| [Some(&h.tap), h.sockets.as_ref(), h.owners.as_ref()]);
    let fds: Vec<RawFd> = fds.flatten().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&text)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Waits for what a child sends by [`report`].
///
/// # Errors
/// The child's own, or [`AttachError::HelperDied`].
pub fn receive(socket: &OwnedFd) -> Result<Received, AttachError> {
    let mut text = vec![0; MAX_REPORT];
    let mut control = cmsg_space!([RawFd; 3]);
    let (len, fds) = {
        let mut parts = [IoSliceMut::new(&mut text)];
        let message = loop {
            match recvmsg::<UnixAddr>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::Error::EINTR) => {}
                result => break result.map_err(|e| system("receiving the TAP", e.into()))?,
            }
        };
        let fds: Vec<OwnedFd> = message
            .cmsgs()
            .map_err(|e| system("receiving the TAP", e.into()))?
            .flat_map(|c| match c {
                ControlMessageOwned::ScmRights(fds) => fds,
                _ => Vec::new(),
            })
            // SAFETY: the kernel has just made this descriptor for us, and this
            // is the one place that takes it over.
            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
            .collect();
        (message.bytes, fds)
    };
    let mut fds = fds.into_iter();
    if len == 0 {
        return Err(AttachError::HelperDied {
            status: "it said nothing".to_owned(),
        });
    }
    let report: Result<Report, AttachError> =
        serde_json::from_slice(&text[..len]).map_err(|e| AttachError::HelperDied {
            status: e.to_string(),
        })?;
    match (report?, fds.next()) {
        (report, Some(tap)) => {
            let mut next = |is_there: bool| is_there.then(|| fds.next()).flatten();
            Ok(Received {
                tap: Tap::from_fd(tap).map_err(|e| system("taking over the TAP", e))?,
                sockets: next(report.sockets).map(SocketWatch::from_fd),
                owners: next(report.owners)
                    .map(|socket| SocketOwners::from_fd(socket, report.namespace)),
                made: report.made,
            })
        }
        (_, None) => Err(AttachError::HelperDied {
            status: "it sent no TAP".to_owned(),
        }),
    }
}

/// The inode of the network namespace that this process is in now.
fn own_namespace() -> Option<u64> {
    Some(stat("/proc/self/ns/net").ok()?.st_ino)
}
