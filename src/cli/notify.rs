//! Tells a service manager that the gateway serves: systemd's protocol for units
//! of `Type=notify` (sd_notify(3)), which is one datagram to the socket that
//! `NOTIFY_SOCKET` names.
//!
//! Only `gw --netns` speaks it. `gw run` leaves the variable to its command, which
//! is the service then, and knows better when that is ready.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the socket is: a path, or behind `@` a name in the abstract namespace.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Bytes of the line that `systemctl status` shows.
const MAX_STATUS: usize = 512;

/// The service manager cannot be told; it will think that the start failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    /// Neither a path nor an abstract name.
    #[error("{VARIABLE} is {0:?}, which is no path; unset it, or use Type=exec in the unit of gw")]
    Unknown(OsString),
    /// Nobody listens.
    #[error("cannot tell the service manager at {0:?} that gw is ready: {1}; is it running?")]
    Unreachable(OsString, #[source] io::Error),
}

/// A connection to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: UnixDatagram,
    at: OsString,
}

impl Notifier {
    /// To who has started this process, if that wants to be told. To be called
    /// early: the path may be out of reach once the gateway has shut itself in.
    pub(crate) fn from_env() -> Result<Option<Self>, NotifyError> {
        match env::var_os(VARIABLE) {
            Some(at) if !at.is_empty() => Self::connect(at).map(Some),
            _ => Ok(None),
        }
    }

    fn connect(at: OsString) -> Result<Self, NotifyError> {
        let Some(address) = address(&at) else {
            return Err(NotifyError::Unknown(at));
        };
        match address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            // A manager that does not read must not hold the gateway up.
            socket.set_nonblocking(true)?;
            Ok(socket)
        }) {
            Ok(socket) => Ok(Self { socket, at }),
            Err(error) => Err(NotifyError::Unreachable(at, error)),
        }
    }

    /// Says that traffic flows, with a line for people.
    pub(crate) fn ready(self, status: &str) -> Result<(), NotifyError> {
        // A line break would begin another assignment.
        let status = status.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut message = OsString::from("READY=1\nSTATUS=").into_vec();
        message.extend(status.take(MAX_STATUS).collect::<String>().into_bytes());
        match self.socket.send(&message) {
            Ok(_) => Ok(()),
            Err(error) => Err(NotifyError::Unreachable(self.at, error)),
        }
    }
}

/// The address that the variable names; `None` for what is neither a path nor an
/// abstract name (systemd's `vsock:` is for whole virtual machines).
fn address(at: &OsStr) -> Option<io::Result<SocketAddr>> {
    match at.as_bytes() {
        [b'@', name @ ..] => Some(SocketAddr::from_abstract_name(name)),
        [b'/', ..] => Some(SocketAddr::from_pathname(at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut message = [0; 2048];
        let len = socket.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..len]).into_owned()
    }

    #[test]
    fn a_path_is_told() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bind");
        let notifier = Notifier::connect(path.into()).expect("connects");
        notifier.ready("serving 'a'\nMAINPID=1").expect("sends");
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving 'a' MAINPID=1");
    }

    #[test]
    fn an_abstract_name_is_told() {
        let name = format!("gw-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bind");
        let notifier = Notifier::connect(format!("@{name}").into()).expect("connects");
        notifier.ready(&"x".repeat(5000)).expect("sends");
        assert_eq!(
            received(&manager).len(),
            "READY=1\nSTATUS=".len() + MAX_STATUS
        );
    }

    #[test]
    fn what_is_not_there_is_an_error_that_names_it() {
        let error = Notifier::connect("/no/such/socket".into()).expect_err("refused");
        assert!(error.to_string().contains("/no/such/socket"), "{error}");
        let error = Notifier::connect("vsock:2:1".into()).expect_err("refused");
        assert!(error.to_string().contains("vsock:2:1"), "{error}");
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(bytes: Vec<u8>) {
            let _ = address(&OsString::from_vec(bytes));
        }
    }
}
