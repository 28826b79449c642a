//! Sending again what is in lwIP's queue, without lwIP.

use std::io::IoSlice;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
use lwip_sys as sys;

use super::connection::shared_of;
use super::sack::{Range, before};
use super::{MAX_SLICES, addr, emit};

/// Longest header here: IPv6, and TCP without options.
const MAX_HEADER: usize = 60;

/// FIN among the flags of a TCP header.
const FIN: u8 = 0x01;

/// Sends the bytes `range` of the connection's queue again, or as many of them
/// as one segment of the queue holds, in frames of `mss`. Returns the end of
/// what was sent, `None` when the queue does not hold `range.left`.
///
/// # Safety
/// `p` is live, and its queue is as lwIP left it.
pub(super) unsafe fn resend(p: &sys::tcp_pcb, range: Range, mss: u16) -> Option<u32> {
    let mut next = p.unacked;
    // SAFETY: the queue is a list of live segments, with live buffers.
    unsafe {
        while let Some(segment) = next.as_ref() {
            let first = sequence(segment);
            let offset = range.left.wrapping_sub(first);
            if before(range.left, first) {
                return None;
            }
            if offset < length(segment) {
                return send(p, segment, range, offset, mss);
            }
            next = segment.next;
        }
    }
    None
}

/// The segment's first sequence number.
///
/// # Safety
/// `segment` is live.
unsafe fn sequence(segment: &sys::tcp_seg) -> u32 {
    // SAFETY: every segment has a TCP header, which need not be aligned for us.
    u32::from_be_bytes(unsafe { segment.tcphdr.add(4).cast::<[u8; 4]>().read_unaligned() })
}

/// # Safety
/// `segment` is live.
unsafe fn has_fin(segment: &sys::tcp_seg) -> bool {
    // SAFETY: as above.
    unsafe { *segment.tcphdr.add(13) & FIN != 0 }
}

/// Sequence numbers that the segment takes.
///
/// # Safety
/// `segment` is live.
unsafe fn length(segment: &sys::tcp_seg) -> u32 {
    // SAFETY: as above.
    u32::from(segment.len) + u32::from(unsafe { has_fin(segment) })
}

/// # Safety
/// As for [`resend`]; `offset` is within the segment.
unsafe fn send(
    p: &sys::tcp_pcb,
    segment: &sys::tcp_seg,
    range: Range,
    offset: u32,
    mss: u16,
) -> Option<u32> {
    // SAFETY: see above.
    let (len, fin) = unsafe { (length(segment), has_fin(segment)) };
    let mut end = len.min(offset.saturating_add(range.len()));
    if end >= u32::from(segment.len) {
        // Never all the data without its FIN: not every stack takes a FIN with
        // data that it already has, which is how lwIP would repeat it.
        end = len;
    }
    let fin = fin && end == len;
    let data_end = end.min(segment.len.into());
    // SAFETY: see above; the slices are used before anything calls lwIP.
    let slices = unsafe { data(segment, offset as usize, data_end as usize) }?;
    let bytes: usize = slices.iter().map(|s| s.len()).sum();
    let headers = headers(p, range.left, fin, bytes)?;
    // SAFETY: the slices borrow live buffers; the egress does not call back.
    let left = unsafe { emit(&headers, &slices, mss) };
    // SAFETY: `p` is live.
    if let Some(shared) = unsafe { shared_of(p) } {
        shared.count_sent(left.packets, true);
    }
    Some(range.left.wrapping_add(end - offset))
}

/// Bytes `from..to` of the segment's data.
///
/// # Safety
/// `segment` is live, and stays so while the slices are used.
unsafe fn data<'a>(
    segment: &'a sys::tcp_seg,
    from: usize,
    to: usize,
) -> Option<ArrayVec<IoSlice<'a>, MAX_SLICES>> {
    let mut slices = ArrayVec::new();
    // SAFETY: the header is in the first buffer, what follows it there and in
    // the rest of the chain is the data.
    unsafe {
        let first = segment.p.as_ref()?;
        let header_len = usize::from(*segment.tcphdr.add(12) >> 4) * 4;
        let before_data = segment
            .tcphdr
            .addr()
            .checked_sub(first.payload.addr())?
            .checked_add(header_len)?;
        let (mut buffer, mut skip, mut at) = (Some(first), before_data, 0);
        while let Some(b) = buffer
            && at < to
        {
            let bytes = std::slice::from_raw_parts(b.payload.cast::<u8>(), b.len.into());
            let bytes = bytes.get(skip..)?;
            let (start, end) = (from.max(at) - at, to.min(at + bytes.len()) - at);
            if start < end {
                slices.try_push(IoSlice::new(&bytes[start..end])).ok()?;
            }
            at += bytes.len();
            skip = 0;
            buffer = b.next.as_ref();
        }
    }
    Some(slices)
}

/// IP and TCP header for `len` bytes of payload, without a TCP checksum.
fn headers(
    p: &sys::tcp_pcb,
    sequence: u32,
    fin: bool,
    len: usize,
) -> Option<ArrayVec<u8, MAX_HEADER>> {
    let window = (p.rcv_ann_wnd >> p.rcv_scale).min(u16::MAX.into());
    let mut tcp = TcpHeader::new(
        p.local_port,
        p.remote_port,
        sequence,
        u16::try_from(window).ok()?,
    );
    tcp.ack = true;
    tcp.acknowledgment_number = p.rcv_nxt;
    tcp.psh = true;
    tcp.fin = fin;
    let payload_len = u16::try_from(tcp.header_len() + len).ok()?;
    let mut bytes = ArrayVec::new();
    match (addr::from_lwip(&p.local_ip), addr::from_lwip(&p.remote_ip)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (from, to) = (from.octets(), to.octets());
            let mut ip = Ipv4Header::new(payload_len, p.ttl, IpNumber::TCP, from, to).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            bytes.try_extend_from_slice(&ip.to_bytes()).ok()?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: payload_len,
                next_header: IpNumber::TCP,
                hop_limit: p.ttl,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            bytes.try_extend_from_slice(&ip.to_bytes()).ok()?;
        }
        _ => return None,
    }
    bytes.try_extend_from_slice(&tcp.to_bytes()).ok()?;
    Some(bytes)
}
