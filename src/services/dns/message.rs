//! DNS messages seen from outside: the parts that a forwarder has to know, and
//! nothing of the records it carries.
//!
//! Records are walked, not decoded, so that a type or option nobody has heard
//! of passes unharmed (RFC 3597). All offsets are in bytes from the start of
//! the message.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::records::{RecordView, Records, Section, count, skip_plain_name, u16_at};

/// Length of the header (RFC 1035 section 4.1.1).
pub(super) const HEADER_LEN: usize = 12;
/// Longest query taken from a guest: a name, and room for options such as
/// padding (RFC 8467) and a TSIG record. Anything longer is not a question.
pub(super) const MAX_QUERY_LEN: usize = 4096;
/// Longest UDP message without EDNS (RFC 1035 section 2.3.4); also what a
/// smaller EDNS size means (RFC 6891 section 6.2.3).
pub(super) const PLAIN_UDP_LEN: u16 = 512;

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub(super) mod rcode {
    pub(in super::super) const NO_ERROR: u16 = 0;
    pub(in super::super) const FORM_ERR: u16 = 1;
    pub(in super::super) const SERV_FAIL: u16 = 2;
    pub(in super::super) const NX_DOMAIN: u16 = 3;
    pub(in super::super) const NOT_IMP: u16 = 4;
    pub(in super::super) const REFUSED: u16 = 5;
    pub(in super::super) const BAD_VERS: u16 = 16;
}

/// Record types this module tells apart.
pub(super) mod rtype {
    pub(in super::super) const A: u16 = 1;
    pub(in super::super) const PTR: u16 = 12;
    pub(in super::super) const AAAA: u16 = 28;
    pub(in super::super) const OPT: u16 = 41;
    pub(in super::super) const HTTPS: u16 = 65;
    pub(in super::super) const IXFR: u16 = 251;
    pub(in super::super) const AXFR: u16 = 252;
    pub(in super::super) const ANY: u16 = 255;
}

/// Class IN.
pub(super) const CLASS_IN: u16 = 1;

/// Extended errors (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtendedError {
    /// No server gave an answer in time.
    NoReachableAuthority = 22,
    /// No server could be talked to at all.
    NetworkError = 23,
}

const FLAG_QR: u8 = 0x80;
const FLAG_TC: u8 = 0x02;
const FLAG_RD: u8 = 0x01;
const FLAG_RA: u8 = 0x80;
const FLAG_CD: u8 = 0x10;
const OPCODE: u8 = 0x78;
const OPT_FLAG_DO: u8 = 0x80;
/// Length of an OPT record without options: root name, type, class, TTL, length.
const EMPTY_OPT_LEN: usize = 11;
const OPTION_EXTENDED_ERROR: u16 = 15;
/// Size that answers made here advertise; they carry no meaning for a guest
/// that only asks.
const ADVERTISED_UDP_LEN: u16 = 1232;

/// A guest's query that is worth answering.
#[derive(Debug)]
pub(super) struct Query<'a> {
    /// The message, without what follows its last record.
    pub(super) bytes: &'a [u8],
    /// Where the question ends.
    pub(super) question_end: usize,
    /// The question's name, absolute.
    pub(super) name: Name,
    /// The question's type.
    pub(super) qtype: u16,
    /// The question's class.
    pub(super) qclass: u16,
    /// The OPT record, if there is one.
    pub(super) edns: Option<EdnsView>,
    /// True when a record other than OPT follows the question.
    pub(super) has_records: bool,
}

/// What is read of an OPT record (RFC 6891 section 6.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct EdnsView {
    /// Where the record starts.
    start: usize,
    /// The sender's UDP size as it stands there.
    udp_len: u16,
    version: u8,
    /// DNSSEC OK (RFC 3225).
    dnssec_ok: bool,
}

/// Why a message is no [`Query`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Not answered: a response, or not even a header.
    Drop,
    /// Answered with this message.
    Reply(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Checks a guest's message.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Rejected> {
        if bytes.len() < HEADER_LEN || bytes[2] & FLAG_QR != 0 {
            return Err(Rejected::Drop);
        }
        if bytes[2] & OPCODE != 0 {
            return Err(Rejected::Reply(bare_reply(bytes, rcode::NOT_IMP)));
        }
        let query = Self::parse_sections(bytes)
            .ok_or_else(|| Rejected::Reply(bare_reply(bytes, rcode::FORM_ERR)))?;
        if query.edns.is_some_and(|e| e.version != 0) {
            return Err(Rejected::Reply(query.error_reply(rcode::BAD_VERS, None)));
        }
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            // Zone transfers are for servers of a zone, and many messages long.
            return Err(Rejected::Reply(query.error_reply(rcode::NOT_IMP, None)));
        }
        Ok(query)
    }

    fn parse_sections(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_QUERY_LEN || count(bytes, Section::Question) != 1 {
            return None;
        }
        let name_end = skip_plain_name(bytes, HEADER_LEN)?;
        let name = Name::read(&mut BinDecoder::new(&bytes[HEADER_LEN..name_end])).ok()?;
        let mut query = Self {
            bytes,
            question_end: name_end + 4,
            name,
            qtype: u16_at(bytes, name_end)?,
            qclass: u16_at(bytes, name_end + 2)?,
            edns: None,
            has_records: false,
        };
        let mut end = query.question_end;
        for record in Records::after_question(bytes, query.question_end) {
            let record = record?;
            end = record.end;
            if record.rtype != rtype::OPT {
                query.has_records = true;
                continue;
            }
            let misplaced = record.section != Section::Additional || query.edns.is_some();
            if misplaced || !options_are_whole(&bytes[record.data()..record.end]) {
                return None;
            }
            query.edns = Some(EdnsView::read(bytes, &record)?);
        }
        query.bytes = &bytes[..end];
        Some(query)
    }

    pub(super) fn id(&self) -> u16 {
        u16_at(self.bytes, 0).unwrap_or_default()
    }

    pub(super) fn recursion_desired(&self) -> bool {
        self.bytes[2] & FLAG_RD != 0
    }

    pub(super) fn checking_disabled(&self) -> bool {
        self.bytes[3] & FLAG_CD != 0
    }

    pub(super) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|e| e.dnssec_ok)
    }

    /// Bytes that the guest takes in one UDP message.
    pub(super) fn udp_limit(&self) -> usize {
        self.edns
            .map_or(PLAIN_UDP_LEN, |e| e.udp_len.max(PLAIN_UDP_LEN))
            .into()
    }

    /// The question as it stands in the message.
    fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..self.question_end]
    }

    /// The query as it is sent on, at most `udp_len` bytes of answer wanted
    /// over UDP.
    pub(super) fn outgoing(&self, udp_len: u16) -> Outgoing {
        self.assemble(self.question(), udp_len)
    }

    /// The same, asking for another name or type.
    pub(super) fn outgoing_for(&self, name: &Name, qtype: u16, udp_len: u16) -> Outgoing {
        let mut question = Vec::with_capacity(name.len() + 5);
        for label in name.iter() {
            // Labels of a Name are at most 63 bytes (RFC 1035 section 2.3.4).
            question.push(u8::try_from(label.len()).unwrap_or(0));
            question.extend_from_slice(label);
        }
        question.push(0);
        question.extend_from_slice(&qtype.to_be_bytes());
        question.extend_from_slice(&self.qclass.to_be_bytes());
        self.assemble(&question, udp_len)
    }

    fn assemble(&self, question: &[u8], udp_len: u16) -> Outgoing {
        let rest = &self.bytes[self.question_end..];
        let mut bytes = Vec::with_capacity(HEADER_LEN + question.len() + rest.len());
        bytes.extend_from_slice(&self.bytes[..HEADER_LEN]);
        bytes.extend_from_slice(question);
        let question_end = bytes.len();
        bytes.extend_from_slice(rest);
        if let Some(edns) = self.edns {
            let class = edns.start - self.question_end + question_end + 3;
            let wanted = edns.udp_len.min(udp_len).to_be_bytes();
            bytes[class..class + 2].copy_from_slice(&wanted);
        }
        Outgoing {
            bytes,
            question_end,
        }
    }

    /// Turns the answer to [`Query::outgoing`] into the answer to this query:
    /// its identifier, and the letters of its name as the guest wrote them.
    pub(super) fn adopt(&self, mut answer: Vec<u8>) -> Vec<u8> {
        answer[..2].copy_from_slice(&self.bytes[..2]);
        answer[HEADER_LEN..self.question_end].copy_from_slice(self.question());
        answer
    }

    /// An answer without records. `code` may be an extended one, 12 bits, if
    /// the query has an OPT record.
    pub(super) fn error_reply(&self, code: u16, why: Option<ExtendedError>) -> Vec<u8> {
        let mut reply = bare_reply(self.bytes, code);
        reply[5] = 1; // QDCOUNT
        reply.extend_from_slice(self.question());
        if let Some(edns) = self.edns {
            reply[11] = 1; // ARCOUNT
            push_opt(&mut reply, edns.dnssec_ok, code, why);
        }
        reply
    }
}

impl EdnsView {
    fn read(bytes: &[u8], record: &RecordView) -> Option<Self> {
        // The owner is the root, one byte: type, class, TTL follow at once.
        if bytes[record.start] != 0 {
            return None;
        }
        let start = record.start;
        Some(Self {
            start,
            udp_len: u16_at(bytes, start + 3)?,
            version: *bytes.get(start + 6)?,
            dnssec_ok: bytes.get(start + 7)? & OPT_FLAG_DO != 0,
        })
    }
}

/// A query on its way to a server.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    question_end: usize,
}

/// What a message that came back is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Not an answer to this query: forged, late, or meant for someone else.
    Foreign,
    /// An answer that cannot be read to its end.
    Broken,
    /// An answer, its question equal to the one asked but for the case of letters.
    Answer(Vec<u8>),
}

impl Outgoing {
    pub(super) fn set_id(&mut self, id: u16) {
        self.bytes[..2].copy_from_slice(&id.to_be_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Judges a message that came from the server asked (RFC 5452 section 9.1).
    pub(super) fn judge(&self, message: &[u8]) -> Arrived {
        let is_answer = message.len() >= HEADER_LEN
            && message[..2] == self.bytes[..2]
            && message[2] & FLAG_QR != 0
            && message[2] & OPCODE == self.bytes[2] & OPCODE;
        if !is_answer {
            return Arrived::Foreign;
        }
        match count(message, Section::Question) {
            0 => self.judge_without_question(message),
            1 if !self.has_same_question(message) => Arrived::Foreign,
            1 if Records::after_question(message, self.question_end).any(|r| r.is_none()) => {
                Arrived::Broken
            }
            1 => Arrived::Answer(message.to_vec()),
            _ => Arrived::Foreign,
        }
    }

    /// Some servers leave the question out of an error.
    fn judge_without_question(&self, message: &[u8]) -> Arrived {
        if matches!(rcode_of(message), rcode::NO_ERROR | rcode::NX_DOMAIN) {
            return Arrived::Foreign;
        }
        let mut whole = message[..HEADER_LEN].to_vec();
        whole[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        whole.extend_from_slice(&self.bytes[HEADER_LEN..self.question_end]);
        Arrived::Answer(whole)
    }

    fn has_same_question(&self, message: &[u8]) -> bool {
        let Some(theirs) = message.get(HEADER_LEN..self.question_end) else {
            return false;
        };
        let ours = &self.bytes[HEADER_LEN..self.question_end];
        // Lengths of labels are below 64 and so no letters: the name may be
        // compared in one go. Type and class, the last four bytes, are exact.
        let name = ours.len() - 4;
        theirs[..name].eq_ignore_ascii_case(&ours[..name]) && theirs[name..] == ours[name..]
    }
}

/// The response code in the header, without an OPT record's upper bits.
pub(super) fn rcode_of(message: &[u8]) -> u16 {
    u16::from(message[3] & 0x0f)
}

/// True when the message says that it is cut.
pub(super) fn is_truncated(message: &[u8]) -> bool {
    message[2] & FLAG_TC != 0
}

/// Cuts an answer down to `limit` bytes, between records, and says so
/// (RFC 2181 section 9). The OPT record stays (RFC 6891 section 7).
pub(super) fn truncate(answer: Vec<u8>, question_end: usize, limit: usize) -> Vec<u8> {
    if answer.len() <= limit {
        return answer;
    }
    let records: Vec<_> = Records::after_question(&answer, question_end)
        .map_while(|r| r)
        .collect();
    let opt = records.iter().position(|r| r.rtype == rtype::OPT);
    let opt_bytes = opt.map_or(&[][..], |i| &answer[records[i].start..records[i].end]);
    let mut cut = answer[..question_end].to_vec();
    let mut counts = [0_u16; 4];
    counts[Section::Question as usize] = 1;
    // Names may point backwards to what is kept, so only a prefix can be: it
    // ends at the limit, or where the OPT record stood.
    for record in &records[..opt.unwrap_or(records.len())] {
        if record.end + opt_bytes.len() > limit {
            break;
        }
        cut.extend_from_slice(&answer[record.start..record.end]);
        counts[record.section as usize] += 1;
    }
    cut.extend_from_slice(opt_bytes);
    counts[Section::Additional as usize] += u16::from(opt.is_some());
    for (i, n) in counts.into_iter().enumerate() {
        let at = 4 + 2 * i;
        // A missing additional record is no truncation (RFC 2181 section 9).
        if i != Section::Additional as usize && u16_at(&answer, at) != Some(n) {
            cut[2] |= FLAG_TC;
        }
        cut[at..at + 2].copy_from_slice(&n.to_be_bytes());
    }
    cut
}

/// The records of the answer section: type, class and data.
pub(super) fn answers(
    message: &[u8],
    question_end: usize,
) -> impl Iterator<Item = (u16, u16, &[u8])> {
    Records::after_question(message, question_end)
        .map_while(|r| r)
        .take_while(|r| r.section == Section::Answer)
        .map(|r| (r.rtype, r.class, &message[r.data()..r.end]))
}

/// The addresses in the answer section, with their times to live in seconds.
pub(super) fn addresses(
    message: &[u8],
    question_end: usize,
) -> impl Iterator<Item = (IpAddr, u32)> {
    Records::after_question(message, question_end)
        .map_while(|r| r)
        .take_while(|r| r.section == Section::Answer)
        .filter(|r| r.class == CLASS_IN)
        .filter_map(|r| {
            let data = &message[r.data()..r.end];
            let addr = match r.rtype {
                rtype::A => IpAddr::from(<[u8; 4]>::try_from(data).ok()?),
                rtype::AAAA => IpAddr::from(<[u8; 16]>::try_from(data).ok()?),
                _ => return None,
            };
            Some((addr, r.ttl))
        })
}

/// Where the question of a message that was judged an answer ends.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    skip_plain_name(message, HEADER_LEN).map(|end| end + 4)
}

/// A header-only answer to the message that `query` starts.
fn bare_reply(query: &[u8], code: u16) -> Vec<u8> {
    let mut reply = vec![0; HEADER_LEN];
    reply[..2].copy_from_slice(&query[..2]);
    reply[2] = FLAG_QR | query[2] & (OPCODE | FLAG_RD);
    reply[3] = FLAG_RA | query[3] & FLAG_CD | low_rcode(code);
    reply
}

fn low_rcode(code: u16) -> u8 {
    code.to_be_bytes()[1] & 0x0f
}

fn push_opt(reply: &mut Vec<u8>, dnssec_ok: bool, code: u16, why: Option<ExtendedError>) {
    reply.reserve(EMPTY_OPT_LEN + 6);
    reply.push(0);
    reply.extend_from_slice(&rtype::OPT.to_be_bytes());
    reply.extend_from_slice(&ADVERTISED_UDP_LEN.to_be_bytes());
    let upper_rcode = (code >> 4).to_be_bytes()[1];
    reply.extend_from_slice(&[upper_rcode, 0, if dnssec_ok { OPT_FLAG_DO } else { 0 }, 0]);
    let Some(why) = why else {
        return reply.extend_from_slice(&[0, 0]);
    };
    for field in [6, OPTION_EXTENDED_ERROR, 2, why as u16] {
        reply.extend_from_slice(&field.to_be_bytes());
    }
}

/// True when the options fill `data` exactly.
fn options_are_whole(mut data: &[u8]) -> bool {
    while !data.is_empty() {
        let Some(rest) = u16_at(data, 2).and_then(|len| data.get(4 + usize::from(len)..)) else {
            return false;
        };
        data = rest;
    }
    true
}
