//! Packets as blocks of pcapng (draft-ietf-opsawg-pcapng) or records of classic
//! pcap, collected in a buffer until they are written.
//!
//! Files have the machine's byte order: dumpcap reads no other from a FIFO.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::{Direction, Form};

/// Bytes of a block around a packet, and of its options but for the comment.
const MAX_OVERHEAD: usize = 32 + 8 + 12 + 4 + 3;

/// `if_tsresol`: units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Bits 0 and 1 of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What every file says of itself, and of its interfaces.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) form: Form,
    pub(super) snaplen: u32,
    /// As text.
    pub(super) filter: Option<String>,
}

/// A packet of the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'p> {
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) interface: u32,
    pub(super) direction: Direction,
    /// At most the snaplen.
    pub(super) data: &'p [u8],
    /// Bytes that it had.
    pub(super) len: usize,
    /// Packets lost between this and the one before.
    pub(super) lost: u64,
    pub(super) comment: Option<&'p str>,
}

/// Counts of an interface, from the capture's beginning to now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statistics {
    pub(super) interface: u32,
    /// Both since 1970.
    pub(super) began: Duration,
    pub(super) ended: Duration,
    /// Packets that the filter picked.
    pub(super) picked: u64,
    /// Those that were lost.
    pub(super) lost: u64,
    /// Those that were written.
    pub(super) written: u64,
}

/// Writes one file's worth into a buffer.
pub(super) struct Encoder {
    about: About,
    buffer: Buffer,
    form: Writer,
}

enum Writer {
    PcapNg(Box<PcapNgWriter<Buffer>>),
    Pcap(PcapWriter<Buffer>),
}

/// A buffer that is also in the writers' hands.
#[derive(Debug, Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encoder {
    /// Begins a file.
    pub(super) fn new(about: About) -> Result<Self, PcapError> {
        let buffer = Buffer::default();
        let form = match about.form {
            Form::PcapNg => {
                let section = SectionHeaderBlock {
                    endianness: Endianness::native(),
                    options: vec![
                        SectionHeaderOption::OS(Cow::Borrowed("Linux")),
                        SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                            "gw ",
                            env!("CARGO_PKG_VERSION")
                        ))),
                    ],
                    ..SectionHeaderBlock::default()
                };
                let writer = PcapNgWriter::with_section_header(buffer.clone(), section)?;
                Writer::PcapNg(Box::new(writer))
            }
            Form::Pcap => {
                let header = PcapHeader {
                    snaplen: about.snaplen,
                    datalink: DataLink::ETHERNET,
                    ts_resolution: TsResolution::NanoSecond,
                    endianness: Endianness::native(),
                    ..PcapHeader::default()
                };
                Writer::Pcap(PcapWriter::with_header(buffer.clone(), header)?)
            }
        };
        Ok(Self {
            about,
            buffer,
            form,
        })
    }

    /// Bytes that wait to be written.
    pub(super) fn len(&self) -> usize {
        self.buffer.0.borrow().len()
    }

    /// Hands the bytes that wait to `write`, and forgets them.
    pub(super) fn drain<T>(&mut self, write: impl FnOnce(&[u8]) -> T) -> T {
        let mut bytes = self.buffer.0.borrow_mut();
        let outcome = write(&bytes);
        bytes.clear();
        outcome
    }

    /// Bytes that a packet takes at most.
    pub(super) fn size_of(packet: &Packet<'_>) -> usize {
        let comment = packet.comment.map_or(0, |text| text.len() + 4 + 3);
        packet.data.len() + MAX_OVERHEAD + comment
    }

    /// Describes the next interface; the first is 0.
    pub(super) fn interface(&mut self, name: &str) -> Result<(), PcapError> {
        let Writer::PcapNg(writer) = &mut self.form else {
            return Ok(());
        };
        let mut options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        if let Some(filter) = &self.about.filter {
            // Type 0: the text of a filter.
            let value = [&[0], filter.as_bytes()].concat();
            options.push(InterfaceDescriptionOption::IfFilter(value.into()));
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.about.snaplen,
            options,
        };
        writer.write_block(&block.into_block())?;
        Ok(())
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>) -> Result<(), PcapError> {
        let len = u32::try_from(packet.len).unwrap_or(u32::MAX);
        match &mut self.form {
            Writer::PcapNg(writer) => {
                let flags = match packet.direction {
                    Direction::FromGuest => OUTBOUND,
                    Direction::ToGuest => INBOUND,
                };
                let mut options = Vec::with_capacity(3);
                if let Some(text) = packet.comment {
                    options.push(EnhancedPacketOption::Comment(Cow::Borrowed(text)));
                }
                options.push(EnhancedPacketOption::Flags(flags));
                if packet.lost > 0 {
                    options.push(EnhancedPacketOption::DropCount(packet.lost));
                }
                let block = EnhancedPacketBlock {
                    interface_id: packet.interface,
                    timestamp: packet.at,
                    original_len: len,
                    data: Cow::Borrowed(packet.data),
                    options,
                };
                writer.write_block(&block.into_block())?;
            }
            Writer::Pcap(writer) => {
                let packet = PcapPacket::new(packet.at, len, packet.data);
                writer.write_packet(&packet)?;
            }
        }
        Ok(())
    }

    pub(super) fn statistics(&mut self, counts: &Statistics) -> Result<(), PcapError> {
        let Writer::PcapNg(writer) = &mut self.form else {
            return Ok(());
        };
        let mut options = vec![
            InterfaceStatisticsOption::IsbStartTime(timestamp(counts.began)),
            InterfaceStatisticsOption::IsbEndTime(timestamp(counts.ended)),
            InterfaceStatisticsOption::IsbIfDrop(counts.lost),
            InterfaceStatisticsOption::IsbUsrDeliv(counts.written),
        ];
        options.push(match self.about.filter {
            Some(_) => InterfaceStatisticsOption::IsbFilterAccept(counts.picked),
            None => InterfaceStatisticsOption::IsbIfRecv(counts.picked),
        });
        let block = InterfaceStatisticsBlock {
            interface_id: counts.interface,
            timestamp: timestamp(counts.ended),
            options,
        };
        writer.write_block(&block.into_block())?;
        Ok(())
    }
}

/// A time for interface statistics. The upper half of it comes first in the file,
/// whatever the byte order; pcap-file 2 writes it as one number.
fn timestamp(at: Duration) -> u64 {
    // Enough for the next five hundred years.
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    if cfg!(target_endian = "little") {
        nanoseconds.rotate_left(32)
    } else {
        nanoseconds
    }
}

#[cfg(test)]
mod tests;
