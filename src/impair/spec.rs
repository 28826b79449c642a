//! Reads a [`Rule`] from text.

use std::str::FromStr;

use super::Rule;

/// Not a rule; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Err(RuleError(format!("'{text}' is no rule")))
    }
}
