//! What clients of the control sockets send.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = gw::control::proto::parse(bytes) {
        let again = serde_json::to_vec(&request).expect("a request can be encoded");
        assert_eq!(gw::control::proto::parse(&again), Ok(request));
    }
    gw::control::slirp4netns::fuzz(bytes);
});
