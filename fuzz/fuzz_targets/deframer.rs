//! Frames behind their lengths, in a stream that comes in pieces: the first byte
//! says how long lengths are, the second how the stream is cut. Cut or not, the
//! frames are the same.
#![no_main]

use gw::tap::framing::{Deframer, Prefix};

/// The frames, and whether the stream stayed in step.
fn frames(prefix: Prefix, stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut deframer = Deframer::new(prefix);
    let mut frames = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let space = deframer.space();
        assert!(!space.is_empty());
        let n = piece.min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        deframer.filled(n);
        rest = &rest[n..];
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => {
                    assert!(!frame.is_empty() && frame.len() <= gw::net::MAX_FRAME_LEN);
                    frames.push(frame.to_vec());
                }
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [kind, piece, stream @ ..] = bytes else {
        return;
    };
    let prefix = if kind & 1 == 0 {
        Prefix::Len16
    } else {
        Prefix::Len32
    };
    let whole = frames(prefix, stream, stream.len().max(1));
    let pieces = frames(prefix, stream, usize::from(*piece).max(1));
    assert_eq!(whole, pieces);
    let carried: usize = whole.0.iter().map(|f| f.len() + prefix.size()).sum();
    assert!(carried <= stream.len());
});
