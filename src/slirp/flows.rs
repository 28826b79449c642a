//! What flows there are: a snapshot for people and programs that ask.

use std::fmt;
use std::net::SocketAddr;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use super::flow::Token;
use crate::policy::Protocol;

/// TCP flows in one snapshot at most: each costs a system call, and the data
/// path waits meanwhile. The tables bound the others.
pub const MAX_LISTED: usize = 16384;

/// Names a flow. When that has gone, another has the name only after 65536 more.
///
/// Printed and parsed in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId(u64);

impl FlowId {
    /// As events of flows have it.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn token(self) -> Token {
        Token::from_raw(self.0)
    }
}

impl From<Token> for FlowId {
    fn from(token: Token) -> Self {
        Self(token.raw())
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Not the name of a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no flow's name; take one from the list of flows")]
pub struct FlowIdError(String);

impl FromStr for FlowId {
    type Err = FlowIdError;

    fn from_str(text: &str) -> Result<Self, FlowIdError> {
        let invalid = |_: ParseIntError| FlowIdError(text.to_owned());
        u64::from_str_radix(text, 16).map(Self).map_err(invalid)
    }
}

/// Which side began a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The guest.
    Outbound,
    /// A client of a listener.
    Inbound,
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// The other side has not answered yet.
    Connecting,
    /// Data go both ways.
    Open,
    /// One direction has closed.
    HalfClosed,
}

/// A flow at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowInfo {
    /// Its name.
    pub id: FlowId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Which side began it.
    pub direction: Direction,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end as the guest sees it. The guest's own UDP flows lead to
    /// anybody: the last one that it sent to.
    pub remote: SocketAddr,
    /// The other end as the host sees it; none for a unix socket, and before a
    /// host has answered.
    pub peer: Option<SocketAddr>,
    /// How far it is.
    pub state: FlowState,
    /// Payload bytes that the guest was sent.
    pub to_guest: u64,
    /// Payload bytes that the guest has sent.
    pub from_guest: u64,
    /// Since it began.
    pub age: Duration,
    /// Since something last moved.
    pub idle: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_round_trip(raw: u64) {
            prop_assert_eq!(FlowId(raw).to_string().parse(), Ok(FlowId(raw)));
        }

        #[test]
        fn any_text_is_refused_or_a_name(text in "\\PC{0,24}") {
            let _ = text.parse::<FlowId>();
        }
    }
}
