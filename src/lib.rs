//! `gw`, a userspace network gateway for rootless containers, sandboxes and
//! virtual machines.
//!
//! The layers, from the bottom up. A module uses only what stands above it in
//! this list, and `tests/layering.rs` holds that.
//!
//! # Values: [`net`]
//! Addresses, the address plan, flow keys, sizes. No input or output.
//!
//! # Packets: [`wire`]
//! Views and builders for the few packets `gw` reads or answers itself.
//!
//! # Links: [`tap`]
//! What carries frames: a TAP or TUN in a namespace, inherited descriptors, a
//! child process, UDP, VDE, virtual machines, and a switch that joins several.
//! Knows nothing of [`slirp`].
//!
//! # Translation: [`slirp`]
//! The guest's TCP ends in lwIP, its UDP and ICMP are mapped, and each flow is
//! joined to a host socket. Knows nothing of [`tap`].
//!
//! # Verdicts: [`policy`]
//! A pure function from a flow to what happens to it.
//!
//! # Giving up what is not needed: [`sandbox`]
//! File system, capabilities and system calls that serving does without.
//!
//! # Forwards: [`forward`]
//! Ports of the host that lead to the guest, and the reverse.
//!
//! # Control: [`control`]
//! What can be asked of a running gateway, and the sockets to ask on.
//!
//! # Seeing it: [`capture`], [`observe`]
//! Captures; flow log, statistics, metrics, reports.
//!
//! # Hurting it: [`impair`]
//! Delay, loss and other faults, by rule.
//!
//! # Services: [`services`]
//! What the gateway answers itself: ARP, neighbour discovery, router
//! advertisements, DHCP, DNS.
//!
//! # Composition: [`config`], [`cli`], [`gateway`]
//! Arguments become a validated [`config::Config`]; [`gateway`] builds the rest
//! from it and runs the one loop that moves frames.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "module documentation is for who works on gw, and names what the module holds; \
              --document-private-items makes the links work"
)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod forward;
pub mod gateway;
pub mod impair;
pub mod net;
pub mod observe;
pub mod policy;
pub mod sandbox;
pub mod services;
pub mod slirp;
pub mod tap;
pub mod wire;
