//! VDE networks: plugging into a switch, and being one.

pub mod client;
mod link;
pub mod protocol;
pub mod switch;

/// The name of a control socket in a switch's directory.
const CTL: &str = "ctl";

#[cfg(test)]
mod tests;
