//! `gw speedtest`: what the gateway on this machine can do.
pub mod stats;
