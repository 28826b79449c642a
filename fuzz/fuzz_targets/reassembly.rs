//! IP fragments: any packets, and ones whose headers are right.
#![no_main]

use arbitrary::Arbitrary;

#[derive(Debug, Arbitrary)]
struct Piece {
    v6: bool,
    id: u8,
    protocol: u8,
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
    payload: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Packet {
    Any(Vec<u8>),
    Fragment(Piece),
}

fn sum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        let offset = self.offset & 0x1fff;
        let mut out = Vec::new();
        if self.v6 {
            out.extend([0x60, 0, 0, 0]);
            out.extend(((self.payload.len() + 8) as u16).to_be_bytes());
            out.extend([44, 64]);
            out.extend([0xfd; 32]);
            out.extend([self.protocol, 0]);
            out.extend((offset << 3 | u16::from(self.more)).to_be_bytes());
            out.extend(u32::from(self.id).to_be_bytes());
        } else {
            out.extend([0x45, 0]);
            out.extend(((self.payload.len() + 20) as u16).to_be_bytes());
            out.extend(u16::from(self.id).to_be_bytes());
            out.extend((offset | u16::from(self.more) << 13).to_be_bytes());
            out.extend([64, self.protocol, 0, 0, 10, 0, 2, 100, 192, 0, 2, 1]);
            let sum = sum(&out);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out.extend_from_slice(&self.payload);
        out
    }
}

libfuzzer_sys::fuzz_target!(|packets: Vec<Packet>| {
    let packets: Vec<Vec<u8>> = packets
        .into_iter()
        .map(|packet| match packet {
            Packet::Any(bytes) => bytes,
            Packet::Fragment(piece) => piece.bytes(),
        })
        .collect();
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    gw::slirp::fuzzing::reassemble(&packets);
});
