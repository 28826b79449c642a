//! Why a request is not done, for people and for programs.

use serde::{Deserialize, Serialize};

use crate::control::lines;

/// Why a request was not done; the text says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not one JSON value in UTF-8.
    #[error("not JSON: {0}; send one object like {{\"verb\":\"hello\"}} a line")]
    NotJson(String),
    /// No request.
    #[error("{0}")]
    BadRequest(String),
    /// A line without end.
    #[error("a request is at most {max} bytes; the connection is closed", max = lines::MAX_LINE)]
    TooLong,
    /// A client that does not go on.
    #[error("nothing came for too long; the connection is closed")]
    TooSlow,
    /// There are enough clients.
    #[error("{max} clients are connected already; try again when one is done", max = lines::MAX_CLIENTS)]
    TooManyClients,
    /// Somebody else's process.
    #[error("user {client} may not control a gateway of user {ours}; ask as that user or root")]
    NotAllowed {
        /// Who asks.
        client: u32,
        /// Who may.
        ours: u32,
    },
    /// It names what is not there.
    #[error("{0}")]
    NotFound(String),
    /// Any reason of the part that was asked.
    #[error("{0}")]
    Refused(String),
    /// The gateway is ending.
    #[error("the gateway is ending; start it again first")]
    Stopping,
}

/// A [`RequestError`]'s kind, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "those of RequestError")]
pub enum ErrorCode {
    NotJson,
    BadRequest,
    TooLong,
    TooSlow,
    TooManyClients,
    NotAllowed,
    NotFound,
    Refused,
    Stopping,
}

impl RequestError {
    /// Its kind.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotJson(_) => ErrorCode::NotJson,
            Self::BadRequest(_) => ErrorCode::BadRequest,
            Self::TooLong => ErrorCode::TooLong,
            Self::TooSlow => ErrorCode::TooSlow,
            Self::TooManyClients => ErrorCode::TooManyClients,
            Self::NotAllowed { .. } => ErrorCode::NotAllowed,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Refused(_) => ErrorCode::Refused,
            Self::Stopping => ErrorCode::Stopping,
        }
    }
}

/// A [`RequestError`] as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl From<RequestError> for ErrorBody {
    fn from(error: RequestError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
        }
    }
}
