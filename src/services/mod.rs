//! What the gateway answers itself.
//!
//! [`neighbourhood`] is the one the driver talks to: every frame from the guest
//! goes through it first, and ARP, neighbour discovery, router solicitations,
//! DHCP and DHCPv6 are answered there. [`dns`] is the resolver. The modules below it do no input or
//! output and read no clock.

mod arp;
mod classify;
mod dhcp;
mod dhcpv6;
pub mod dns;
mod ndp;
pub mod neighbourhood;
mod ra;
mod search;
