//! VDE networks: plugging into a switch, and being one.

pub mod protocol;
