//! What one look at the machine found.

use std::fmt::Display;

use serde::Serialize;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should.
    Pass,
    /// `gw` works, with less than it could have.
    Warning,
    /// `gw` does not work.
    Failure,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at.
    pub(super) name: &'static str,
    /// How it stands.
    pub(super) status: Status,
    /// What was found.
    pub(super) detail: String,
    /// What to do; never with [`Status::Pass`], always otherwise.
    pub(super) remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub(super) fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Pass,
            detail: detail.into(),
            remedy: None,
        }
    }

    /// Something is missing that `gw` can do without.
    pub(super) fn warning(
        name: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Warning,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// The text of an error or warning of `gw`'s, which all say what is wrong and,
    /// behind the first semicolon, what to do.
    pub(super) fn from_text(name: &'static str, status: Status, text: &impl Display) -> Self {
        let text = text.to_string();
        let (detail, remedy) = text
            .split_once("; ")
            .unwrap_or((&text, "nothing that is known; please report this"));
        Self {
            name,
            status,
            detail: detail.to_owned(),
            remedy: Some(remedy.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::AttachError;

    #[test]
    fn errors_are_taken_apart() {
        let check = Check::from_text("x", Status::Failure, &AttachError::TunMissing);
        assert_eq!(check.detail, "/dev/net/tun is missing");
        let remedy = check.remedy.expect("one");
        assert!(
            remedy.starts_with("load the module with 'modprobe tun'"),
            "{remedy}"
        );
        let check = Check::from_text("x", Status::Warning, &"all is lost");
        assert_eq!(check.detail, "all is lost");
        assert!(check.remedy.is_some());
    }
}
