//! What becomes of an answer under a fault.
//!
//! | fault | the guest gets |
//! |---|---|
//! | NXDOMAIN, SERVFAIL | that, without records: nothing tells it to remember it (RFC 2308 section 5) |
//! | truncation | by UDP an empty answer with the TC bit, by TCP the truth |
//! | drop | nothing; on a stream, no answer to this question |
//! | wrong answers | these addresses, as far as they are of the kind asked for, not to be kept; nothing else about the name, as if it had nothing else |

use std::net::IpAddr;

use super::Transport;
use super::local::{self, Known};
use super::message::{Query, rcode};
use crate::impair::DnsFault;

/// Seconds that a guest may keep a wrong answer: the rule may go.
const WRONG_TTL: u32 = 0;

/// What a fault makes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Faulty {
    /// This comes instead.
    Reply(Vec<u8>),
    /// Nothing comes.
    Silence,
    /// It is what it would be.
    Truth,
}

/// Applies a fault.
pub(super) fn apply(query: &Query<'_>, transport: Transport, fault: &DnsFault) -> Faulty {
    match fault {
        DnsFault::NxDomain => Faulty::Reply(query.error_reply(rcode::NX_DOMAIN, None)),
        DnsFault::ServFail => Faulty::Reply(query.error_reply(rcode::SERV_FAIL, None)),
        DnsFault::Truncate if transport == Transport::Udp => Faulty::Reply(query.truncated_reply()),
        DnsFault::Drop => Faulty::Silence,
        DnsFault::Answer(addrs) => Faulty::Reply(wrong_answer(query, addrs)),
        // A delay is over by now.
        DnsFault::Truncate | DnsFault::Delay(_) => Faulty::Truth,
    }
}

fn wrong_answer(query: &Query<'_>, addrs: &[IpAddr]) -> Vec<u8> {
    // Of another class there is nothing that an address could be.
    let addrs = if local::concerns(query) { addrs } else { &[] };
    let known = Known::Addresses(addrs.to_vec());
    local::reply_for(query, &known, WRONG_TTL)
        .unwrap_or_else(|| query.error_reply(rcode::SERV_FAIL, None))
}
