//! The virtio network header and the cutting of super-frames.
#![no_main]

use std::convert::Infallible;

use gw::net::Checksum;
use gw::wire::segment::Segmenter;
use gw::tap::{Medium, fuzz_vnet};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((offload, frame)) = fuzz_vnet(bytes) else {
        return;
    };
    if let Checksum::Partial { start, offset } = offload.checksum {
        assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
    }
    for medium in [Medium::Ethernet, Medium::Ip] {
        let mut carried = 0;
        let cut = Segmenter::default().each(medium, &offload, frame, |piece| {
            carried += 1;
            assert!(piece.len() <= frame.len());
            Ok::<(), Infallible>(())
        });
        if cut.is_ok() && offload.gso.is_none() {
            assert_eq!(carried, 1);
        }
    }
});
