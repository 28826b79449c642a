//! Clients of UDP listeners.
//!
//! # Theory of operation
//!
//! A client's address, with the host's address that it has sent to, is a flow.
//! The guest sees the client as [`seen_as`] says; what it sends there, from the
//! address that the flow leads to, goes back out of the listener's socket, from
//! the address that the client had asked: a host with several would else answer
//! from another, which the client takes for a stranger.
//!
//! The guest's own flows (`udp`) are mapped by its address alone. These
//! here are looked up first, by both ends, so that an answer is never taken for
//! the beginning of something new.
//!
//! **Which address of the guest.** As for connections: the client's family first;
//! the other one, when the guest says by ICMP that the port is closed, or when
//! nobody has the address. The client cannot be told of a closed port: that takes
//! a connected socket. It is counted.
//!
//! **Limits.** [`MAX_FLOWS`]; the flow that was idle longest makes room. Idle
//! times are those of the guest's own flows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::errno::Errno;

use super::{Candidates, GuestTarget, PortSearch, canonical, seen_as};
use crate::impair::Beginning;
use crate::policy::{Carried, FlowVerdict, HowEnded, Party, Protocol};
use crate::slirp::Core;
use crate::slirp::counters::DropReason;
use crate::slirp::events::{Ending, Ends, Kept};
use crate::slirp::flow::{FlowKey, Idle, Slots, Table, Token};
use crate::slirp::flows::{Direction, FlowInfo, FlowState};
use crate::slirp::lwip::FrameBuf;
use crate::slirp::tcp::HEAD_START;
use crate::slirp::udp::{
    Arrival, Batch, Datagram, IDLE_ANSWERED, IDLE_UNANSWERED, Local, Pace, RECEIVE_ROUNDS, Receiver,
};
use crate::wire::icmp::Refusal;

/// Flows at most. They cost no descriptor.
pub(crate) const MAX_FLOWS: usize = 8192;

/// Flows that make room at once when the table is full: looking for the longest
/// idle takes a look at all of them, which senders of forged datagrams must not
/// be able to ask for with each.
const MAKE_ROOM: usize = 64;

/// Who a datagram is from: the listener, the client as the kernel names it, and
/// the host's address that it has sent to.
type Client = (Token, SocketAddr, Option<Local>);

#[derive(Debug)]
struct Flow {
    client: Client,
    /// The guest's end and what it sees as the other.
    key: FlowKey,
    /// Addresses of the guest that have not refused; never empty.
    candidates: ArrayVec<SocketAddr, 2>,
    at: usize,
    begun: Instant,
    active: Instant,
    /// Payload bytes carried so far.
    to_guest: u64,
    from_guest: u64,
    answered: bool,
    account: Kept,
}

impl Flow {
    /// Enters what was carried into the account.
    fn count(&mut self) {
        let (to_guest, from_guest) = (self.to_guest, self.from_guest);
        if let Some(account) = &mut self.account {
            account.moved(self.key.guest(), self.key.remote());
            let with = |carried: Carried, bytes| Carried { bytes, ..carried };
            account.to_guest = with(account.to_guest, to_guest);
            account.from_guest = with(account.from_guest, from_guest);
        }
    }
}

impl Idle for Flow {
    fn active(&self) -> Instant {
        self.active
    }

    fn limit(&self) -> Duration {
        if self.answered {
            IDLE_ANSWERED
        } else {
            IDLE_UNANSWERED
        }
    }
}

/// Clients of all UDP listeners.
#[derive(Debug)]
pub(super) struct Clients {
    flows: Slots<Flow>,
    by_client: HashMap<Client, Token>,
    by_guest: HashMap<FlowKey, Token>,
    ports: PortSearch,
    /// Answers under way.
    batch: Option<Batch>,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self {
            flows: Slots::new(Table::Client, MAX_FLOWS),
            by_client: HashMap::new(),
            by_guest: HashMap::new(),
            ports: PortSearch::default(),
            batch: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes datagrams from the listener `token`. False when no more are there.
    pub(super) fn receive(
        &mut self,
        core: &mut Core,
        receiver: &mut Receiver,
        token: Token,
        socket: &OwnedFd,
        pace: &mut Pace,
        target: &GuestTarget,
    ) -> bool {
        for _ in 0..RECEIVE_ROUNDS {
            let datagrams = match receiver.receive(socket, pace) {
                Ok(datagrams) => datagrams,
                Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINVAL) => return false,
                Err(_) => continue,
            };
            let same = |a: &Datagram, b: &Datagram| (a.from, a.local) == (b.from, b.local);
            for run in datagrams.chunk_by(same) {
                let client = (token, run[0].from, run[0].local);
                let Some(flow) = self.flow_for(core, client, target) else {
                    core.drop(DropReason::TableFull);
                    continue;
                };
                let datagrams = Beginning {
                    by: Party::Host,
                    guest: flow.key.guest(),
                    remote: flow.key.remote(),
                };
                if core.udp_fault(datagrams).is_some() {
                    core.drop(DropReason::Fault);
                    continue;
                }
                flow.to_guest += run.iter().map(|d| d.len as u64).sum::<u64>();
                if let Some(account) = &mut flow.account {
                    account.to_guest.packets += run.iter().map(Datagram::count).sum::<u64>();
                }
                let (guest, seen) = (flow.key.guest(), flow.key.remote());
                receiver.to_guest(core, guest, run, |_, _| seen);
            }
            if *pace == Pace::Few {
                return false;
            }
        }
        true
    }

    /// The flow of a client, an old one or a new one.
    fn flow_for(
        &mut self,
        core: &mut Core,
        client: Client,
        target: &GuestTarget,
    ) -> Option<&mut Flow> {
        let token = match self.by_client.get(&client) {
            Some(&token) => {
                self.hurry(core, token);
                token
            }
            None => self.begin(core, client, target)?,
        };
        let flow = self.flows.get_mut(token)?;
        flow.active = core.now;
        Some(flow)
    }

    fn begin(&mut self, core: &mut Core, client: Client, target: &GuestTarget) -> Option<Token> {
        let addr = canonical(client.1).ip();
        let Candidates {
            all: candidates,
            at,
        } = Candidates::new(core, target, Some(addr));
        if self.flows.is_full() {
            for oldest in self.flows.longest_idle(MAKE_ROOM) {
                self.remove(core, oldest, Ending::ours(HowEnded::Evicted));
            }
        }
        let key = self.key(core, client.1, *candidates.get(at)?)?;
        let token = self.flows.insert_with(|token| {
            let ends = Ends {
                protocol: Protocol::Udp,
                guest: key.guest(),
                remote: key.remote(),
            };
            let (by, id) = (Party::Host, Some(token.raw()));
            Some(Flow {
                client,
                key,
                candidates,
                at,
                begun: core.now,
                active: core.now,
                to_guest: 0,
                from_guest: 0,
                answered: false,
                account: core.events.open(core.now, ends, by, id),
            })
        })?;
        self.by_client.insert(client, token);
        self.by_guest.insert(key, token);
        self.flows.look_by(core.now + IDLE_UNANSWERED);
        Some(token)
    }

    /// Finds a pair for the guest's address `guest` that is not in use.
    fn key(&mut self, core: &Core, client: SocketAddr, guest: SocketAddr) -> Option<FlowKey> {
        let client = canonical(client);
        let addr = seen_as(&core.plan, Some(client.ip()), guest.ip())?;
        let by_guest = &self.by_guest;
        let key = |port| FlowKey::new(guest, SocketAddr::new(addr, port));
        let port = self.ports.find(Some(client.port()), |port| {
            by_guest.contains_key(&key(port))
        })?;
        Some(key(port))
    }

    /// Turns from an address whose hardware address nobody tells, once the
    /// first of two has had its head start.
    fn hurry(&mut self, core: &mut Core, token: Token) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let guest = flow.key.guest();
        if !flow.answered
            && core.now >= flow.begun + HEAD_START
            && core.egress().neighbours().get(guest.ip()).is_none()
        {
            self.turn(core, token);
        }
    }

    /// Leads a flow to another address of the guest, if there is one.
    fn turn(&mut self, core: &mut Core, token: Token) -> bool {
        let Some(flow) = self.flows.get_mut(token) else {
            return false;
        };
        let substitute = core.another_guest(flow.key.guest());
        match substitute {
            Some(other) => flow.candidates[flow.at] = other,
            None if flow.candidates.len() == 2 => flow.at = 1 - flow.at,
            None => return false,
        }
        let (peer, guest, before) = (flow.client.1, flow.candidates[flow.at], flow.key);
        let Some(key) = self.key(core, peer, guest) else {
            return false;
        };
        self.by_guest.remove(&before);
        self.by_guest.insert(key, token);
        if let Some(flow) = self.flows.get_mut(token) {
            flow.key = key;
            if let Some(account) = &mut flow.account {
                account.moved(key.guest(), key.remote());
            }
        }
        true
    }

    /// The guest's port is closed, or nobody has its address.
    fn strike(&mut self, core: &mut Core, token: Token, verdict: FlowVerdict) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let refused = flow.key.guest();
        // What has answered is over; what comes next begins anew.
        if flow.answered {
            return self.remove(core, token, Ending::new(Party::Guest, HowEnded::Lost));
        }
        if !self.turn(core, token) {
            if let Some(flow) = self.flows.get_mut(token) {
                core.events
                    .decide(core.now, flow.account.as_mut(), verdict, None);
            }
            let ending = Ending::new(Party::Guest, HowEnded::TurnedAway);
            return self.remove(core, token, ending);
        }
        if let Some(flow) = self.flows.get_mut(token) {
            let current = flow.key.guest();
            flow.candidates.retain(|a| *a != refused);
            let at = flow.candidates.iter().position(|a| *a == current);
            flow.at = at.unwrap_or(0);
        }
    }

    /// The guest said by ICMP that it does not want a datagram. Where it says
    /// which, that goes to the guest's other address.
    pub(super) fn refused(&mut self, core: &mut Core, refusal: &Refusal<'_>) {
        let key = FlowKey::new(refusal.to, refusal.from);
        let Some(&token) = self.by_guest.get(&key) else {
            return;
        };
        self.strike(core, token, FlowVerdict::Refused);
        let again = self.flows.get_mut(token).map(|flow| flow.key);
        match (again, refusal.datagram) {
            (Some(key), Some(payload)) => core.send_udp(key.remote(), key.guest(), payload),
            _ => core.drop(DropReason::Refused),
        }
    }

    /// Nobody on the guest's network has the address `addr`.
    pub(super) fn silent(&mut self, core: &mut Core, addr: IpAddr) {
        let flows = self.flows.iter();
        let affected: Vec<Token> = flows
            .filter(|(_, flow)| flow.key.guest().ip() == addr)
            .map(|(token, _)| token)
            .collect();
        for token in affected {
            self.strike(core, token, FlowVerdict::NoAnswer);
        }
    }

    /// The flow that a datagram of the guest's is an answer in.
    pub(super) fn find(&self, guest: SocketAddr, remote: SocketAddr) -> Option<Token> {
        if self.by_guest.is_empty() {
            return None;
        }
        self.by_guest.get(&FlowKey::new(guest, remote)).copied()
    }

    /// Takes an answer of the guest's. Gives back a batch that has to leave first.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        token: Token,
        arrival: Arrival,
        frame: FrameBuf,
    ) -> Option<Batch> {
        let flow = self.flows.get_mut(token)?;
        flow.active = core.now;
        flow.answered = true;
        let to = flow.client.1;
        let (verdict, peer) = (FlowVerdict::Connected, canonical(to));
        core.events
            .decide(core.now, flow.account.as_mut(), verdict, Some(peer));
        if let Some(batch) = &mut self.batch
            && batch.fits(token, to, &arrival)
        {
            batch.add(arrival, frame);
            return None;
        }
        self.batch.replace(Batch::new(token, to, arrival, frame))
    }

    /// The batch under way.
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        self.batch.take()
    }

    /// The listener that a batch leaves from, and the host's address.
    pub(super) fn way_out(&mut self, batch: &Batch) -> Option<(Token, Option<Local>)> {
        let flow = self.flows.get_mut(batch.flow)?;
        flow.from_guest += batch.bytes as u64;
        if let Some(account) = &mut flow.account {
            account.from_guest.packets += batch.datagrams();
        }
        Some((flow.client.0, flow.client.2))
    }

    fn remove(&mut self, core: &mut Core, token: Token, ending: Ending) {
        if let Some(mut flow) = self.flows.remove(token) {
            flow.count();
            core.events.close(core.now, flow.account.take(), ending);
            self.by_client.remove(&flow.client);
            self.by_guest.remove(&flow.key);
        }
    }

    /// What flows there are from the place `first` on.
    pub(super) fn list(&self, first: usize, now: Instant) -> impl Iterator<Item = FlowInfo> {
        let flows = self.flows.iter_from(first);
        flows.map(move |(token, flow)| FlowInfo {
            id: token.into(),
            protocol: Protocol::Udp,
            direction: Direction::Inbound,
            guest: flow.key.guest(),
            remote: flow.key.remote(),
            peer: Some(canonical(flow.client.1)),
            state: if flow.answered {
                FlowState::Open
            } else {
                FlowState::Connecting
            },
            to_guest: flow.to_guest,
            from_guest: flow.from_guest,
            age: now.duration_since(flow.begun),
            idle: now.duration_since(flow.active),
        })
    }

    /// Forgets a client. False when there is none.
    pub(super) fn close(&mut self, core: &mut Core, token: Token) -> bool {
        let known = self.flows.get_mut(token).is_some();
        self.remove(core, token, Ending::ours(HowEnded::Killed));
        known
    }

    /// Ends the flows of a listener that is closed.
    pub(super) fn end_all_of(&mut self, core: &mut Core, listener: Token) {
        let flows = self.flows.iter();
        let ended: Vec<Token> = flows
            .filter(|(_, flow)| flow.client.0 == listener)
            .map(|(token, _)| token)
            .collect();
        for token in ended {
            self.remove(core, token, Ending::ours(HowEnded::Killed));
        }
    }

    /// Ends every flow.
    pub(super) fn end_all(&mut self, core: &mut Core, ending: Ending) {
        let tokens: Vec<Token> = self.flows.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.remove(core, token, ending);
        }
    }

    /// Removes idle flows.
    pub(super) fn poll_timers(&mut self, core: &mut Core) {
        for token in self.flows.idle(core.now) {
            self.remove(core, token, Ending::ours(HowEnded::Idle));
        }
    }

    /// When [`Clients::poll_timers`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.flows.next_look()
    }
}
