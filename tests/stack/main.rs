//! The translation core against an independent TCP/IP peer, in memory, on
//! virtual time.
//!
//! lwIP's state is global, so every test needs a process of its own: run these
//! with `cargo nextest run --test stack`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod close;
mod events;
mod faults;
mod flows;
mod handshake;
mod host;
mod idle;
mod inbound;
mod inbound_guest;
mod inbound_udp;
mod ip;
mod loss;
mod many;
mod odd;
mod pressure;
mod raw;
mod recovery;
mod udp;
mod wire;
mod world;
