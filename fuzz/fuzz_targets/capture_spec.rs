//! How captures are written: what is read must be written so that it is read as the
//! same again.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| gw::capture::fuzz_spec(text));
