//! From text to an [`Expression`].

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Expression, FilterError, MAX_DEPTH, MAX_LEN, Operator, Place, Primitive, Protocol, Side,
    Transport,
};

/// What a filter can begin with, for messages.
const WORDS: &str = "host, net, port, portrange, src, dst, tcp, udp, icmp, icmp6, arp, ip, ip6, \
                     ether host, and, or, not and brackets";

/// A word, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'t> {
    text: &'t str,
    /// Bytes in front of it.
    at: usize,
}

/// The words in front of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Host(Side),
    Net(Side),
    Port(Transport, Side),
    PortRange(Transport, Side),
    Station(Side),
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token<'t>>,
    next: usize,
    depth: usize,
    /// Of the value before.
    head: Option<Head>,
}

type Parsed<T> = Result<T, FilterError>;

pub(super) fn parse(text: &str) -> Parsed<Expression> {
    let all = |why| FilterError {
        at: Place::All,
        why,
    };
    if text.len() > MAX_LEN {
        return Err(all(format!("it is longer than {MAX_LEN} bytes")));
    }
    let mut parser = Parser {
        text,
        tokens: tokens(text),
        next: 0,
        depth: 0,
        head: None,
    };
    if parser.tokens.is_empty() {
        return Err(all(
            "it is empty; leave filter= out to capture everything".to_owned()
        ));
    }
    let expression = parser.expression()?;
    match parser.peek() {
        None => Ok(expression),
        Some(token) if token.text == ")" => parser.wrong(token, "no bracket is open here"),
        Some(token) => parser.wrong(token, "expected 'and' or 'or', or the end"),
    }
}

/// Brackets and signs are words of their own, blanks separate the others.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(first) = rest.chars().next()
    {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let len = match first {
            '(' | ')' | '!' => 1,
            _ if rest.starts_with("&&") || rest.starts_with("||") => 2,
            _ => rest[first.len_utf8()..]
                .find(|c: char| c.is_whitespace() || "()!&|".contains(c))
                .map_or(rest.len(), |len| len + first.len_utf8()),
        };
        tokens.push(Token {
            text: &rest[..len],
            at,
        });
        at += len;
    }
    tokens
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.next).copied()
    }

    /// The word `ahead` words from here.
    fn word(&self, ahead: usize) -> &'t str {
        let token = self.tokens.get(self.next + ahead);
        token.map_or("", |token| token.text)
    }

    /// Goes past the next word if it is one of these.
    fn take(&mut self, words: &[&str]) -> bool {
        let found = words.contains(&self.word(0));
        self.next += usize::from(found);
        found
    }

    fn wrong<T>(&self, token: Token<'_>, why: impl Into<String>) -> Parsed<T> {
        let at = self.text[..token.at].chars().count() + 1;
        Err(FilterError {
            at: Place::Word(token.text.to_owned(), at),
            why: why.into(),
        })
    }

    /// The next word, which must be there.
    fn need(&mut self, what: &str) -> Parsed<Token<'t>> {
        let Some(token) = self.peek() else {
            return Err(FilterError {
                at: Place::End,
                why: format!("expected {what}"),
            });
        };
        self.next += 1;
        Ok(token)
    }

    fn operator(&mut self) -> Option<Operator> {
        if self.take(&["and", "&&"]) {
            Some(Operator::And)
        } else if self.take(&["or", "||"]) {
            Some(Operator::Or)
        } else {
            None
        }
    }

    fn chain(&mut self, term: fn(&mut Self) -> Parsed<Expression>) -> Parsed<Expression> {
        let first = term(self)?;
        let mut rest = Vec::new();
        while let Some(operator) = self.operator() {
            rest.push((operator, term(self)?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Expression::Chain(Box::new(first), rest)
        })
    }

    fn expression(&mut self) -> Parsed<Expression> {
        self.chain(Self::term)
    }

    fn term(&mut self) -> Parsed<Expression> {
        self.nested(Self::term, Self::expression, |parser| {
            if let Some(primitive) = parser.protocol() {
                return Ok(primitive);
            }
            let Some(head) = parser.new_head()? else {
                return parser.value_alone();
            };
            parser.head = Some(head);
            parser.value()
        })
    }

    /// A value, or several in brackets, that take the head before.
    fn value(&mut self) -> Parsed<Expression> {
        self.nested(
            Self::value,
            |parser| parser.chain(Self::value),
            Self::one_value,
        )
    }

    /// `not` in front of `term`, `inside` of brackets, or `plain`.
    fn nested(
        &mut self,
        term: fn(&mut Self) -> Parsed<Expression>,
        inside: fn(&mut Self) -> Parsed<Expression>,
        plain: fn(&mut Self) -> Parsed<Expression>,
    ) -> Parsed<Expression> {
        let Some(token) = self.peek() else {
            return plain(self);
        };
        let is_bracket = token.text == "(";
        if !is_bracket && !matches!(token.text, "not" | "!") {
            return plain(self);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.wrong(
                token,
                format!("more than {MAX_DEPTH} brackets and 'not's are in each other"),
            );
        }
        self.next += 1;
        let found = if is_bracket {
            let inner = inside(self)?;
            let end = self.need("')'")?;
            if end.text != ")" {
                return self.wrong(end, "expected ')', 'and' or 'or'");
            }
            inner
        } else {
            Expression::Not(Box::new(term(self)?))
        };
        self.depth -= 1;
        Ok(found)
    }

    /// A protocol that stands for itself.
    fn protocol(&mut self) -> Option<Expression> {
        let protocol = match self.word(0) {
            "ip" => Protocol::Ip,
            "ip6" => Protocol::Ip6,
            "arp" => Protocol::Arp,
            "icmp" => Protocol::Icmp,
            "icmp6" => Protocol::Icmp6,
            "tcp" if !self.has_ports_behind() => Protocol::Tcp,
            "udp" if !self.has_ports_behind() => Protocol::Udp,
            _ => return None,
        };
        self.next += 1;
        self.head = None;
        Some(Expression::Primitive(Primitive::Protocol(protocol)))
    }

    /// True when the word behind this one goes on about ports.
    fn has_ports_behind(&self) -> bool {
        matches!(self.word(1), "src" | "dst" | "port" | "portrange")
    }

    /// The words in front of a value, if there are any.
    fn new_head(&mut self) -> Parsed<Option<Head>> {
        let Some(first) = self.peek() else {
            return Ok(None);
        };
        if self.take(&["ether"]) {
            let side = self.side();
            self.take(&["host"]);
            return Ok(Some(Head::Station(side)));
        }
        let transport = if self.take(&["tcp"]) {
            Transport::Tcp
        } else if self.take(&["udp"]) {
            Transport::Udp
        } else {
            Transport::Any
        };
        let side = self.side();
        let head = match self.word(0) {
            "port" => Head::Port(transport, side),
            "portrange" => Head::PortRange(transport, side),
            _ if transport != Transport::Any => {
                let token = self.need("'port' or 'portrange'")?;
                return self.wrong(token, "expected 'port' or 'portrange'");
            }
            "host" => Head::Host(side),
            "net" => Head::Net(side),
            // `src ADDR`.
            _ if self.peek() != Some(first) => return Ok(Some(Head::Host(side))),
            _ => return Ok(None),
        };
        self.next += 1;
        Ok(Some(head))
    }

    fn side(&mut self) -> Side {
        let second = self.word(2);
        match (self.word(0), self.word(1)) {
            ("src", "or" | "||") if second == "dst" => self.next += 3,
            ("dst", "or" | "||") if second == "src" => self.next += 3,
            ("src", "and" | "&&") if second == "dst" => {
                self.next += 3;
                return Side::Both;
            }
            ("dst", "and" | "&&") if second == "src" => {
                self.next += 3;
                return Side::Both;
            }
            ("src", _) => {
                self.next += 1;
                return Side::Source;
            }
            ("dst", _) => {
                self.next += 1;
                return Side::Destination;
            }
            _ => {}
        }
        Side::Either
    }

    /// A value without words of its own.
    fn value_alone(&mut self) -> Parsed<Expression> {
        let token = self.need("a condition, like 'tcp port 80'")?;
        let looks_like_value = token
            .text
            .starts_with(|c: char| c.is_ascii_hexdigit() || c == ':')
            && token
                .text
                .contains(|c: char| c.is_ascii_digit() || c == ':');
        if self.head.is_none() || !looks_like_value {
            return self.wrong(token, format!("filters here are made of {WORDS}"));
        }
        self.next -= 1;
        self.one_value()
    }

    fn one_value(&mut self) -> Parsed<Expression> {
        let Some(head) = self.head else {
            let token = self.need("a condition, like 'tcp port 80'")?;
            return self.wrong(token, format!("filters here are made of {WORDS}"));
        };
        let token = self.need(head.wants())?;
        match head.with(token.text) {
            Ok(primitive) => Ok(Expression::Primitive(primitive)),
            Err(why) => self.wrong(token, why),
        }
    }
}

impl Head {
    const fn wants(self) -> &'static str {
        match self {
            Self::Host(_) => "an address, like 192.0.2.1 or 2001:db8::1",
            Self::Net(_) => "a network, like 192.0.2.0/24 or 2001:db8::/32",
            Self::Port(..) => "a port, 0 to 65535",
            Self::PortRange(..) => "two ports, like 8000-8080",
            Self::Station(_) => "a MAC address, like 02:00:00:00:00:01",
        }
    }

    fn with(self, text: &str) -> Result<Primitive, String> {
        let expected = || format!("expected {}; names are not looked up", self.wants());
        Ok(match self {
            Self::Host(side) => Primitive::Host(side, text.parse().map_err(|_| expected())?),
            Self::Net(side) => Primitive::Net(side, net(text).ok_or_else(expected)??),
            Self::Port(transport, side) => {
                let port = port(text).ok_or_else(expected)?;
                Primitive::Ports(transport, side, port, port)
            }
            Self::PortRange(transport, side) => {
                let (low, high) = text.split_once('-').ok_or_else(expected)?;
                let low = port(low).ok_or_else(expected)?;
                let high = port(high).ok_or_else(expected)?;
                Primitive::Ports(transport, side, low.min(high), low.max(high))
            }
            Self::Station(side) => Primitive::Station(side, text.parse().map_err(|_| expected())?),
        })
    }
}

/// Decimal digits, and no leading 0: libpcap takes that for an octal number.
fn port(text: &str) -> Option<u16> {
    let is_decimal =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_decimal)
}

/// A network; the inner error says what is wrong with one.
fn net(text: &str) -> Option<Result<IpNet, String>> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(u8::try_from(port(len)?).ok()?)),
        None => (text, None),
    };
    let net: IpNet = if address.contains(':') {
        let address: Ipv6Addr = address.parse().ok()?;
        Ipv6Net::new(address, len.unwrap_or(128)).ok()?.into()
    } else {
        let (address, known) = short_ipv4(address)?;
        Ipv4Net::new(address, len.unwrap_or(known)).ok()?.into()
    };
    if net.trunc() != net {
        return Some(Err(format!(
            "a network has no bits behind its length: write {}",
            net.trunc()
        )));
    }
    Some(Ok(net))
}

/// One to four numbers of an IPv4 address, from the left, and how many bits they
/// are.
fn short_ipv4(text: &str) -> Option<(Ipv4Addr, u8)> {
    let mut octets = [0; 4];
    let mut bits = 0;
    for (at, part) in text.split('.').enumerate() {
        *octets.get_mut(at)? = u8::try_from(port(part)?).ok()?;
        bits += 8;
    }
    Some((octets.into(), bits))
}
