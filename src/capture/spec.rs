//! Reads a [`CaptureSpec`] from text.

use std::path::PathBuf;
use std::str::FromStr;

/// A capture that is asked for: `FILE[,snaplen=N,size=100M,files=5,filter=EXPR]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Where to; `-` is standard output.
    pub path: PathBuf,
}

/// Not a capture; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaptureSpecError(String);

impl FromStr for CaptureSpec {
    type Err = CaptureSpecError;

    fn from_str(text: &str) -> Result<Self, CaptureSpecError> {
        Err(CaptureSpecError(format!("'{text}' is no capture")))
    }
}
