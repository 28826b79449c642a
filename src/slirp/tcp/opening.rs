//! Connections towards the guest: a client of a forwarded port.
//!
//! # Theory of operation
//!
//! **Connect first**, in this direction too. The client is accepted, but nothing
//! is read from it until the guest has answered:
//!
//! | the guest | the client |
//! |---|---|
//! | accepts | is joined to it |
//! | resets, or says by ICMP that it does not want to | goes to the guest's other address, or is reset |
//! | does not answer | goes back and forth between the guest's addresses, each for a [`TURN`]; is reset after [`PATIENCE`] |
//! | has no such address on the network | goes to the other address, or is reset |
//!
//! A program of the guest may listen on one family only, and a client come by
//! the other: the first address gets a [`HEAD_START`], the rest is as above. A
//! client that resets meanwhile ends the flow; one that has closed its direction
//! does not, it may still want an answer.
//!
//! A target that is the guest's address in the plan, where nobody answers, is
//! replaced by another address of the same family that the guest was seen with:
//! DHCP and SLAAC give others.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use socket2::SockRef;

use super::super::Core;
use super::super::counters::DropReason;
use super::super::events::Ending;
use super::super::flow::{FlowKey, Token};
use super::super::flows::Direction;
use super::super::inbound::{Candidates, GuestTarget, seen_as};
use super::super::lwip::End;
use super::super::reactor::Readiness;
use super::fault::Fault;
use super::join::Join;
use super::{Flow, IDLE_ESTABLISHED, Phase, Tcp, abort, ends};
use crate::policy::{FlowVerdict, HowEnded, Party};

/// How long a client waits for the guest's answer in all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// How long the first of two addresses of the guest has to answer before the
/// other is tried (RFC 8305 section 5 recommends 250 ms).
pub(crate) const HEAD_START: Duration = Duration::from_millis(300);

/// How long each is tried after that.
pub(crate) const TURN: Duration = Duration::from_secs(1);

/// A client whose connection the guest has not answered yet.
#[derive(Debug)]
pub(super) struct Opening {
    /// Its address; a unix socket has none.
    client: Option<SocketAddr>,
    /// Addresses of the guest that have not refused; never empty.
    candidates: ArrayVec<SocketAddr, 2>,
    /// The one that is being tried.
    at: usize,
    /// When to look at this again; the key in [`Tcp::openings`].
    due: Instant,
    /// When to give up.
    until: Instant,
}

impl Opening {
    /// When to look at it again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The address that is being tried.
    fn guest(&self) -> SocketAddr {
        self.candidates[self.at]
    }

    /// Strikes an address out. False when none is left.
    fn strike(&mut self, guest: SocketAddr) -> bool {
        let current = self.guest();
        self.candidates.retain(|a| *a != guest);
        self.at = self
            .candidates
            .iter()
            .position(|a| *a == current)
            .unwrap_or(0);
        !self.candidates.is_empty()
    }
}

impl Tcp {
    /// Leads a client, whose socket was just accepted, to the guest.
    pub(crate) fn accepted(
        &mut self,
        core: &mut Core,
        socket: OwnedFd,
        client: Option<SocketAddr>,
        target: &GuestTarget,
    ) {
        let Candidates {
            all: candidates,
            at,
        } = Candidates::new(core, target, client.map(|c| c.ip()));
        let seen = candidates.get(at).and_then(|guest| {
            let seen = self.seen(core, client, *guest)?;
            Some((*guest, seen))
        });
        let Some((guest, seen)) = seen.filter(|_| !self.flows.is_full()) else {
            // Not told of as a flow: there is no pair of addresses to name it by.
            core.drop(DropReason::TableFull);
            return abort(&socket);
        };
        let Ok((socket, fault)) = self.enter_client(core, socket, guest, seen) else {
            return;
        };
        let (key, now) = (FlowKey::new(guest, seen), core.now);
        let until = now + PATIENCE;
        let due = (now + HEAD_START).min(until);
        let mut refused = None;
        let token = self.flows.insert_with(|token| {
            let watched = core.reactor.watch(&socket, token).is_ok();
            let connection = watched.then(|| core.stack.connect(guest, seen, token.raw()));
            let Some(connection) = connection.flatten() else {
                refused = Some(socket);
                return None;
            };
            let (by, id) = (Party::Host, Some(token.raw()));
            let account = core.events.open(now, ends(&key), by, id);
            let opening = Opening {
                client,
                candidates,
                at,
                due,
                until,
            };
            let mut flow = Flow {
                opening: Some(Box::new(opening)),
                fault: fault.map(|kind| Fault::new(kind, now)),
                direction: Direction::Inbound,
                account,
                ..Flow::new(key, socket, Phase::Joined(Join::new(connection)), now)
            };
            flow.note_fault();
            Some(flow)
        });
        match (token, refused) {
            (Some(token), _) => {
                self.index.insert(key, token);
                self.openings.insert((due, token));
                self.watch_fault(token);
                self.flows.look_by(now + IDLE_ESTABLISHED);
            }
            (None, socket) => {
                core.drop(DropReason::HostSocket);
                if let Some(socket) = socket {
                    abort(&socket);
                }
            }
        }
    }

    /// What the guest at `guest` sees a client as: a pair that is not in use.
    fn seen(
        &mut self,
        core: &Core,
        client: Option<SocketAddr>,
        guest: SocketAddr,
    ) -> Option<SocketAddr> {
        let addr = seen_as(&core.plan, client.map(|c| c.ip()), guest.ip())?;
        let Self {
            index,
            time_waits,
            ports,
            ..
        } = self;
        let port = ports.find(client.map(|c| c.port()), |port| {
            let key = FlowKey::new(guest, SocketAddr::new(addr, port));
            index.contains_key(&key) || time_waits.holds(&key, core.now)
        })?;
        Some(SocketAddr::new(addr, port))
    }

    /// Asks the guest at the address that is its turn.
    fn ask(&mut self, core: &mut Core, token: Token) {
        let Some((client, guest)) = self
            .opening(token)
            .map(|opening| (opening.client, opening.guest()))
        else {
            return;
        };
        let connection = self.seen(core, client, guest).and_then(|seen| {
            let connection = core.stack.connect(guest, seen, token.raw())?;
            Some((FlowKey::new(guest, seen), connection))
        });
        let Some((key, connection)) = connection else {
            return self.give_up(core, token, DropReason::TableFull);
        };
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let Phase::Joined(join) = &mut flow.phase else {
            return;
        };
        if let Some(account) = &mut flow.account {
            let sent = join.connection.sent();
            account.to_guest.packets += sent.packets;
            account.to_guest.retransmits += sent.again;
            account.moved(key.guest(), key.remote());
        }
        if self.index.get(&flow.key) == Some(&token) {
            self.index.remove(&flow.key);
        }
        flow.key = key;
        self.index.insert(key, token);
        // The connection before this one ends here; the guest hears of it.
        join.begin_again(connection);
        self.wait(core.now, token, TURN);
    }

    /// Looks at an opening again after `turn`, or when its time has run out.
    fn wait(&mut self, now: Instant, token: Token, turn: Duration) {
        let Some(opening) = self.opening(token) else {
            return;
        };
        let before = opening.due;
        opening.due = (now + turn).min(opening.until);
        let due = opening.due;
        self.openings.remove(&(before, token));
        self.openings.insert((due, token));
    }

    fn opening(&mut self, token: Token) -> Option<&mut Opening> {
        self.flows.get_mut(token)?.opening.as_deref_mut()
    }

    /// The reactor has news of a client that waits for the guest.
    pub(super) fn client_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        // A unix client that has closed its socket may have left data behind.
        let error = ready.error && !matches!(SockRef::from(&flow.socket).take_error(), Ok(None));
        if error {
            self.reset(core, token, Ending::new(Party::Host, HowEnded::Reset));
        } else if let Phase::Joined(join) = &mut flow.phase {
            join.host_ready(ready);
        }
    }

    /// Sees what the guest has answered. True when the flow is open now, and to
    /// be worked on as any other.
    pub(super) fn answered(&mut self, core: &mut Core, token: Token) -> bool {
        let Some(flow) = self.flows.get_mut(token) else {
            return false;
        };
        let (Some(opening), Phase::Joined(join)) = (&flow.opening, &flow.phase) else {
            return false;
        };
        if join.connection.is_established() {
            self.openings.remove(&(opening.due, token));
            let (verdict, peer) = (FlowVerdict::Connected, opening.client);
            flow.opening = None;
            core.events
                .decide(core.now, flow.account.as_mut(), verdict, peer);
            return true;
        }
        match join.connection.end() {
            None => {}
            Some(End::Reset) => self.refused(core, token, DropReason::Refused),
            Some(End::Closed | End::Aborted) => self.refused(core, token, DropReason::NoAnswer),
        }
        false
    }

    /// The address that was tried does not want the client: on to the other.
    fn refused(&mut self, core: &mut Core, token: Token, reason: DropReason) {
        let Some(opening) = self.opening(token) else {
            return;
        };
        let guest = opening.guest();
        if opening.strike(guest) {
            self.ask(core, token);
        } else {
            self.give_up(core, token, reason);
        }
    }

    fn give_up(&mut self, core: &mut Core, token: Token, reason: DropReason) {
        core.drop(reason);
        let (verdict, by) = match reason {
            DropReason::Refused => (FlowVerdict::Refused, Party::Guest),
            DropReason::NoAnswer => (FlowVerdict::NoAnswer, Party::Guest),
            _ => (FlowVerdict::NoRoom, Party::Gateway),
        };
        if let Some(flow) = self.flows.get_mut(token) {
            core.events
                .decide(core.now, flow.account.as_mut(), verdict, None);
        }
        self.reset(core, token, Ending::new(by, HowEnded::TurnedAway));
    }

    /// The guest said by ICMP that it does not take what came from `seen`.
    pub(crate) fn unwanted(&mut self, core: &mut Core, guest: SocketAddr, seen: SocketAddr) {
        if let Some(&token) = self.index.get(&FlowKey::new(guest, seen))
            && self.opening(token).is_some()
        {
            self.refused(core, token, DropReason::Refused);
        }
    }

    /// Nobody on the guest's network has the address `addr`.
    pub(crate) fn silent(&mut self, core: &mut Core, addr: IpAddr) {
        let tokens: Vec<Token> = self.openings.iter().map(|(_, token)| *token).collect();
        for token in tokens {
            let Some(opening) = self.opening(token) else {
                continue;
            };
            let Some(&guest) = opening.candidates.iter().find(|a| a.ip() == addr) else {
                continue;
            };
            if opening.guest() != guest {
                opening.strike(guest);
            } else if self.substitute(core, token) {
                self.ask(core, token);
            } else {
                self.refused(core, token, DropReason::NoAnswer);
            }
        }
    }

    /// Replaces an address of the plan that does not answer by one that does.
    fn substitute(&mut self, core: &mut Core, token: Token) -> bool {
        let Some(opening) = self.opening(token) else {
            return false;
        };
        let guest = opening.guest();
        let Some(other) = core.another_guest(guest) else {
            return false;
        };
        opening.candidates[opening.at] = other;
        true
    }

    /// Does what is due for clients that wait.
    pub(super) fn poll_openings(&mut self, core: &mut Core) {
        while let Some(&(due, token)) = self.openings.first()
            && due <= core.now
        {
            let Some(opening) = self.opening(token) else {
                self.openings.pop_first();
                continue;
            };
            if opening.until <= core.now {
                self.give_up(core, token, DropReason::NoAnswer);
            } else if let [_, _] = opening.candidates[..] {
                let substituted = self.substitute(core, token);
                if let Some(opening) = self.opening(token).filter(|_| !substituted) {
                    opening.at = 1 - opening.at;
                }
                self.ask(core, token);
            } else if self.substitute(core, token) {
                self.ask(core, token);
            } else {
                self.wait(core.now, token, PATIENCE);
            }
        }
    }
}
