//! Putting the guest's IP fragments together again.
//!
//! # Theory of operation
//! Fragments of one packet are kept in order of their offset. One that overlaps
//! another makes the packet suspect and ends it (RFC 5722, and what Linux does
//! for IPv4 too); an exact repetition is ignored. When nothing is missing, the
//! packet is built with a plain header and handed back.
//!
//! Limits: [`MAX_PACKETS`] under way, [`MAX_FRAGMENTS`] and 64 KiB each,
//! [`LIFETIME`] to complete. A packet that runs out of time is reported to the
//! guest if its first fragment came (RFC 792, RFC 4443).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::counters::DropReason;
use super::packet::{Fragment, IpPacket};
use crate::wire::checksum;

/// Packets being put together.
const MAX_PACKETS: usize = 64;

/// Fragments of one packet; 64 KiB in pieces of the least IPv4 MTU are 1366.
const MAX_FRAGMENTS: usize = 1400;

/// How long a packet may take (RFC 1122 asks for 60 s; Linux takes 30).
const LIFETIME: Duration = Duration::from_secs(30);

/// Largest payload behind an IP header.
const MAX_PAYLOAD: usize = 65535;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    /// 0 for IPv6, whose identification is not per protocol.
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    /// Offset and bytes, ascending, not overlapping.
    parts: Vec<(usize, Vec<u8>)>,
    /// Payload length, once the last fragment came.
    total: Option<usize>,
    /// The first fragment as a packet: its headers serve for the whole.
    first: Option<(Vec<u8>, IpPacket)>,
}

/// Packets under way.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partials: HashMap<Key, Partial>,
}

impl Reassembly {
    /// Takes a fragment; returns the whole packet when it was the last one
    /// missing. `ip` holds offsets into `bytes`.
    pub(crate) fn input(
        &mut self,
        bytes: &[u8],
        ip: &IpPacket,
        fragment: Fragment,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let payload = &bytes[ip.payload.clone()];
        let offset = usize::from(fragment.offset);
        let end = offset + payload.len();
        let uneven = fragment.more && (!payload.len().is_multiple_of(8) || payload.is_empty());
        if uneven || end > MAX_PAYLOAD {
            return Err(DropReason::Malformed);
        }
        let protocol = if ip.source.is_ipv4() { ip.protocol } else { 0 };
        let key = Key {
            source: ip.source,
            destination: ip.destination,
            protocol,
            id: fragment.id,
        };
        if !self.partials.contains_key(&key) && self.partials.len() >= MAX_PACKETS {
            return Err(DropReason::Fragment);
        }
        let partial = self
            .partials
            .entry(key.clone())
            .or_insert_with(|| Partial::new(now));
        if offset == 0 {
            partial.first.get_or_insert_with(|| headers_of(bytes, ip));
        }
        match partial.add(offset, payload, fragment.more) {
            Err(reason) => {
                self.partials.remove(&key);
                Err(reason)
            }
            Ok(false) => Ok(None),
            Ok(true) => Ok(self.partials.remove(&key).and_then(Partial::into_packet)),
        }
    }

    /// Gives up packets that took too long; yields the first fragments of
    /// those, to be reported.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.partials
            .extract_if(|_, partial| now.duration_since(partial.since) >= LIFETIME)
            .filter_map(|(_, partial)| {
                let (headers, _) = partial.first?;
                let (_, payload) = partial.parts.into_iter().next()?;
                Some([headers, payload].concat())
            })
            .collect()
    }

    /// When [`Reassembly::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.partials.values().map(|p| p.since + LIFETIME).min()
    }
}

/// The headers in front of a fragment's payload, alone.
fn headers_of(bytes: &[u8], ip: &IpPacket) -> (Vec<u8>, IpPacket) {
    (
        bytes[ip.packet.start..ip.payload.start].to_vec(),
        ip.clone(),
    )
}

impl Partial {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            parts: Vec::new(),
            total: None,
            first: None,
        }
    }

    /// True when nothing is missing any more.
    fn add(&mut self, offset: usize, payload: &[u8], more: bool) -> Result<bool, DropReason> {
        let end = offset + payload.len();
        if !more && *self.total.get_or_insert(end) != end {
            return Err(DropReason::Fragment);
        }
        // Neither this part nor one that came before may lie beyond the end.
        let last = self
            .parts
            .last()
            .map_or(0, |(start, part)| start + part.len());
        if self.total.is_some_and(|total| end.max(last) > total) {
            return Err(DropReason::Fragment);
        }
        let at = self.parts.partition_point(|(start, _)| *start < offset);
        if self
            .parts
            .get(at)
            .is_some_and(|(start, part)| *start == offset && part == payload)
        {
            return Ok(false); // a repetition
        }
        let before = at.checked_sub(1).and_then(|i| self.parts.get(i));
        let overlaps = before.is_some_and(|(start, part)| start + part.len() > offset)
            || self
                .parts
                .get(at)
                .is_some_and(|(start, _)| *start < end || *start == offset);
        if overlaps || self.parts.len() >= MAX_FRAGMENTS {
            return Err(DropReason::Fragment);
        }
        self.parts.insert(at, (offset, payload.to_vec()));
        let have: usize = self.parts.iter().map(|(_, part)| part.len()).sum();
        Ok(self.total == Some(have))
    }

    /// The whole packet, with the first fragment's headers.
    fn into_packet(self) -> Option<Vec<u8>> {
        let (mut headers, ip) = self.first?;
        let total = self.total?;
        if ip.source.is_ipv4() {
            let len = u16::try_from(headers.len() + total).ok()?;
            headers[2..4].copy_from_slice(&len.to_be_bytes());
            headers[6..8].copy_from_slice(&[0, 0]);
            headers[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum::internet(&headers);
            headers[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            // Extension headers in front of the fragment header have served
            // their purpose: a plain header names the payload.
            headers.truncate(40);
            headers[4..6].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
            headers[6] = ip.protocol;
        }
        headers.extend(self.parts.into_iter().flat_map(|(_, part)| part));
        Some(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(payload: &[u8], fragment: Fragment, v6: bool) -> Vec<u8> {
        let field = if v6 {
            fragment.offset | u16::from(fragment.more)
        } else {
            (fragment.offset / 8) | (u16::from(fragment.more) << 13)
        };
        let mut out = Vec::new();
        if v6 {
            let len = u16::try_from(payload.len() + 8).expect("short");
            out.extend([0x60, 0, 0, 0]);
            out.extend(len.to_be_bytes());
            out.extend([44, 64]);
            out.extend([0xfd; 32]);
            out.extend([17, 0]);
            out.extend(field.to_be_bytes());
            out.extend(fragment.id.to_be_bytes());
        } else {
            let len = u16::try_from(payload.len() + 20).expect("short");
            let id = u16::try_from(fragment.id).expect("short");
            out.extend([0x45, 0]);
            out.extend(len.to_be_bytes());
            out.extend(id.to_be_bytes());
            out.extend(field.to_be_bytes());
            out.extend([64, 17, 0, 0, 10, 0, 2, 100, 192, 0, 2, 1]);
            let sum = checksum::internet(&out);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out.extend_from_slice(payload);
        out
    }

    fn feed(
        table: &mut Reassembly,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let ip = IpPacket::parse(bytes, 0).expect("valid");
        let fragment = ip.fragment.expect("a fragment");
        table.input(bytes, &ip, fragment, now)
    }

    proptest! {
        #[test]
        fn any_order_gives_the_packet_back(
            payload in prop::collection::vec(any::<u8>(), 17..3000),
            step in 1usize..40,
            seed: u64,
            v6: bool,
        ) {
            let step = step * 8;
            let mut pieces: Vec<Vec<u8>> = payload.chunks(step).enumerate().map(|(n, part)| {
                let offset = u16::try_from(n * step).expect("short");
                let more = usize::from(offset) + part.len() < payload.len();
                packet(part, Fragment { id: 7, offset, more }, v6)
            }).collect();
            if pieces.len() < 2 { return Ok(()); }
            let n = pieces.len();
            for i in 0..n {
                let j = usize::try_from(seed >> (i % 56)).expect("64 bit") % n;
                pieces.swap(i, j);
            }
            let mut table = Reassembly::default();
            let now = Instant::now();
            let mut whole = None;
            for piece in &pieces {
                prop_assert!(whole.is_none());
                whole = feed(&mut table, piece, now).expect("no overlap");
            }
            let whole = whole.expect("complete");
            let ip = IpPacket::parse(&whole, 0).expect("valid");
            prop_assert_eq!(ip.fragment, None);
            prop_assert_eq!(&whole[ip.payload], &payload[..]);
            prop_assert!(table.partials.is_empty());
        }

        #[test]
        fn nonsense_is_bounded(pieces in prop::collection::vec((0u16..200, any::<bool>(), 1usize..20, 0u32..3), 0..200)) {
            let mut table = Reassembly::default();
            let now = Instant::now();
            for (offset, more, len, id) in pieces {
                let bytes = packet(&vec![0; len * 8], Fragment { id, offset: offset * 8, more }, false);
                let ip = IpPacket::parse(&bytes, 0).expect("valid");
                if let Some(fragment) = ip.fragment {
                    let _ = table.input(&bytes, &ip, fragment, now);
                }
            }
            prop_assert!(table.partials.len() <= 3);
        }
    }

    #[test]
    fn overlap_ends_the_packet() {
        let mut table = Reassembly::default();
        let now = Instant::now();
        let first = packet(
            &[1; 16],
            Fragment {
                id: 1,
                offset: 0,
                more: true,
            },
            false,
        );
        let overlapping = packet(
            &[2; 16],
            Fragment {
                id: 1,
                offset: 8,
                more: true,
            },
            false,
        );
        assert_eq!(feed(&mut table, &first, now), Ok(None));
        assert_eq!(
            feed(&mut table, &first, now),
            Ok(None),
            "a repetition is harmless"
        );
        assert_eq!(
            feed(&mut table, &overlapping, now),
            Err(DropReason::Fragment)
        );
        assert!(table.partials.is_empty());
    }

    #[test]
    fn is_bounded_in_number_and_time() {
        let mut table = Reassembly::default();
        let now = Instant::now();
        for id in 0..=u32::try_from(MAX_PACKETS).expect("small") {
            let bytes = packet(
                &[0; 8],
                Fragment {
                    id,
                    offset: 0,
                    more: true,
                },
                false,
            );
            let result = feed(&mut table, &bytes, now);
            assert_eq!(result.is_err(), id as usize == MAX_PACKETS);
        }
        assert_eq!(table.next_deadline(), Some(now + LIFETIME));
        assert_eq!(table.expire(now + LIFETIME).len(), MAX_PACKETS);
        assert_eq!(table.next_deadline(), None);
    }
}
