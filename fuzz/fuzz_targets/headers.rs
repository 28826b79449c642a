//! Ethernet, IPv4, IPv6 and TCP headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gw::slirp::fuzzing::headers(bytes));
