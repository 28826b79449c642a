//! Filters of captures: what is read must be written so that it is read as the same
//! again, and no frame is too short or too odd for it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&str, &[u8])| gw::capture::fuzz_filter(input.0, input.1));
