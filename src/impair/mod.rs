//! Network impairment: delay, loss and the rest of it on packets, and faults that
//! only who terminates connections can make. The seed's `nettest`, made true.
//!
//! Here are the rules ([`Rule`]), and what becomes of packets under them. It is
//! told the time and draws from seeded generators: the same packets at the same
//! times with the same seed have the same fate. Who carries frames (the gateway)
//! asks; who terminates flows (`slirp`) and names (`services`) asks for
//! [`TcpFault`] and [`DnsFault`].

mod dice;
mod effect;
mod faults;
mod frame;
mod held;
mod names;
mod preset;
mod series;
mod spec;
mod units;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::effect::{
    Bursts, Distribution, Loss, MAX_DELAY, Order, PacketEffect, Rate, Rates, Share,
};
pub use self::faults::{Beginning, DnsFate, Faults};
pub use self::held::{Intact, MAX_HELD_BYTES};
pub use self::names::NoNames;
pub use self::series::{
    Due, Entered, Impairment, RuleCounts, RuleId, RuleInfo, RulesError, Totals,
};
pub use self::spec::{MAX_RULE, RuleError};
use crate::policy::PortRange;

/// Rules of one gateway, at most.
pub const MAX_RULES: usize = 64;

/// A rule: which packets, flows or names; when; what becomes of them.
///
/// Rules apply in the order given, each to what the one before let through, like
/// wires behind each other. [`Effect::Pass`] ends the series for what matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// As it was written: what lists call it.
    pub text: String,
    /// Towards whom.
    pub way: Way,
    /// Which.
    pub matcher: Matcher,
    /// When.
    pub schedule: Schedule,
    /// What.
    pub effect: Effect,
}

impl Rule {
    /// Lets its generator start at what `seed` gives, if chance has a part in it
    /// and it does not say where.
    pub fn choose_seed(&mut self, seed: impl FnOnce() -> u64) {
        if let Effect::Packets(effect) = &mut self.effect
            && effect.draws()
            && effect.seed.is_none()
        {
            effect.seed = Some(seed());
        }
    }

    /// Where its generator starts, if it has one.
    #[must_use]
    pub const fn seed(&self) -> Option<u64> {
        match &self.effect {
            Effect::Packets(effect) => effect.seed,
            Effect::Pass | Effect::Tcp(_) | Effect::Dns(_) => None,
        }
    }

    /// The seed that was chosen for it, as its text does not say one.
    #[must_use]
    pub fn chosen_seed(&self) -> Option<u64> {
        let is_said = self.text.split(' ').any(|word| word.starts_with("seed="));
        self.seed().filter(|_| !is_said)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which direction a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
    /// Both, each with a generator and a queue of its own. The default.
    Both,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
}

impl Way {
    /// True when `direction` is one of them.
    #[must_use]
    pub const fn includes(self, direction: Direction) -> bool {
        matches!(
            (self, direction),
            (Self::Both, _) | (Self::Up, Direction::Up) | (Self::Down, Direction::Down)
        )
    }
}

/// What a rule is for: all that is given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    /// The remote is in this network.
    pub to: Option<IpNet>,
    /// The remote's port is one of these.
    pub ports: Option<PortRange>,
    /// It is of this protocol.
    pub protocol: Option<MatchProtocol>,
    /// The guest has resolved the remote's address from a name like this; for
    /// DNS, the name that is asked for.
    pub name: Option<NamePattern>,
}

/// A protocol to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// A name, or `*.` and the end of one. `*.example.com` is what is below
/// example.com, not that itself; `*` is every name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern(pub(crate) String);

impl NamePattern {
    /// True for a name like this, without regard to case and trailing dots.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern = self.0.trim_end_matches('.');
        let name = name.trim_end_matches('.');
        let Some(zone) = pattern.strip_prefix('*') else {
            return name.eq_ignore_ascii_case(pattern);
        };
        // `zone` begins with a dot, or is empty.
        let below = name.len().checked_sub(zone.len());
        below
            .filter(|at| *at > 0 || zone.is_empty())
            .and_then(|at| name.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(zone))
    }
}

/// When a rule is in force: from `at` after it was set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Schedule {
    /// From then on.
    pub at: Duration,
    /// For so long; `None`: to the end.
    pub lasts: Option<Duration>,
}

impl Schedule {
    /// True when a rule that was set up at `since` is in force at `now`.
    #[must_use]
    pub fn is_in_force(&self, since: Instant, now: Instant) -> bool {
        let Some(past) = now
            .checked_duration_since(since)
            .and_then(|age| age.checked_sub(self.at))
        else {
            return false;
        };
        self.lasts.is_none_or(|lasts| past < lasts)
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// What matches is left alone by the rules behind this one.
    Pass,
    /// Something becomes of packets.
    Packets(PacketEffect),
    /// Something becomes of TCP connections.
    Tcp(TcpFault),
    /// Something becomes of the resolver's answers.
    Dns(DnsFault),
}

/// What only the end of a connection can do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpFault {
    /// `refuse`: a reset in answer to the SYN.
    Refuse,
    /// `black-hole`: the SYN is not answered.
    BlackHole,
    /// `reset-after=BYTES|TIME`: reset on both sides once so many bytes of payload
    /// went either way together, or so long after it was open.
    Reset(ResetAfter),
    /// `stall`: it is opened, and then nothing is read or written any more.
    Stall,
    /// `half-open`: it is opened, and then the guest's segments are not answered
    /// any more, as by a peer that lost its power.
    HalfOpen,
    /// `slow-accept=TIME`: the SYN is answered so much later.
    SlowAccept(Duration),
}

/// When a connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetAfter {
    /// Bytes of payload in both directions together.
    Bytes(u64),
    /// Since it was open.
    Time(Duration),
}

impl TcpFault {
    /// As users write it, without its value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::BlackHole => "black-hole",
            Self::Reset(_) => "reset-after",
            Self::Stall => "stall",
            Self::HalfOpen => "half-open",
            Self::SlowAccept(_) => "slow-accept",
        }
    }
}

/// What the resolver does to a question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DnsFault {
    /// `dns=nxdomain`: there is no such name.
    NxDomain,
    /// `dns=servfail`: the server failed.
    ServFail,
    /// `dns-delay=TIME`: the answer comes so much later.
    Delay(Duration),
    /// `dns=truncate`: an answer over UDP is empty and says that it is truncated.
    Truncate,
    /// `dns=drop`: there is no answer.
    Drop,
    /// `dns=ADDR[,ADDR]`: these addresses, whatever the truth.
    Answer(Vec<IpAddr>),
}

/// Knows which names the guest has resolved to an address.
pub trait Names {
    /// True when one of the names that led to `addr` is like `pattern`.
    fn any_like(&self, addr: IpAddr, pattern: &NamePattern) -> bool;

    /// Another number whenever [`Names::any_like`] may say something else than
    /// before, so that answers can be remembered; `None`: they cannot.
    fn version(&self) -> Option<u64> {
        None
    }
}
