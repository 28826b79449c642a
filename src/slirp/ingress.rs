//! What becomes of a frame from the guest: checked once, at the door, then led to
//! what it is for. See the table in the room's documentation.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::counters::DropReason;
use super::egress::Problem;
use super::lwip::{FrameBuf, Ingress};
use super::packet::{ETHERNET, Ethernet, IpPacket, TcpHeader, protocol, tcp_flags};
use super::{Slirp, tcp, udp};
use crate::net::{Checksum, MacAddr, Offload};
use crate::wire::checksum;
use crate::wire::icmp::Refusal;

/// Segments with less payload are copied out of their frame buffer, so that a
/// small segment that has to wait does not hold 64 KiB.
const COPY_BELOW: usize = 16 * 1024;

/// Ports that DHCP servers listen on.
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

impl Slirp {
    /// Takes a frame of `len` bytes.
    pub(super) fn frame(
        &mut self,
        buffer: FrameBuf,
        len: usize,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        let frame = &buffer.bytes()[..len];
        let ethernet = Ethernet::parse(frame)?;
        if !self.is_for_us(ethernet.destination) {
            return Err(DropReason::NoNeighbour);
        }
        if !ethernet.is_ip() {
            if let Some((addr, mac)) = ethernet.arp_sender(frame) {
                self.learn(addr.into(), mac);
            }
            self.local(frame, offload.checksum);
            return Ok(());
        }
        let ip = IpPacket::parse(frame, ETHERNET)?;
        if self.is_local(&ip, frame) {
            self.learn(ip.source, ethernet.source);
            if let Some(target) = ip.advertised(frame) {
                self.learn(target.into(), ethernet.source);
            }
            self.local(frame, offload.checksum);
            return Ok(());
        }
        if !self.core.plan.is_guest(ip.source) {
            return Err(DropReason::Source);
        }
        self.core.egress().learn(ip.source, ethernet.source);
        self.packet(buffer, ip, offload)
    }

    fn is_for_us(&self, mac: MacAddr) -> bool {
        mac == self.core.plan.gateway_mac || !mac.is_unicast()
    }

    /// True for what [`Local::frame`](super::Local::frame) answers: neighbour and router discovery,
    /// DHCP for IPv4 and IPv6.
    fn is_local(&self, ip: &IpPacket, frame: &[u8]) -> bool {
        /// Router solicitation to redirect (RFC 4861).
        const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
        if ip.fragment.is_some() {
            return false;
        }
        let payload = &frame[ip.payload.clone()];
        match ip.protocol {
            protocol::ICMPV6 => payload.first().is_some_and(|kind| DISCOVERY.contains(kind)),
            protocol::UDP => payload.get(2..4).is_some_and(|port| match ip.destination {
                IpAddr::V4(to) => {
                    port == DHCP_SERVER.to_be_bytes()
                        && (to == Ipv4Addr::BROADCAST || self.is_own(to.into()))
                }
                IpAddr::V6(_) => port == DHCPV6_SERVER.to_be_bytes(),
            }),
            _ => false,
        }
    }

    fn learn(&mut self, addr: IpAddr, mac: MacAddr) {
        if self.core.plan.is_guest(addr) {
            self.core.egress().learn(addr, mac);
        }
    }

    /// Hands a frame to what answers it here.
    fn local(&mut self, frame: &[u8], checksum: Checksum) {
        let mut answers = std::mem::take(&mut self.answers);
        self.core
            .local
            .frame(self.core.now, frame, checksum, &mut answers);
        for answer in answers.drain(..) {
            self.core.egress().frame(&answer);
        }
        self.answers = answers;
    }

    /// Takes an IP packet; `ip` holds offsets into `buffer`.
    fn packet(
        &mut self,
        buffer: FrameBuf,
        ip: IpPacket,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        if ip.hop_limit <= 1 && !self.is_own(ip.destination) {
            self.core
                .problem(Problem::HopLimit, &buffer.bytes()[ip.packet]);
            return Ok(());
        }
        if let Some(fragment) = ip.fragment {
            let whole = self
                .reassembly
                .input(buffer.bytes(), &ip, fragment, self.core.now)?;
            let Some(whole) = whole else { return Ok(()) };
            let mut ip = IpPacket::parse(&whole, 0)?;
            // The guest found it too long for the path and cut it up: so may we.
            ip.dont_fragment = false;
            return self.packet(self.core.pool.copy_of(&whole), ip, &Offload::default());
        }
        match ip.protocol {
            protocol::TCP => {
                verify(&ip, buffer.bytes(), offload)?;
                self.tcp_segment(buffer, &ip, offload)
            }
            protocol::UDP => self.udp_datagram(buffer, ip, offload),
            protocol::ICMP | protocol::ICMPV6
                if self.inbound.len() > 0
                    && let Some(refusal) = Refusal::parse(&buffer.bytes()[ip.packet.clone()]) =>
            {
                self.refused(&refusal);
                Ok(())
            }
            protocol::ICMP | protocol::ICMPV6 => {
                self.echo.input(&mut self.core, &buffer.bytes()[ip.packet]);
                Ok(())
            }
            _ => Err(DropReason::Protocol),
        }
    }

    /// The guest does not want what a client of a listener has sent.
    fn refused(&mut self, refusal: &Refusal<'_>) {
        if refusal.protocol == protocol::TCP {
            self.tcp.unwanted(&mut self.core, refusal.to, refusal.from);
        } else {
            self.inbound.refused(&mut self.core, refusal);
        }
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.core.plan.is_gateway(addr) || self.core.plan.is_dns(addr)
    }

    fn tcp_segment(
        &mut self,
        buffer: FrameBuf,
        ip: &IpPacket,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        let segment = offload.gso.map(|gso| gso.size);
        let header = TcpHeader::parse(&buffer.bytes()[ip.payload.clone()])?;
        let (guest, remote) = (ip.source, ip.destination);
        let range = ip.payload.clone();
        let len = u16::try_from(range.len()).map_err(|_| DropReason::Malformed)?;
        if header.payload > 0 && !self.core.pool.budget().has_room(header.payload) {
            return Err(DropReason::Memory);
        }
        if header.is_open() {
            // Held, not handed over: the table copies what it needs.
            let arrival = tcp::Arrival {
                ip,
                header,
                bytes: buffer.bytes(),
                segment,
            };
            let pool = Rc::clone(&self.core.pool);
            self.tcp.input(&mut self.core, &arrival, || {
                let frame = pool.copy_of(&buffer.bytes()[range]);
                Ingress {
                    frame,
                    start: 0,
                    len,
                    guest,
                    remote,
                }
            });
            return Ok(());
        }
        let keeps = header.payload > 0 || header.has(tcp_flags::FIN);
        let (frame, start) = if keeps && header.payload < COPY_BELOW {
            (self.core.pool.copy_of(&buffer.bytes()[range]), 0)
        } else {
            (buffer, range.start)
        };
        let arrival = tcp::Arrival {
            ip,
            header,
            bytes: &[],
            segment,
        };
        let ingress = || Ingress {
            frame,
            start,
            len,
            guest,
            remote,
        };
        self.tcp.input(&mut self.core, &arrival, ingress);
        Ok(())
    }

    fn udp_datagram(
        &mut self,
        buffer: FrameBuf,
        ip: IpPacket,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        let datagram = &buffer.bytes()[ip.payload.clone()];
        let header: &[u8; udp::HEADER] = datagram.first_chunk().ok_or(DropReason::Malformed)?;
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        let segment = offload.gso.map(|gso| gso.size).filter(|size| *size > 0);
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        // A super-frame's length field may speak of one piece only.
        let end = if segment.is_some() {
            ip.payload.end
        } else {
            ip.payload.start + len
        };
        if end > ip.payload.end || (segment.is_none() && len < udp::HEADER) {
            return Err(DropReason::Malformed);
        }
        let unchecked = ip.source.is_ipv4() && (c0, c1) == (0, 0); // RFC 768
        if !unchecked {
            let mut exact = ip.clone();
            exact.payload.end = end;
            verify(&exact, buffer.bytes(), offload)?;
        }
        let guest = SocketAddr::new(ip.source, u16::from_be_bytes([s0, s1]));
        let remote = SocketAddr::new(ip.destination, u16::from_be_bytes([d0, d1]));
        if remote.port() == 0 {
            return Err(DropReason::Malformed);
        }
        let payload = ip.payload.start + udp::HEADER..end;
        let arrival = udp::Arrival {
            ip,
            guest,
            remote,
            payload,
            segment,
        };
        if arrival.is_excessive() {
            return Err(DropReason::Malformed);
        }
        match self.inbound.find(guest, remote) {
            Some(client) => self.inbound.answer(&mut self.core, client, arrival, buffer),
            None => self.udp.input(&mut self.core, arrival, buffer),
        }
        Ok(())
    }
}

/// Checks a transport checksum that the link did not vouch for.
fn verify(ip: &IpPacket, bytes: &[u8], offload: &Offload) -> Result<(), DropReason> {
    if offload.checksum != Checksum::Complete {
        return Ok(());
    }
    let transport = &bytes[ip.payload.clone()];
    let pseudo = checksum::pseudo(ip.source, ip.destination, ip.protocol, transport.len());
    let sum = pseudo.ok_or(DropReason::Malformed)?.bytes(transport);
    if sum.is_valid() {
        Ok(())
    } else {
        Err(DropReason::Checksum)
    }
}
