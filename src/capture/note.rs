//! What is said about flows in a capture: verdicts, names.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use crate::net::Medium;
use crate::policy::{FlowVerdict, Protocol};
use crate::wire::summary::Summary;

/// Notes that wait for a packet of their flow; the oldest makes room.
pub const MAX_NOTES: usize = 1024;

/// Bytes of a note; more is cut off.
pub const MAX_NOTE_LEN: usize = 1024;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Something to be said about a flow: becomes the comment of a packet of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    flow: FlowKey,
    text: String,
}

/// Which flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKey {
    protocol: Protocol,
    guest: SocketAddr,
    remote: SocketAddr,
}

impl Note {
    /// A note about the flow between these two, as the guest sees them. Ports do
    /// not matter for echo.
    #[must_use]
    pub fn new(
        protocol: Protocol,
        guest: SocketAddr,
        remote: SocketAddr,
        mut text: String,
    ) -> Self {
        let end = (0..=MAX_NOTE_LEN.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        Self {
            flow: FlowKey::new(protocol, guest, remote),
            text,
        }
    }

    /// What became of a flow, and the name by which the guest knows the remote:
    /// `www.example.com: connected`. Where it led to is said if that is not the
    /// address that the guest asked for.
    #[must_use]
    pub fn verdict(
        protocol: Protocol,
        guest: SocketAddr,
        remote: SocketAddr,
        verdict: FlowVerdict,
        peer: Option<SocketAddr>,
        name: Option<&str>,
    ) -> Self {
        let what = match verdict {
            FlowVerdict::Connected => match peer {
                Some(peer) if peer != remote => format!("connected to {peer}"),
                _ => "connected".to_owned(),
            },
            FlowVerdict::Unix => "connected to a unix socket".to_owned(),
            FlowVerdict::Dns => "answered by the gateway's resolver".to_owned(),
            FlowVerdict::Refused => "refused".to_owned(),
            FlowVerdict::Unreachable => "unreachable".to_owned(),
            FlowVerdict::NoAnswer => "no answer".to_owned(),
            FlowVerdict::Dropped => "dropped by policy".to_owned(),
            FlowVerdict::NoRoom => "turned away: no room".to_owned(),
            FlowVerdict::Impaired(kind) => format!("impaired: {kind}"),
        };
        let text = match name {
            Some(name) => format!("{name}: {what}"),
            None => what,
        };
        Self::new(protocol, guest, remote, text)
    }

    /// Bytes of the text.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl FlowKey {
    fn new(protocol: Protocol, mut guest: SocketAddr, mut remote: SocketAddr) -> Self {
        if protocol == Protocol::Echo {
            guest.set_port(0);
            remote.set_port(0);
        }
        Self {
            protocol,
            guest: SocketAddr::new(guest.ip(), guest.port()),
            remote: SocketAddr::new(remote.ip(), remote.port()),
        }
    }
}

/// Notes that wait for a packet of their flow.
#[derive(Debug, Default)]
pub(super) struct Notes {
    texts: HashMap<FlowKey, String>,
    /// The oldest first.
    order: VecDeque<FlowKey>,
}

impl Notes {
    pub(super) fn put(&mut self, note: Note) {
        if let Some(before) = self.texts.get_mut(&note.flow) {
            *before = note.text;
            return;
        }
        if self.order.len() >= MAX_NOTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.texts.remove(&oldest);
        }
        self.order.push_back(note.flow);
        self.texts.insert(note.flow, note.text);
    }

    /// What is to be said with `frame`.
    pub(super) fn take(&mut self, frame: &[u8]) -> Option<String> {
        if self.texts.is_empty() {
            return None;
        }
        let summary = Summary::of(frame, Medium::Ethernet)?;
        let protocol = match summary.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            ICMP | ICMPV6 => Protocol::Echo,
            _ => return None,
        };
        let (from, to) = (summary.from(), summary.to());
        let keys = [
            FlowKey::new(protocol, from, to),
            FlowKey::new(protocol, to, from),
        ];
        keys.into_iter().find_map(|key| {
            let text = self.texts.remove(&key)?;
            self.order.retain(|waiting| *waiting != key);
            Some(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn end(text: &str) -> SocketAddr {
        text.parse().expect("an address and port")
    }

    fn tcp(from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 2, from.0], [10, 0, 2, to.0], 64)
            .tcp(from.1, to.1, 1, 1000);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"").expect("writes");
        frame
    }

    #[test]
    fn a_note_goes_to_the_next_packet_of_its_flow_either_way() {
        let note = || {
            Note::verdict(
                Protocol::Tcp,
                end("10.0.2.100:40000"),
                end("10.0.2.1:443"),
                FlowVerdict::Connected,
                Some(end("192.0.2.1:443")),
                Some("www.example.com"),
            )
        };
        let said = "www.example.com: connected to 192.0.2.1:443";
        for frame in [tcp((100, 40000), (1, 443)), tcp((1, 443), (100, 40000))] {
            let mut notes = Notes::default();
            notes.put(note());
            assert_eq!(notes.take(&tcp((100, 40001), (1, 443))), None);
            assert_eq!(notes.take(&frame).as_deref(), Some(said));
            assert_eq!(notes.take(&frame), None);
            assert!(notes.order.is_empty());
        }
    }

    #[test]
    fn an_echo_has_no_ports() {
        let mut notes = Notes::default();
        let note = Note::new(
            Protocol::Echo,
            end("10.0.2.100:7"),
            end("10.0.2.1:0"),
            "x".into(),
        );
        notes.put(note);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 2, 100], [10, 0, 2, 1], 64)
            .icmpv4_echo_request(7, 1)
            .write(&mut frame, b"")
            .expect("writes");
        assert_eq!(notes.take(&frame).as_deref(), Some("x"));
    }

    #[test]
    fn notes_are_bounded_in_number_and_length() {
        let mut notes = Notes::default();
        for port in 1..=2000 {
            let guest = SocketAddr::new([10, 0, 2, 100].into(), port);
            let text = "ä".repeat(MAX_NOTE_LEN);
            notes.put(Note::new(Protocol::Tcp, guest, end("10.0.2.1:80"), text));
        }
        assert_eq!(notes.order.len(), MAX_NOTES);
        assert_eq!(notes.texts.len(), MAX_NOTES);
        assert_eq!(notes.take(&tcp((100, 1), (1, 80))), None);
        let text = notes.take(&tcp((100, 2000), (1, 80))).expect("a note");
        assert_eq!(text.len(), MAX_NOTE_LEN);
        let odd = Note::new(
            Protocol::Tcp,
            end("10.0.2.100:1"),
            end("10.0.2.1:80"),
            format!("x{}", "ä".repeat(MAX_NOTE_LEN)),
        );
        assert_eq!(odd.text.len(), MAX_NOTE_LEN - 1);
    }
}
