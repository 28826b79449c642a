//! What the gateway answers itself.

pub mod dns;
