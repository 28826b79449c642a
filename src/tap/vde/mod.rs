//! VDE networks: plugging into a switch, and being one.

pub mod client;
mod link;
pub mod protocol;
pub mod switch;

/// Bytes that the system may keep for one direction of a port: some hundred
/// frames. The system lowers it to its own limit (`net.core.wmem_max`).
const SOCKET_BUFFER: usize = 1 << 20;

/// The name of a control socket in a switch's directory.
const CTL: &str = "ctl";

#[cfg(test)]
mod tests;
