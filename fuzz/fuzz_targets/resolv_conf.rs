//! The host's resolv.conf.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| gw::services::dns::fuzz_resolv_conf(text));
