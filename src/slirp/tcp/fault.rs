//! What becomes of a flow that was given a fault.
//!
//! # Theory of operation
//!
//! A flow is given its fault when it begins, and keeps it. What each comes down to:
//!
//! | fault | the guest's own flow | a client's |
//! |---|---|---|
//! | `refuse` | RST for the SYN; the host is not asked | accepted and reset; the guest is not asked |
//! | `black-hole` | nothing; no state | accepted, and that is all: [`Phase::Silent`] |
//! | `slow-accept` | the host is asked at once, the SYN answered late | the guest is asked at once, nothing is carried before |
//! | `stall` | opened; what fits the window is acknowledged, nothing read or written | likewise |
//! | `half-open` | opened, then [`Phase::Silent`]; the host's socket is closed in order | likewise; the client is left waiting |
//! | `reset-after` bytes | so many are carried, not one more; reset on both sides when the guest has its own | likewise |
//! | `reset-after` time | so long after it was open, reset on both sides | likewise |
//!
//! A client's kernel-made handshake is over before anybody here hears of it: so what
//! a client sees of the first three is not what a guest sees.
//!
//! A host that refuses, or is not there, is so at once, `slow-accept` or not.
//!
//! **Silent.** There is no connection any more: whatever the guest sends is dropped
//! and counted, but for a SYN, which begins another flow, and a RST, which ends this
//! one. It takes a place in the table until nothing was sent for [`IDLE_ESTABLISHED`]:
//! by then the guest has asked with a keepalive, if it ever does.
//!
//! Flows to the gateway's resolver are spared: names have faults of their own.
//!
//! A flow without a fault pays for this with a look at an empty `Option` per visit.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use socket2::SockRef;

use super::super::Core;
use super::super::counters::DropReason;
use super::super::events::{Ending, Kept};
use super::super::flow::{FlowKey, Token};
use super::super::flows::Direction;
use super::super::reactor::Readiness;
use super::held::hold;
use super::{Arrival, Flow, IDLE_ESTABLISHED, IDLE_HALF_CLOSED, Phase, Tcp, abort, ends};
use crate::impair::{Beginning, ResetAfter, TcpFault};
use crate::policy::{FlowVerdict, HowEnded, Party, Protocol, Verdict};

/// The fault of a flow, and how far it is.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: TcpFault,
    /// When time does something to the flow; the key in [`Tcp::faults`].
    due: Option<Instant>,
    /// `slow-accept`: the host is there, and the guest does not know yet.
    host_is_there: bool,
}

/// What becomes of a visit to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// It goes on as any other.
    Usual,
    /// It is over: the fault has taken the flow's place.
    Over,
}

/// What becomes of a flow that is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    /// It begins, with this fault.
    Open(Option<TcpFault>),
    /// It was turned away.
    Closed,
}

/// What the reactor may not have told of while nobody listened.
const ANYTHING: Readiness = Readiness {
    readable: true,
    writable: true,
    error: false,
    ended: true,
};

impl Fault {
    /// A fault for a flow that begins `now`.
    pub(super) fn new(kind: TcpFault, now: Instant) -> Box<Self> {
        let due = match kind {
            TcpFault::SlowAccept(by) => Some(now + by),
            _ => None,
        };
        Box::new(Self {
            kind,
            due,
            host_is_there: false,
        })
    }

    /// When to look at the flow.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// True when the guest is not to know yet that the host is there; takes note.
    pub(super) fn holds_the_answer(&mut self) -> bool {
        self.host_is_there = matches!(self.kind, TcpFault::SlowAccept(_));
        self.host_is_there
    }
}

impl Flow {
    /// Lets it be told that something is in store for this flow.
    pub(super) fn note_fault(&mut self) {
        if self.fault.is_some()
            && let Some(account) = &mut self.account
        {
            account.impaired();
        }
    }

    /// How it ends: one that fell silent has done so long ago.
    pub(super) fn ending(&self, usual: Ending) -> Ending {
        match (&self.phase, &self.fault) {
            (Phase::Silent, Some(fault)) if fault.kind == TcpFault::HalfOpen => {
                Ending::ours(HowEnded::Impaired(fault.kind.name()))
            }
            _ => usual,
        }
    }
}

impl Tcp {
    /// Decides about a flow that the guest is about to begin.
    pub(super) fn enter(core: &mut Core, key: FlowKey, arrival: &Arrival<'_>) -> Entrance {
        let has_faults = core.faults.is_some();
        if !has_faults || core.policy.verdict(Protocol::Tcp, key.remote()) == Verdict::Dns {
            return Entrance::Open(None);
        }
        let beginning = Beginning {
            by: Party::Guest,
            guest: key.guest(),
            remote: key.remote(),
        };
        let fault = core.tcp_fault(beginning);
        match fault {
            Some(TcpFault::Refuse) => {
                let syn = hold(core, arrival).ingress(core, key);
                core.stack.refuse(syn);
            }
            Some(TcpFault::BlackHole) => {}
            _ => return Entrance::Open(fault),
        }
        core.drop(DropReason::Fault);
        if let Some(fault) = fault {
            let verdict = FlowVerdict::Impaired(fault.name());
            core.events
                .turned_away(core.now, ends(&key), verdict, Party::Gateway);
        }
        Entrance::Closed
    }

    /// Decides about a client that is about to be led to the guest. What stays
    /// behind closed doors keeps its socket.
    pub(super) fn enter_client(
        &mut self,
        core: &mut Core,
        socket: OwnedFd,
        guest: SocketAddr,
        seen: SocketAddr,
    ) -> Result<(OwnedFd, Option<TcpFault>), Turned> {
        let beginning = Beginning {
            by: Party::Host,
            guest,
            remote: seen,
        };
        let fault = core.tcp_fault(beginning);
        match fault {
            Some(kind @ TcpFault::Refuse) => {
                let key = FlowKey::new(guest, seen);
                let mut account = core.events.open(core.now, ends(&key), Party::Host, None);
                turn_away(core, &mut account, kind);
                let ending = Ending::ours(HowEnded::TurnedAway);
                core.events.close(core.now, account, ending);
                abort(&socket);
            }
            Some(kind @ TcpFault::BlackHole) => self.swallow(core, socket, guest, seen, kind),
            _ => return Ok((socket, fault)),
        }
        core.drop(DropReason::Fault);
        Err(Turned)
    }

    /// Keeps a client for good.
    fn swallow(
        &mut self,
        core: &mut Core,
        socket: OwnedFd,
        guest: SocketAddr,
        seen: SocketAddr,
        kind: TcpFault,
    ) {
        let (key, now) = (FlowKey::new(guest, seen), core.now);
        let token = self.flows.insert_with(|token| {
            core.reactor.watch(&socket, token).ok()?;
            let (by, id) = (Party::Host, Some(token.raw()));
            let mut account = core.events.open(now, ends(&key), by, id);
            turn_away(core, &mut account, kind);
            Some(Flow {
                account,
                direction: Direction::Inbound,
                fault: Some(Fault::new(kind, now)),
                ..Flow::new(key, socket, Phase::Silent, now)
            })
        });
        if let Some(token) = token {
            self.index.insert(key, token);
            self.flows.look_by(now + IDLE_ESTABLISHED);
        }
    }

    /// Looks at a flow when its fault's time comes.
    pub(super) fn watch_fault(&mut self, token: Token) {
        if let Some(flow) = self.flows.get_mut(token)
            && let Some(fault) = &flow.fault
            && let Some(due) = fault.due
        {
            self.faults.insert((due, token));
        }
    }

    /// Visits a flow with a fault.
    pub(super) fn suffer(&mut self, core: &mut Core, token: Token) -> Visit {
        let Some(flow) = self.flows.get_mut(token) else {
            return Visit::Over;
        };
        let (Some(fault), Phase::Joined(join)) = (&mut flow.fault, &mut flow.phase) else {
            return Visit::Usual;
        };
        // Before it is open there is nothing to be done to it, nor after its end.
        if !join.connection.is_established() || join.connection.end().is_some() {
            return Visit::Usual;
        }
        match fault.kind {
            TcpFault::Stall | TcpFault::SlowAccept(_) => {
                if fault.kind == TcpFault::Stall {
                    // Not even what a reset leaves behind.
                    join.allow(0);
                }
                flow.active = core.now;
                join.idle_round(&mut core.stack);
                return Visit::Over;
            }
            TcpFault::HalfOpen => {
                self.fall_silent(token);
                return Visit::Over;
            }
            TcpFault::Reset(ResetAfter::Bytes(bytes)) => join.allow(bytes),
            TcpFault::Reset(ResetAfter::Time(time)) if fault.due.is_none() => {
                fault.due = Some(core.now + time);
                self.watch_fault(token);
            }
            TcpFault::Reset(_) | TcpFault::Refuse | TcpFault::BlackHole => {}
        }
        Visit::Usual
    }

    /// The remote is as if it had lost its power.
    fn fall_silent(&mut self, token: Token) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        // What was sent and received is in the connection, which goes.
        flow.count();
        if let Phase::Joined(join) = std::mem::replace(&mut flow.phase, Phase::Silent) {
            join.abandon();
        }
        if flow.direction == Direction::Outbound {
            hang_up(&flow.socket);
        }
    }

    /// Ends a flow with resets because of its fault.
    pub(super) fn end_by_fault(&mut self, core: &mut Core, token: Token) {
        core.drop(DropReason::Fault);
        let fault = self
            .flows
            .get_mut(token)
            .and_then(|flow| flow.fault.as_ref());
        let how = fault.map_or(HowEnded::Reset, |fault| {
            HowEnded::Impaired(fault.kind.name())
        });
        self.reset(core, token, Ending::ours(how));
    }

    /// The reactor has news of the socket of a flow that is silent.
    pub(super) fn silent_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        // One that waits for nothing. The guest's end of a half-open one still does.
        let is_swallowed = flow
            .fault
            .as_ref()
            .is_some_and(|fault| fault.kind == TcpFault::BlackHole);
        if !is_swallowed {
            return;
        }
        if ready.error {
            self.reset(core, token, Ending::new(Party::Host, HowEnded::Reset));
        } else if ready.ended && !flow.half_closed {
            flow.half_closed = true;
            flow.active = core.now;
            self.flows.look_by(core.now + IDLE_HALF_CLOSED);
        }
    }

    /// Does what is due for flows with faults.
    pub(super) fn poll_faults(&mut self, core: &mut Core) {
        while let Some(&(due, token)) = self.faults.first()
            && due <= core.now
        {
            self.faults.pop_first();
            let Some(flow) = self.flows.get_mut(token) else {
                continue;
            };
            match flow.fault.as_ref().map(|fault| fault.kind) {
                Some(TcpFault::Reset(_)) => self.end_by_fault(core, token),
                Some(TcpFault::SlowAccept(_)) => self.accept_at_last(core, token),
                _ => {}
            }
        }
    }

    /// `slow-accept` is over: the flow is as any other from here on.
    fn accept_at_last(&mut self, core: &mut Core, token: Token) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let fault = flow.fault.take();
        if fault.is_some_and(|fault| fault.host_is_there) {
            self.connected(core, token);
        }
        if let Some(flow) = self.flows.get_mut(token)
            && let Phase::Joined(join) = &mut flow.phase
        {
            join.host_ready(ANYTHING);
            self.mark(token);
        }
    }
}

/// Lets it be told that a client leads nowhere because of a fault.
fn turn_away(core: &mut Core, account: &mut Kept, kind: TcpFault) {
    if let Some(account) = account {
        account.impaired();
    }
    let verdict = FlowVerdict::Impaired(kind.name());
    core.events
        .decide(core.now, account.as_mut(), verdict, None);
}

/// A client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turned;

/// Closes both directions in order; the descriptor stays.
fn hang_up(socket: impl AsFd) {
    // It may have ended by itself.
    let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
}
