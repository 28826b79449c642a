//! Reads a [`Rule`] from text. docs/impairment.md says what it may be.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::effect::{Bursts, Distribution, Loss, MAX_DELAY, Order, PacketEffect, Rates, Share};
use super::preset::{PRESETS, preset};
use super::{
    DnsFault, Effect, MatchProtocol, Matcher, ResetAfter, Rule, Schedule, TcpFault, Way, units,
};
use crate::policy::PortRange;

/// Longest text of a rule, in bytes.
pub const MAX_RULE: usize = 1024;

/// Greatest seed: what every reader of JSON keeps of a number.
const MAX_SEED: u64 = (1 << 53) - 1;

/// Addresses of a false answer.
const MAX_ANSWERS: usize = 16;

/// Not a rule; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

impl RuleError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

type Parsed<T> = Result<T, RuleError>;

fn bad<T>(text: impl Into<String>) -> Parsed<T> {
    Err(RuleError::new(text))
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.len() > MAX_RULE {
            return bad(format!("a rule has at most {MAX_RULE} bytes"));
        }
        let mut draft = Draft::default();
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            draft.word(word, &mut words)?;
        }
        draft.rule(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.text
    }
}

/// What has been read of a rule.
#[derive(Debug, Default)]
struct Draft<'t> {
    seen: Vec<&'t str>,
    way: Option<Way>,
    matcher: Matcher,
    schedule: Schedule,
    /// `pass` or a fault, and the word that it was.
    single: Option<(&'t str, Effect)>,
    preset: Option<(&'t str, PacketEffect)>,
    packets: Packets,
}

/// Words for packets, those that were there.
#[derive(Debug, Default)]
struct Packets {
    delay: Option<Duration>,
    jitter: Option<Duration>,
    distribution: Option<Distribution>,
    order: Option<Order>,
    loss: Option<Loss>,
    duplicate: Option<Share>,
    reorder: Option<Share>,
    corrupt: Option<Share>,
    rate: Option<Rates>,
    queue: Option<u64>,
    seed: Option<u64>,
}

impl<'t> Draft<'t> {
    fn word(&mut self, word: &'t str, rest: &mut impl Iterator<Item = &'t str>) -> Parsed<()> {
        if let Some((key, value)) = word.split_once('=') {
            self.once(key)?;
            return self.pair(key, value);
        }
        if preset(word).is_some() {
            return self.preset(word);
        }
        let mut value = |what: &str| {
            rest.next()
                .ok_or_else(|| RuleError::new(format!("'{word}' needs {what} behind it")))
        };
        match word {
            "up" => self.way(Way::Up),
            "down" => self.way(Way::Down),
            "both" => self.way(Way::Both),
            "to" | "port" | "proto" | "name" | "at" | "for" => {
                self.once(word)?;
                match word {
                    "to" => self.matcher.to = Some(network(value("a network or an address")?)?),
                    "port" => self.matcher.ports = Some(ports(value("a port")?)?),
                    "proto" => self.matcher.protocol = Some(protocol(value("tcp, udp or icmp")?)?),
                    "name" => self.matcher.name = Some(value("a name")?.parse()?),
                    "at" => self.schedule.at = units::time(value("a time")?)?,
                    _ => self.schedule.lasts = Some(lasts(value("a time")?)?),
                }
                Ok(())
            }
            "pass" => self.single(word, Effect::Pass),
            "refuse" => self.single(word, Effect::Tcp(TcpFault::Refuse)),
            "black-hole" => self.single(word, Effect::Tcp(TcpFault::BlackHole)),
            "stall" => self.single(word, Effect::Tcp(TcpFault::Stall)),
            "half-open" => self.single(word, Effect::Tcp(TcpFault::HalfOpen)),
            _ => bad(unknown(word)),
        }
    }

    /// A word with a value.
    fn pair(&mut self, key: &'t str, value: &str) -> Parsed<()> {
        let at = |error: RuleError| RuleError::new(format!("{key}: {error}"));
        let packets = &mut self.packets;
        match key {
            "delay" => packets.delay = Some(delay(value).map_err(at)?),
            "jitter" => packets.jitter = Some(delay(value).map_err(at)?),
            "dist" => packets.distribution = Some(distribution(value)?),
            "order" => packets.order = Some(order(value)?),
            "loss" => packets.loss = Some(loss(value).map_err(at)?),
            "dup" => packets.duplicate = Some(units::share(value).map_err(at)?),
            "reorder" => packets.reorder = Some(units::share(value).map_err(at)?),
            "corrupt" => packets.corrupt = Some(units::share(value).map_err(at)?),
            "rate" => packets.rate = Some(Rates::both(units::rate(value).map_err(at)?)),
            "queue" => packets.queue = Some(units::bytes(value).map_err(at)?),
            "seed" => packets.seed = Some(seed(value)?),
            "reset-after" => {
                let reset = TcpFault::Reset(reset_after(value)?);
                return self.single(key, Effect::Tcp(reset));
            }
            "slow-accept" => {
                let slow = TcpFault::SlowAccept(delay(value).map_err(at)?);
                return self.single(key, Effect::Tcp(slow));
            }
            "dns" => return self.single(key, Effect::Dns(dns(value)?)),
            "dns-delay" => {
                let slow = DnsFault::Delay(delay(value).map_err(at)?);
                return self.single(key, Effect::Dns(slow));
            }
            _ => return bad(unknown(key)),
        }
        Ok(())
    }

    fn once(&mut self, key: &'t str) -> Parsed<()> {
        if self.seen.contains(&key) {
            return bad(format!("'{key}' is there twice; write it once"));
        }
        self.seen.push(key);
        Ok(())
    }

    fn way(&mut self, way: Way) -> Parsed<()> {
        if self.way.replace(way).is_some() {
            return bad("write one of 'up' (from the guest), 'down' (to it) and 'both'");
        }
        Ok(())
    }

    fn preset(&mut self, name: &'t str) -> Parsed<()> {
        if let Some((other, _)) = self.preset {
            return bad(format!(
                "'{other}' and '{name}' are two presets; write a rule for each"
            ));
        }
        self.preset = preset(name).map(|effect| (name, effect));
        Ok(())
    }

    fn single(&mut self, word: &'t str, effect: Effect) -> Parsed<()> {
        if let Some((other, _)) = self.single.replace((word, effect)) {
            return bad(format!(
                "'{other}' and '{word}' do not go together; write a rule for each"
            ));
        }
        Ok(())
    }

    /// Refuses what a rule can be for where its effect is for nothing like that.
    fn fits(&self, effect: &Effect) -> Parsed<()> {
        let word = self.single.as_ref().map_or("", |(word, _)| word);
        let protocol = self.matcher.protocol;
        match effect {
            Effect::Tcp(TcpFault::Refuse | TcpFault::BlackHole)
                if protocol != Some(MatchProtocol::Icmp) =>
            {
                Ok(())
            }
            Effect::Tcp(_) if protocol.is_some_and(|p| p != MatchProtocol::Tcp) => bad(format!(
                "'{word}' is for TCP; leave 'proto' out, or write 'proto tcp' ('refuse' and \
                 'black-hole' are for UDP as well)"
            )),
            Effect::Dns(_) => {
                let other = ["to", "port", "proto"]
                    .into_iter()
                    .find(|key| self.seen.contains(key));
                let way = match self.way {
                    Some(Way::Up) => Some("up"),
                    Some(Way::Down) => Some("down"),
                    Some(Way::Both) | None => None,
                };
                match other.or(way) {
                    Some(other) => bad(format!(
                        "'{word}' is for the resolver's answers; leave '{other}' out: \
                         'name PATTERN' says which names it is for"
                    )),
                    None => Ok(()),
                }
            }
            _ if protocol == Some(MatchProtocol::Icmp) && self.matcher.ports.is_some() => {
                bad("packets of ICMP have no ports; leave 'port' or 'proto icmp' out")
            }
            _ => Ok(()),
        }
    }

    fn rule(self, text: String) -> Parsed<Rule> {
        let packet_word = self.packets.first().or(self.preset.map(|(name, _)| name));
        let effect = match (&self.single, packet_word) {
            (Some((word, _)), Some(other)) => {
                return bad(format!(
                    "'{word}' and '{other}' do not go together; write a rule for each"
                ));
            }
            (Some((_, effect)), None) => effect.clone(),
            (None, None) => {
                return bad(if text.is_empty() {
                    format!("a rule says what is to happen; write {EXAMPLES}")
                } else {
                    format!("'{text}' does not say what is to happen; write {EXAMPLES}")
                });
            }
            (None, Some(_)) => {
                let base = self.preset.map(|(_, effect)| effect).unwrap_or_default();
                Effect::Packets(self.packets.over(base)?)
            }
        };
        self.fits(&effect)?;
        Ok(Rule {
            text,
            way: self.way.unwrap_or(Way::Both),
            matcher: self.matcher,
            schedule: self.schedule,
            effect,
        })
    }
}

impl Packets {
    /// One of the words that were there.
    fn first(&self) -> Option<&'static str> {
        let words = [
            (self.delay.is_some(), "delay"),
            (self.jitter.is_some(), "jitter"),
            (self.distribution.is_some(), "dist"),
            (self.order.is_some(), "order"),
            (self.loss.is_some(), "loss"),
            (self.duplicate.is_some(), "dup"),
            (self.reorder.is_some(), "reorder"),
            (self.corrupt.is_some(), "corrupt"),
            (self.rate.is_some(), "rate"),
            (self.queue.is_some(), "queue"),
            (self.seed.is_some(), "seed"),
        ];
        words.into_iter().find(|(is, _)| *is).map(|(_, word)| word)
    }

    /// What is said goes over what `base` says. Words that would do nothing are
    /// refused: somebody meant something by them.
    fn over(&self, base: PacketEffect) -> Parsed<PacketEffect> {
        let effect = PacketEffect {
            delay: self.delay.unwrap_or(base.delay),
            jitter: self.jitter.unwrap_or(base.jitter),
            distribution: self.distribution.unwrap_or(base.distribution),
            order: self.order.unwrap_or(base.order),
            loss: self.loss.unwrap_or(base.loss),
            duplicate: self.duplicate.unwrap_or(base.duplicate),
            reorder: self.reorder.unwrap_or(base.reorder),
            corrupt: self.corrupt.unwrap_or(base.corrupt),
            rate: self.rate.or(base.rate),
            queue: self.queue.or(base.queue),
            seed: self.seed,
        };
        let Self {
            jitter,
            distribution,
            reorder,
            queue,
            ..
        } = self;
        if jitter.is_some() && effect.delay.is_zero() {
            return bad("'jitter' varies a delay; add delay=TIME");
        }
        if distribution.is_some() && effect.jitter.is_zero() {
            return bad("'dist' is how the jitter is distributed; add jitter=TIME");
        }
        if queue.is_some() && effect.rate.is_none() {
            return bad("'queue' is what may wait for the rate; add rate=RATE");
        }
        if reorder.is_some() && effect.delay.is_zero() && effect.rate.is_none() {
            return bad("'reorder' lets packets skip the delay; add delay=TIME");
        }
        if effect.reorder > Share::NONE && effect.order == Order::Keep {
            return bad("'reorder' does not go with 'order=keep'; write order=any");
        }
        let does_nothing = effect
            == PacketEffect {
                seed: effect.seed,
                ..PacketEffect::default()
            };
        if does_nothing && self.seed.is_some() && self.first() == Some("seed") {
            return bad(format!(
                "'seed' alone does not say what is to happen; write {EXAMPLES} beside it"
            ));
        }
        Ok(effect)
    }
}

const EXAMPLES: &str = "for example 'delay=80ms loss=1%', '3g', 'pass' or 'refuse'";

/// Says what is possible in place of a word.
fn unknown(word: &str) -> String {
    const WITH_VALUE: &[(&str, &str)] = &[
        ("delay", "delay=80ms"),
        ("jitter", "jitter=20ms"),
        ("dist", "dist=uniform|normal|pareto"),
        ("loss", "loss=1%"),
        ("dup", "dup=0.1%"),
        ("reorder", "reorder=0.5%"),
        ("corrupt", "corrupt=0.01%"),
        ("rate", "rate=2mbit"),
        ("queue", "queue=64k"),
        ("order", "order=keep|any"),
        ("seed", "seed=7"),
        ("reset-after", "reset-after=10k or reset-after=5s"),
        ("slow-accept", "slow-accept=2s"),
        ("dns", "dns=nxdomain|servfail|truncate|drop|ADDRESS"),
        ("dns-delay", "dns-delay=2s"),
    ];
    const WITHOUT: &[&str] = &[
        "up",
        "down",
        "both",
        "pass",
        "refuse",
        "black-hole",
        "stall",
        "half-open",
    ];
    const IN_FRONT: &[(&str, &str)] = &[
        ("to", "to 192.0.2.0/24"),
        ("port", "port 443"),
        ("proto", "proto tcp"),
        ("name", "name *.example.com"),
        ("at", "at 10s"),
        ("for", "for 3s"),
    ];
    if let Some((_, how)) = WITH_VALUE.iter().find(|(known, _)| *known == word) {
        return format!("'{word}' needs a value; write {how}");
    }
    if let Some((_, how)) = IN_FRONT.iter().find(|(known, _)| *known == word) {
        return format!("the value of '{word}' stands behind it; write '{how}'");
    }
    if WITHOUT.contains(&word) || preset(word).is_some() {
        return format!("'{word}' takes no value; write it alone");
    }
    let names = |of: &[(&'static str, &str)]| of.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let presets: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
    format!(
        "'{word}' is nothing that a rule can say; it can say {}, {}=..., and the presets {}",
        [&names(IN_FRONT)[..], WITHOUT].concat().join(", "),
        names(WITH_VALUE).join("=..., "),
        presets.join(", "),
    )
}

fn network(text: &str) -> Parsed<IpNet> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(net.trunc());
    }
    match text.parse::<IpAddr>() {
        Ok(addr) => Ok(addr.into()),
        Err(_) => bad(format!(
            "'{text}' is no network or address; write 192.0.2.0/24 or 2001:db8::1, and for a name \
             'name {text}'"
        )),
    }
}

fn ports(text: &str) -> Parsed<PortRange> {
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(PortRange { first, last }),
        _ => bad(format!(
            "'{text}' is no port; write 443, or a range from the least to the greatest: 8000-8010"
        )),
    }
}

fn protocol(text: &str) -> Parsed<MatchProtocol> {
    match text {
        "tcp" => Ok(MatchProtocol::Tcp),
        "udp" => Ok(MatchProtocol::Udp),
        "icmp" => Ok(MatchProtocol::Icmp),
        _ => bad(format!(
            "'{text}' is no protocol that rules know; tcp, udp and icmp are"
        )),
    }
}

fn lasts(text: &str) -> Parsed<Duration> {
    let lasts = units::time(text)?;
    if lasts.is_zero() {
        return bad("'for' no time at all does nothing; write how long: 'for 3s'");
    }
    Ok(lasts)
}

fn delay(text: &str) -> Parsed<Duration> {
    let delay = units::time(text)?;
    if delay > MAX_DELAY {
        return bad(format!("'{text}' is too long; ten minutes are the most"));
    }
    Ok(delay)
}

fn distribution(text: &str) -> Parsed<Distribution> {
    match text {
        "uniform" => Ok(Distribution::Uniform),
        "normal" => Ok(Distribution::Normal),
        "pareto" => Ok(Distribution::Pareto),
        _ => bad(format!(
            "'dist={text}' is no distribution; uniform, normal and pareto are"
        )),
    }
}

fn order(text: &str) -> Parsed<Order> {
    match text {
        "keep" => Ok(Order::Keep),
        "any" => Ok(Order::Any),
        _ => bad(format!("'order={text}' is no order; keep and any are")),
    }
}

fn loss(text: &str) -> Parsed<Loss> {
    match text.strip_prefix("gemodel") {
        Some(values) => gemodel(values),
        None => Ok(Loss::Random(units::share(text)?)),
    }
}

/// `,p=..,r=..[,h=..][,k=..]`.
fn gemodel(values: &str) -> Parsed<Loss> {
    let remedy = || {
        RuleError::new(
            "bursts are written gemodel,p=1%,r=20%: p of the packets begin one, r end it; and \
             where they are not total h=10% (passes in a burst), k=99% (passes outside)",
        )
    };
    let (mut p, mut r, mut h, mut k) = (None, None, None, None);
    for value in values.split(',').skip(1) {
        let (key, share) = value.split_once('=').ok_or_else(remedy)?;
        let place = match key {
            "p" => &mut p,
            "r" => &mut r,
            "h" => &mut h,
            "k" => &mut k,
            _ => return Err(remedy()),
        };
        if place.replace(units::share(share)?).is_some() {
            return Err(remedy());
        }
    }
    let is_separated = values.is_empty() || values.starts_with(',');
    match (p, r) {
        (Some(worsen), Some(recover)) if is_separated => Ok(Loss::Bursts(Bursts {
            worsen,
            recover,
            bad_passes: h.unwrap_or(Share::NONE),
            good_passes: k.unwrap_or(Share::ALL),
        })),
        _ => Err(remedy()),
    }
}

fn seed(text: &str) -> Parsed<u64> {
    match text.parse() {
        Ok(seed) if seed <= MAX_SEED => Ok(seed),
        _ => bad(format!(
            "'seed={text}' is no seed; write a whole number, 0 to {MAX_SEED}"
        )),
    }
}

fn reset_after(text: &str) -> Parsed<ResetAfter> {
    if let Some(bytes) = units::size(text) {
        return bytes.map(ResetAfter::Bytes);
    }
    match units::time(text) {
        Ok(time) => Ok(ResetAfter::Time(time)),
        Err(_) => bad(format!(
            "'reset-after={text}' is neither bytes nor a time; write 10k or 2M, or 500ms or 5s"
        )),
    }
}

fn dns(text: &str) -> Parsed<DnsFault> {
    match text {
        "nxdomain" => return Ok(DnsFault::NxDomain),
        "servfail" => return Ok(DnsFault::ServFail),
        "truncate" => return Ok(DnsFault::Truncate),
        "drop" => return Ok(DnsFault::Drop),
        _ => {}
    }
    let addresses: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
    match addresses {
        Ok(addresses) if addresses.len() <= MAX_ANSWERS => Ok(DnsFault::Answer(addresses)),
        Ok(_) => bad(format!("'dns' takes {MAX_ANSWERS} addresses at most")),
        Err(_) => bad(format!(
            "'dns={text}' is nothing that can become of an answer; nxdomain, servfail, truncate, \
             drop and addresses (dns=192.0.2.1,2001:db8::1) are"
        )),
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
