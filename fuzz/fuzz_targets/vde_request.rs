//! What a VDE switch is asked on its control socket, and what a client is
//! answered: read or refused, and the same again when it is written.
#![no_main]

use gw::tap::vde::protocol::{ADDRESS_LEN, Request, decode_address, encode_address};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        assert!(!request.description.chars().any(char::is_control));
        // A path as long as the field has no zero byte at its end, and cannot
        // be written by us.
        if let Some(again) = request.encode() {
            let read = Request::parse(&again).expect("our own");
            assert_eq!((&read.client, read.port), (&request.client, request.port));
        }
    }
    if let Some(address) = bytes.first_chunk::<ADDRESS_LEN>()
        && let Some(path) = decode_address(address)
        && let Some(again) = encode_address(&path)
    {
        assert_eq!(decode_address(&again), Some(path));
    }
});
