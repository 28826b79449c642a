//! Which frames are captured: the well-known part of pcap-filter(7).
//!
//! ```text
//! expression  term { (and | or) term }            equal precedence, from the left
//! term        { not } ( primitive | '(' expression ')' )
//! primitive   ip | ip6 | arp | tcp | udp | icmp | icmp6
//!             [dir] host ADDR | dir ADDR
//!             [dir] net NET[/LEN]
//!             [tcp | udp] [dir] port N
//!             [tcp | udp] [dir] portrange N-M
//!             ether [dir] [host] MAC
//! dir         src | dst | src or dst | src and dst
//! ```
//!
//! `&&`, `||` and `!` stand for the words. Behind `and`, `or` and `not`, and in
//! brackets behind `host`, `net`, `port` and `portrange`, a value alone takes the
//! words of the one before: `tcp port 80 or 443`, `port (80 or 443)`.
//!
//! Frames are looked at as libpcap does, and a test holds it to that: an Ethernet
//! header without VLAN tag; `host` and `net` look into ARP as well; ports are
//! those of TCP, UDP and SCTP, behind IPv4 options but not behind IPv6 extension
//! headers, and of first fragments only. A frame too short for what is asked is not
//! picked (of libpcap, its optimizer decides).
//!
//! Names of hosts and services are not looked up.
//!
//! **Limits.** [`MAX_LEN`], [`MAX_DEPTH`].

mod eval;
mod parse;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::net::MacAddr;

/// Bytes of a filter's text, at most. It also bounds what a frame costs: a
/// primitive takes three bytes.
pub const MAX_LEN: usize = 1024;

/// Brackets and `not` within each other, at most.
pub const MAX_DEPTH: usize = 64;

/// Bytes at the start of a frame that decide: all headers up to the ports behind
/// the longest IPv4 header.
pub const HEAD_LEN: usize = 14 + 60 + 4;

/// Picks frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Expression);

/// Not a filter: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the filter is wrong {at}: {why}")]
pub struct FilterError {
    at: Place,
    why: String,
}

/// Where a filter is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// At this word, whose first character has this number, from 1.
    Word(String, usize),
    /// Something is missing at its end.
    End,
    /// As a whole.
    All,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word, at) => write!(f, "at '{word}', character {at}"),
            Self::End => f.write_str("at its end"),
            Self::All => f.write_str("as a whole"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Primitive(Primitive),
    Not(Box<Expression>),
    /// From the left, whatever the words between them.
    Chain(Box<Expression>, Vec<(Operator, Expression)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    And,
    Or,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Primitive {
    Protocol(Protocol),
    Host(Side, IpAddr),
    Net(Side, IpNet),
    /// Both ends included.
    Ports(Transport, Side, u16, u16),
    Station(Side, MacAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Icmp,
    Icmp6,
}

/// Which protocols' ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Any,
    Tcp,
    Udp,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Either,
    Source,
    Destination,
    Both,
}

impl Filter {
    /// True for a frame that is picked; its first [`HEAD_LEN`] bytes will do.
    #[must_use]
    pub fn matches(&self, frame: &[u8]) -> bool {
        self.0.eval(frame) == Some(true)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(Self)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primitive(primitive) => primitive.fmt(f),
            Self::Not(inner) => {
                f.write_str("not ")?;
                inner.as_term(f)
            }
            Self::Chain(first, rest) => {
                first.as_term(f)?;
                for (operator, term) in rest {
                    f.write_str(match operator {
                        Operator::And => " and ",
                        Operator::Or => " or ",
                    })?;
                    term.as_term(f)?;
                }
                Ok(())
            }
        }
    }
}

impl Expression {
    /// In brackets, if it takes some to be one term.
    fn as_term(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(..) => write!(f, "({self})"),
            Self::Primitive(_) | Self::Not(_) => fmt::Display::fmt(self, f),
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => f.write_str(match protocol {
                Protocol::Ip => "ip",
                Protocol::Ip6 => "ip6",
                Protocol::Arp => "arp",
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Icmp => "icmp",
                Protocol::Icmp6 => "icmp6",
            }),
            Self::Host(side, address) => write!(f, "{side}host {address}"),
            Self::Net(side, net) => write!(f, "{side}net {net}"),
            Self::Ports(transport, side, low, high) => {
                f.write_str(match transport {
                    Transport::Any => "",
                    Transport::Tcp => "tcp ",
                    Transport::Udp => "udp ",
                })?;
                if low == high {
                    write!(f, "{side}port {low}")
                } else {
                    write!(f, "{side}portrange {low}-{high}")
                }
            }
            Self::Station(side, mac) => write!(f, "ether {side}host {mac}"),
        }
    }
}

/// With a blank behind it, if it takes a word.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Either => "",
            Self::Source => "src ",
            Self::Destination => "dst ",
            Self::Both => "src and dst ",
        })
    }
}

#[cfg(test)]
mod tests;
