//! The Internet checksum (RFC 1071).
//!
//! # Theory of operation
//! The checksum is a ones' complement sum of 16-bit words. Such a sum does not
//! depend on byte order (RFC 1071 section 2(B)), so the bytes are added as the
//! machine's own words, four at a time into a 64-bit accumulator, which the
//! compiler turns into vector code; the carries are folded once, at the end.
//! A [`Sum`] may be fed in pieces of any length: after a piece of odd length
//! the following one is summed by itself and its bytes are swapped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A running ones' complement sum.
///
/// Up to 2^32 words fit before the accumulator could overflow, far more than a
/// packet has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Sum of native-endian words, carries not folded.
    words: u64,
    /// The bytes added so far are odd in number.
    odd: bool,
}

impl Sum {
    /// An empty sum.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            words: 0,
            odd: false,
        }
    }

    /// Adds `bytes`, as if appended to what was added before.
    #[must_use]
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let sum = add_words(bytes);
        let words = if self.odd {
            self.words + u64::from(fold(sum).swap_bytes())
        } else {
            self.words + sum
        };
        Self {
            words,
            odd: self.odd ^ (bytes.len() % 2 == 1),
        }
    }

    /// Adds one 16-bit word. An even number of bytes must have been added before.
    #[must_use]
    #[inline]
    pub fn word(self, word: u16) -> Self {
        debug_assert!(!self.odd, "a word after an odd number of bytes");
        Self {
            words: self.words + u64::from(word.to_be()),
            odd: self.odd,
        }
    }

    /// The sum folded to 16 bits, not complemented: what a partial checksum
    /// field holds (virtio's `NEEDS_CSUM`). Host byte order.
    #[must_use]
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the folded sum. Host byte order.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// True when the bytes added include a correct checksum.
    #[must_use]
    #[inline]
    pub fn is_valid(self) -> bool {
        // Ones' complement zero; all-zero bytes sum to +0 and are not valid.
        fold(self.words) == 0xffff
    }
}

/// The checksum of `bytes`. Host byte order.
#[must_use]
pub fn internet(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).finish()
}

/// The sum of IPv4's pseudo-header (RFC 768, RFC 9293 section 3.1); `len` is
/// that of the transport header and payload in bytes.
#[must_use]
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    Sum::new()
        .bytes(&src.octets())
        .bytes(&dst.octets())
        .word(u16::from(protocol))
        .word(len)
}

/// The sum of IPv6's pseudo-header (RFC 8200 section 8.1); `len` is that of the
/// transport header and payload in bytes.
#[must_use]
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: u32) -> Sum {
    Sum::new()
        .bytes(&src.octets())
        .bytes(&dst.octets())
        .bytes(&len.to_be_bytes())
        .word(u16::from(next_header))
}

/// The sum of the pseudo-header of either IP version; `None` when the two
/// addresses are of different versions or `len` does not fit the version.
#[must_use]
#[inline]
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Option<Sum> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => Some(pseudo_v4(s, d, protocol, u16::try_from(len).ok()?)),
        (IpAddr::V6(s), IpAddr::V6(d)) => Some(pseudo_v6(s, d, protocol, u32::try_from(len).ok()?)),
        _ => None,
    }
}

/// Sums native-endian words; an odd last byte is padded with zero.
#[inline]
fn add_words(bytes: &[u8]) -> u64 {
    let mut sum = 0u64;
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        // A 32-bit word is congruent to the sum of its halves modulo 0xffff.
        sum += u64::from(u32::from_ne_bytes(*quad));
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

/// Folds the carries back in until 16 bits are left.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are masked; the last sum fits"
)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 1, word by word.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).folded(), 0xddf2);
        assert_eq!(internet(&bytes), !0xddf2);
    }

    #[test]
    fn the_empty_sum() {
        assert_eq!(internet(&[]), 0xffff);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(internet(&bytes), by_the_book(&bytes));
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(internet(&bytes), by_the_book(&bytes));
        }

        #[test]
        fn may_be_fed_in_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut sum, mut from) = (Sum::new(), 0);
            for cut in cuts {
                sum = sum.bytes(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(sum.finish(), by_the_book(&bytes));
        }

        #[test]
        fn a_packet_with_its_checksum_is_valid_and_a_changed_one_is_not(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..100),
            at in any::<prop::sample::Index>(),
            xor in 1u8..=254,
        ) {
            bytes[0] = 0;
            bytes[1] = 0;
            let sum = internet(&bytes).to_be_bytes();
            bytes[0] = sum[0];
            bytes[1] = sum[1];
            prop_assert!(Sum::new().bytes(&bytes).is_valid() || bytes.iter().all(|b| *b == 0));
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            prop_assert!(!Sum::new().bytes(&bytes).is_valid());
        }
    }

    #[test]
    fn pseudo_headers_equal_etherparse() {
        let payload = [1, 2, 3, 4, 5];
        let v4 = etherparse::UdpHeader {
            source_port: 7,
            destination_port: 9,
            length: 13,
            checksum: 0,
        };
        let (s, d) = ([10, 0, 2, 2], [10, 0, 2, 15]);
        let theirs = v4.calc_checksum_ipv4_raw(s, d, &payload).expect("checksum");
        let ours = pseudo_v4(s.into(), d.into(), 17, 13)
            .bytes(&v4.to_bytes())
            .bytes(&payload)
            .finish();
        assert_eq!(ours, theirs);
        let (s, d) = ([0xfd; 16], [0x20; 16]);
        let theirs = v4.calc_checksum_ipv6_raw(s, d, &payload).expect("checksum");
        let ours = pseudo_v6(s.into(), d.into(), 17, 13)
            .bytes(&v4.to_bytes())
            .bytes(&payload)
            .finish();
        assert_eq!(ours, theirs);
        let either = pseudo(IpAddr::from(s), IpAddr::from(d), 17, 13).expect("one family");
        assert_eq!(
            either.bytes(&v4.to_bytes()).bytes(&payload).finish(),
            theirs
        );
        assert!(pseudo(IpAddr::from(s), IpAddr::from([1, 2, 3, 4]), 17, 13).is_none());
    }
}
