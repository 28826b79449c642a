//! What a candidate's answer means for the search, and how it is told to the
//! guest as an answer to what was asked.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};

use super::local::{LOCAL_TTL, blank_reply};
use super::message::{CLASS_IN, Query, answers, question_end, rcode, rcode_of, rtype};

/// What an answer says about a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It has what was asked for.
    Match,
    /// It is there, without what was asked for.
    NoData,
    /// It is not there, or only to say no: blocking resolvers answer with
    /// `0.0.0.0` and `::`.
    NoName,
    /// Nobody can tell.
    Failure,
}

/// Judges the answer to a question of type `qtype`.
pub(super) fn judge(answer: &[u8], qtype: u16) -> Finding {
    match rcode_of(answer) {
        rcode::NO_ERROR => {}
        rcode::NX_DOMAIN => return Finding::NoName,
        _ => return Finding::Failure,
    }
    let Some(question_end) = question_end(answer) else {
        return Finding::Failure;
    };
    let mut finding = Finding::NoData;
    for (rtype, class, data) in answers(answer, question_end) {
        if (rtype, class) != (qtype, CLASS_IN) {
            continue;
        }
        if !is_unspecified(rtype, data) {
            return Finding::Match;
        }
        finding = Finding::NoName;
    }
    finding
}

fn is_unspecified(rtype: u16, data: &[u8]) -> bool {
    match rtype {
        rtype::A => data == Ipv4Addr::UNSPECIFIED.octets(),
        rtype::AAAA => data == Ipv6Addr::UNSPECIFIED.octets(),
        _ => false,
    }
}

/// Types that the search list applies to: those a program asks for that wants
/// to connect to a host.
pub(super) fn is_searched(qtype: u16) -> bool {
    !siblings(qtype).is_empty()
}

/// The types that tell whether a candidate without data of type `qtype` is the
/// host meant all the same: a host with an IPv4 address only is not to have
/// the IPv6 address of its namesake further down the list.
pub(super) fn siblings(qtype: u16) -> &'static [u16] {
    match qtype {
        rtype::A => &[rtype::AAAA],
        rtype::AAAA => &[rtype::A],
        rtype::HTTPS => &[rtype::A, rtype::AAAA],
        _ => &[],
    }
}

/// The answer to `query` that says that its name stands for `candidate`, and
/// what `answer` says about that; `None` when `answer` cannot be read.
pub(super) fn reply(query: &Query<'_>, candidate: &Name, answer: &[u8]) -> Option<Vec<u8>> {
    let found = Message::from_vec(answer).ok()?;
    let mut reply = blank_reply(query, &query.name, query.qtype);
    reply.metadata.response_code = found.metadata.response_code;
    reply.metadata.truncation = found.metadata.truncation;
    // AA and AD stay clear: the alias is nobody's data, and not signed.
    let ttl = found
        .answers
        .iter()
        .map(|r| r.ttl)
        .min()
        .unwrap_or(LOCAL_TTL);
    let alias = RData::CNAME(CNAME(candidate.clone()));
    reply.add_answer(Record::from_rdata(query.name.clone(), ttl, alias));
    reply.add_answers(found.answers);
    reply.add_authorities(found.authorities);
    reply.add_additionals(found.additionals);
    reply.to_vec().ok()
}
