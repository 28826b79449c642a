//! What can be wrong with a link: how it is written, and when it is opened.

use std::io;
use std::os::fd::RawFd;

use super::FORMS;
use crate::tap::AttachError;
use crate::tap::listen::ListenError;
use crate::tap::process::StartError;
use crate::tap::udp::UdpError;
use crate::tap::vde::switch::SwitchError;

/// A specification that makes no sense; the text says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; write {forms}")]
pub(crate) struct LinkSpecError {
    what: String,
    forms: String,
}

impl LinkSpecError {
    /// Something is wrong with one of this kind.
    pub(super) fn of(kind: &str, what: impl Into<String>) -> Self {
        let form = FORMS.iter().find(|(name, _)| *name == kind);
        Self {
            what: what.into(),
            forms: form.map_or_else(all_forms, |(_, form)| (*form).to_owned()),
        }
    }

    /// There is no such kind.
    pub(super) fn unknown(kind: &str) -> Self {
        Self {
            what: format!("there is no kind of link '{kind}'"),
            forms: all_forms(),
        }
    }
}

fn all_forms() -> String {
    let mut text = "one of".to_owned();
    for (_, form) in FORMS {
        text.push_str("\n  ");
        text.push_str(form);
    }
    text
}

/// A link cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the link '{link}': {reason}")]
pub(crate) struct LinkError {
    pub(super) link: String,
    #[source]
    pub(super) reason: Reason,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Fd(#[from] FdError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Udp(#[from] UdpError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A descriptor that was handed down cannot carry frames as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FdError {
    #[error("descriptor {0} is not open; hand it over, like 'gw serve --link fd:3 ... 3<>SOCKET'")]
    NotOpen(RawFd),
    #[error(
        "descriptor {0} is a stream, which does not keep frames apart; say how they are, with \
         framing=len16 (VDE) or framing=len32 (QEMU)"
    )]
    IsStream(RawFd),
    #[error("descriptor {0} keeps messages apart, which need no lengths; leave framing= out")]
    IsDatagram(RawFd),
    #[error("descriptor {0} is a file; hand over a socket, a pipe or a TUN")]
    IsFile(RawFd),
    #[error("descriptor {0} is a TAP or TUN, which says itself what it carries; write fd:{0}")]
    IsInterface(RawFd),
}
