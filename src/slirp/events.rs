//! What is told of flows: the source of [`FlowEvent`]s.
//!
//! # Theory of operation
//!
//! A flow that is told of has an [`Account`]: what it began as, what was decided,
//! and counts that only matter at its end. Where nobody wants events ([`Events`] is
//! off) there are no accounts, so that each place that would add to one sees `None`
//! and goes on.
//!
//! Events wait in a queue until the driver takes them, once per round. When
//! [`MAX_EVENTS`] wait, flows that begin are not told of, and counted; what has
//! begun is told of to its end, so that whoever listens sees every beginning's
//! end. The number of open accounts is bounded by the tables of flows.
//!
//! Flows that policy turns away are in no table, and a guest repeats itself: a SYN
//! that nobody answers five times, datagrams without end. [`TurnedAway`] remembers
//! which were told of lately.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::egress::Problem;
use super::sockets::HostTcp;
use crate::policy::{
    Carried, FlowClosed, FlowDecided, FlowEvent, FlowNumber, FlowOpened, FlowVerdict, HowEnded,
    Party, Protocol,
};

/// Events that wait for the driver before flows begin untold.
const MAX_EVENTS: usize = 16384;

/// Pairs of a guest's address and a remote that UDP and echo flows are told of as,
/// all together. They cost no descriptor, and a guest can make them with one
/// datagram each.
const MAX_PAIRS: usize = 16384;

/// Flows turned away that are remembered; the oldest makes room.
const MAX_TURNED_AWAY: usize = 1024;

/// How long a flow that was turned away is not told of again: longer than the
/// longest pause between two SYNs of Linux, 64 s.
const QUIET: Duration = Duration::from_secs(70);

/// Whether a driver takes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Telling {
    /// It does not: nothing is recorded.
    #[default]
    Off,
    /// It takes them once per round.
    On,
}

/// Who ended a flow, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) by: Party,
    pub(crate) how: HowEnded,
}

impl Ending {
    pub(crate) const fn new(by: Party, how: HowEnded) -> Self {
        Self { by, how }
    }

    /// By the gateway itself.
    pub(crate) const fn ours(how: HowEnded) -> Self {
        Self::new(Party::Gateway, how)
    }

    /// By an error of the host's socket in the midst of a flow.
    pub(crate) fn by_host(errno: Errno) -> Self {
        match errno {
            Errno::ENOBUFS | Errno::ENOMEM => Self::ours(HowEnded::Reset),
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => {
                Self::new(Party::Host, HowEnded::Reset)
            }
            _ => Self::new(Party::Host, HowEnded::Lost),
        }
    }
}

/// A flow's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) protocol: Protocol,
    pub(crate) guest: SocketAddr,
    /// As the guest sees it.
    pub(crate) remote: SocketAddr,
}

/// Where a flow leads on the host's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Socket(SocketAddr),
    Unix,
    Dns,
}

/// What is kept of a flow for its end.
#[derive(Debug)]
pub(crate) struct Account {
    opened: FlowOpened,
    /// Where it leads, once it is there.
    way: Option<Way>,
    verdict: Option<FlowVerdict>,
    peer: Option<SocketAddr>,
    connect_time: Option<Duration>,
    /// When the guest was asked, while its answer is to be measured.
    asked: Option<Instant>,
    guest_rtt: Option<Duration>,
    half_closed_by: Option<Party>,
    impaired: bool,
    pub(crate) to_guest: Carried,
    pub(crate) from_guest: Carried,
}

/// A flow's account; `None` when it is not told of.
pub(crate) type Kept = Option<Box<Account>>;

impl Account {
    /// The host is asked to connect the flow to `way`.
    pub(crate) fn leads_to(&mut self, way: Way) {
        self.way = Some(way);
    }

    /// The flow was led to other ends than those that it began with.
    pub(crate) fn moved(&mut self, guest: SocketAddr, remote: SocketAddr) {
        (self.opened.guest, self.opened.remote) = (guest, remote);
    }

    /// One direction closed; the first counts.
    pub(crate) fn half_closed(&mut self, by: Party) {
        self.half_closed_by.get_or_insert(by);
    }

    /// Who closed first.
    pub(crate) fn half_closed_by(&self) -> Option<Party> {
        self.half_closed_by
    }

    /// True once it is known what becomes of the flow.
    pub(crate) fn is_decided(&self) -> bool {
        self.verdict.is_some()
    }

    /// True when what was decided leads nowhere.
    fn leads_nowhere(&self) -> bool {
        !matches!(
            self.verdict,
            None | Some(FlowVerdict::Connected | FlowVerdict::Unix | FlowVerdict::Dns)
        )
    }

    /// The guest is asked for its side of the handshake.
    pub(crate) fn asked_guest(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// It has answered; `repeated`: not to the first asking, perhaps.
    pub(crate) fn guest_answered(&mut self, now: Instant, repeated: bool) {
        if let Some(asked) = self.asked.take()
            && !repeated
        {
            self.guest_rtt = Some(now.duration_since(asked));
        }
    }

    /// An impairment changed what became of it or of its packets.
    #[expect(dead_code, reason = "impairments come to the core later")]
    pub(crate) fn impaired(&mut self) {
        self.impaired = true;
    }
}

/// Collects what is told.
#[derive(Debug)]
pub(crate) struct Events {
    telling: Telling,
    next: u64,
    queue: VecDeque<FlowEvent>,
    lost: u64,
    pairs: usize,
    turned_away: TurnedAway,
}

impl Events {
    pub(crate) fn new(telling: Telling) -> Self {
        Self {
            telling,
            next: 1,
            queue: VecDeque::new(),
            lost: 0,
            pairs: 0,
            turned_away: TurnedAway::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.telling == Telling::On
    }

    /// From now on it is told of flows.
    pub(crate) fn turn_on(&mut self) {
        self.telling = Telling::On;
    }

    /// What was told since the last call.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = FlowEvent> {
        self.queue.drain(..)
    }

    /// Flows that were not told of since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// A flow begins; `id` is its name in the list of flows.
    pub(crate) fn open(&mut self, now: Instant, ends: Ends, by: Party, id: Option<u64>) -> Kept {
        if !self.is_on() {
            return None;
        }
        if self.queue.len() >= MAX_EVENTS {
            self.lost += 1;
            return None;
        }
        let opened = FlowOpened {
            number: FlowNumber(self.next),
            id,
            at: now,
            protocol: ends.protocol,
            by,
            guest: ends.guest,
            remote: ends.remote,
        };
        self.next += 1;
        self.queue.push_back(FlowEvent::Opened(opened));
        Some(Box::new(Account {
            opened,
            way: None,
            verdict: None,
            peer: None,
            connect_time: None,
            asked: None,
            guest_rtt: None,
            half_closed_by: None,
            impaired: false,
            to_guest: Carried::default(),
            from_guest: Carried::default(),
        }))
    }

    /// As [`Events::open`], for one of possibly many that share a socket.
    pub(crate) fn open_pair(&mut self, now: Instant, ends: Ends, by: Party, id: u64) -> Kept {
        if self.pairs >= MAX_PAIRS {
            self.lost += u64::from(self.is_on());
            return None;
        }
        let kept = self.open(now, ends, by, Some(id));
        self.pairs += usize::from(kept.is_some());
        kept
    }

    /// As [`Events::close`], for what [`Events::open_pair`] gave.
    pub(crate) fn close_pair(&mut self, now: Instant, account: Box<Account>, ending: Ending) {
        self.pairs = self.pairs.saturating_sub(1);
        self.close(now, Some(account), ending);
    }

    /// It is known what becomes of a flow, if it is told of. What was decided first
    /// stays.
    pub(crate) fn decide<'a>(
        &mut self,
        now: Instant,
        account: impl Into<Option<&'a mut Box<Account>>>,
        verdict: FlowVerdict,
        peer: Option<SocketAddr>,
    ) {
        let Some(account) = account.into() else {
            return;
        };
        if account.is_decided() {
            return;
        }
        let began = account.opened.at;
        account.verdict = Some(verdict);
        account.peer = peer;
        if account.opened.protocol == Protocol::Tcp && !account.leads_nowhere() {
            account.connect_time = Some(now.duration_since(began));
        }
        self.queue.push_back(FlowEvent::Decided(FlowDecided {
            number: account.opened.number,
            at: now,
            verdict,
            peer,
        }));
    }

    /// A flow is where its [`Way`] leads.
    pub(crate) fn arrived(&mut self, now: Instant, account: &mut Kept) {
        let (verdict, peer) = match account.as_ref().and_then(|account| account.way) {
            Some(Way::Socket(to)) => (FlowVerdict::Connected, Some(to)),
            Some(Way::Unix) => (FlowVerdict::Unix, None),
            Some(Way::Dns) => (FlowVerdict::Dns, None),
            None => return,
        };
        self.decide(now, account.as_mut(), verdict, peer);
    }

    /// A flow ends, without a host's TCP socket.
    pub(crate) fn close(&mut self, now: Instant, account: Kept, ending: Ending) {
        self.close_with(now, account, ending, HostTcp::default());
    }

    /// A TCP flow ends whose host's side is `socket`.
    pub(crate) fn close_tcp(
        &mut self,
        now: Instant,
        account: Kept,
        ending: Ending,
        socket: impl AsFd,
    ) {
        if account.is_some() {
            self.close_with(now, account, ending, HostTcp::of(socket));
        }
    }

    fn close_with(&mut self, now: Instant, account: Kept, ending: Ending, host: HostTcp) {
        let Some(account) = account else { return };
        // What leads nowhere was turned away, whenever it is forgotten.
        let how = match ending.how {
            HowEnded::Idle | HowEnded::Evicted | HowEnded::Shutdown | HowEnded::Killed
                if account.leads_nowhere() =>
            {
                HowEnded::TurnedAway
            }
            how => how,
        };
        let by = match (how, account.verdict) {
            (HowEnded::TurnedAway, Some(FlowVerdict::Dropped | FlowVerdict::NoRoom)) => {
                Party::Gateway
            }
            (HowEnded::TurnedAway, _) if how != ending.how => match account.opened.by {
                Party::Host => Party::Guest,
                Party::Guest | Party::Gateway => Party::Host,
            },
            _ => ending.by,
        };
        let from_guest = Carried {
            retransmits: account.from_guest.retransmits + host.retransmits,
            ..account.from_guest
        };
        self.queue.push_back(FlowEvent::Closed(Box::new(FlowClosed {
            opened: account.opened,
            at: now,
            verdict: account.verdict,
            peer: account.peer,
            connect_time: account.connect_time,
            to_guest: account.to_guest,
            from_guest,
            rtt: host.rtt,
            guest_rtt: account.guest_rtt,
            by,
            how,
            half_closed_by: account.half_closed_by,
            impaired: account.impaired,
        })));
    }

    /// Whether a flow between `ends` was turned away lately. On TCP this counts as
    /// a repetition of it: a guest tries the same pair once more only when it
    /// repeats its SYN.
    pub(crate) fn was_turned_away(&mut self, now: Instant, ends: Ends) -> bool {
        self.turned_away.knows(now, ends)
    }

    /// A flow that was in a table ends as turned away; the guest may repeat itself.
    pub(crate) fn remember_turned_away(&mut self, now: Instant, account: &Account) {
        let ends = Ends {
            protocol: account.opened.protocol,
            guest: account.opened.guest,
            remote: account.opened.remote,
        };
        self.turned_away.note(now, ends);
    }

    /// A flow that is in no table was turned away by `by`: it begins and ends.
    /// Repetitions are told of once in [`QUIET`].
    pub(crate) fn turned_away(
        &mut self,
        now: Instant,
        ends: Ends,
        verdict: FlowVerdict,
        by: Party,
    ) {
        if !self.is_on() || self.was_turned_away(now, ends) {
            return;
        }
        self.turned_away.note(now, ends);
        let mut account = self.open(now, ends, Party::Guest, None);
        if let Some(account) = &mut account {
            account.from_guest.packets = 1;
        }
        self.decide(now, account.as_mut(), verdict, None);
        self.close(now, account, Ending::new(by, HowEnded::TurnedAway));
    }
}

/// What the failure of a connect says about a flow.
pub(crate) fn verdict_of(errno: Option<i32>) -> FlowVerdict {
    let errno = errno.map_or(Errno::UnknownErrno, Errno::from_raw);
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => FlowVerdict::Refused,
        Errno::ETIMEDOUT => FlowVerdict::NoAnswer,
        errno => Problem::from_errno(errno).map_or(FlowVerdict::NoRoom, verdict_of_problem),
    }
}

/// What an error that the network reports says about a flow.
pub(crate) fn verdict_of_problem(problem: Problem) -> FlowVerdict {
    match problem {
        Problem::PortUnreachable => FlowVerdict::Refused,
        Problem::NetUnreachable
        | Problem::HostUnreachable
        | Problem::Prohibited
        | Problem::TooBig { .. }
        | Problem::HopLimit
        | Problem::Reassembly => FlowVerdict::Unreachable,
    }
}

/// Flows that were turned away lately.
#[derive(Debug, Default)]
struct TurnedAway {
    last: HashMap<Ends, Instant>,
    order: VecDeque<Ends>,
}

impl TurnedAway {
    /// Whether `ends` were told of lately. What a guest repeats on TCP is one
    /// attempt, so that the time begins anew.
    fn knows(&mut self, now: Instant, ends: Ends) -> bool {
        let Some(last) = self.last.get_mut(&ends) else {
            return false;
        };
        let known = now.duration_since(*last) < QUIET;
        if known && ends.protocol == Protocol::Tcp {
            *last = now;
        }
        known
    }

    /// `ends` are told of now.
    fn note(&mut self, now: Instant, ends: Ends) {
        if let Some(last) = self.last.get_mut(&ends) {
            *last = now;
            return;
        }
        if self.order.len() >= MAX_TURNED_AWAY
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.order.push_back(ends);
        self.last.insert(ends, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        Ends {
            protocol: Protocol::Tcp,
            guest: SocketAddr::new([10, 0, 2, 100].into(), port),
            remote: SocketAddr::new([192, 0, 2, 1].into(), 80),
        }
    }

    #[test]
    fn what_has_begun_is_told_of_to_its_end() {
        let now = Instant::now();
        let mut events = Events::new(Telling::On);
        let mut first = events.open(now, ends(1), Party::Guest, None);
        for _ in 1..MAX_EVENTS {
            assert!(events.open(now, ends(2), Party::Guest, None).is_some());
        }
        assert!(events.open(now, ends(3), Party::Guest, None).is_none());
        events.decide(now, first.as_mut(), FlowVerdict::Connected, None);
        events.decide(now, first.as_mut(), FlowVerdict::Refused, None);
        events.close(now, first, Ending::ours(HowEnded::Idle));
        let told: Vec<FlowEvent> = events.take().collect();
        assert_eq!(told.len(), MAX_EVENTS + 2);
        let [FlowEvent::Decided(decided), FlowEvent::Closed(closed)] = &told[MAX_EVENTS..] else {
            panic!("{:?}", &told[MAX_EVENTS..]);
        };
        assert_eq!(decided.verdict, FlowVerdict::Connected);
        assert_eq!(closed.verdict, Some(FlowVerdict::Connected));
        assert_eq!(closed.how, HowEnded::Idle);
        assert_eq!((events.take_lost(), events.take_lost()), (1, 0));
        assert!(events.open(now, ends(3), Party::Guest, None).is_some());
    }

    #[test]
    fn pairs_are_bounded() {
        let now = Instant::now();
        let mut events = Events::new(Telling::On);
        let mut open = Vec::new();
        for _ in 0..MAX_PAIRS {
            let account = events.open_pair(now, ends(1), Party::Guest, 1);
            open.push(account.expect("room"));
            events.take().for_each(drop);
        }
        assert!(events.open_pair(now, ends(1), Party::Guest, 1).is_none());
        let one = open.pop().expect("one");
        events.close_pair(now, one, Ending::ours(HowEnded::Idle));
        assert!(events.open_pair(now, ends(1), Party::Guest, 1).is_some());
        assert_eq!(events.take_lost(), 1);
    }

    #[test]
    fn repetitions_of_what_is_turned_away_are_told_of_once() {
        let start = Instant::now();
        let mut events = Events::new(Telling::On);
        let told = |events: &mut Events, seconds, ends| {
            let now = start + Duration::from_secs(seconds);
            events.turned_away(now, ends, FlowVerdict::Dropped, Party::Gateway);
            events.take().count()
        };
        assert_eq!(told(&mut events, 0, ends(1)), 3);
        for seconds in [1, 3, 7, 15, 31, 63, 127] {
            assert_eq!(told(&mut events, seconds, ends(1)), 0, "{seconds}");
        }
        assert_eq!(told(&mut events, 127 + 70, ends(1)), 3);
        for port in 2..2 + u16::try_from(MAX_TURNED_AWAY).expect("fits") {
            assert_eq!(told(&mut events, 200, ends(port)), 3);
        }
        assert_eq!(told(&mut events, 200, ends(1)), 3, "the oldest went");
        assert!(events.turned_away.last.len() <= MAX_TURNED_AWAY);
    }

    #[test]
    fn nothing_is_kept_when_nobody_listens() {
        let now = Instant::now();
        let mut events = Events::new(Telling::Off);
        assert!(events.open(now, ends(1), Party::Guest, None).is_none());
        assert!(events.open_pair(now, ends(1), Party::Guest, 1).is_none());
        events.turned_away(now, ends(1), FlowVerdict::Dropped, Party::Gateway);
        assert_eq!((events.take().count(), events.take_lost()), (0, 0));
    }
}
