//! TCP flows, as [`Slirp::flow_list`](super::super::Slirp::flow_list) tells of
//! them.

use std::time::Instant;

use socket2::SockRef;

use super::super::Core;
use super::super::events::Ending;
use super::super::flow::Token;
use super::super::flows::{FlowInfo, FlowState, MAX_LISTED};
use super::{Flow, Phase, Tcp};
use crate::policy::{HowEnded, Protocol};

impl Tcp {
    /// What flows there are from the place `first` on, at most [`MAX_LISTED`].
    pub(crate) fn list(&self, first: usize, now: Instant) -> impl Iterator<Item = FlowInfo> {
        let flows = self.flows.iter_from(first).take(MAX_LISTED);
        flows.map(move |(token, flow)| flow.info(token, now))
    }

    /// Ends a flow with a reset on both sides. False when there is none.
    pub(crate) fn close(&mut self, core: &mut Core, token: Token) -> bool {
        let known = self.flows.get_mut(token).is_some();
        self.reset(core, token, Ending::ours(HowEnded::Killed));
        known
    }
}

impl Flow {
    fn info(&self, token: Token, now: Instant) -> FlowInfo {
        let (to_guest, from_guest) = match &self.phase {
            Phase::Connecting(_) => (0, 0),
            Phase::Joined(join) => join.carried(),
        };
        let state = match &self.phase {
            Phase::Connecting(_) => FlowState::Connecting,
            Phase::Joined(_) if self.opening.is_some() => FlowState::Connecting,
            Phase::Joined(_) if self.half_closed => FlowState::HalfClosed,
            Phase::Joined(_) => FlowState::Open,
        };
        let peer = SockRef::from(&self.socket).peer_addr().ok();
        FlowInfo {
            id: token.into(),
            protocol: Protocol::Tcp,
            direction: self.direction,
            guest: self.key.guest(),
            remote: self.key.remote(),
            peer: peer.and_then(|addr| addr.as_socket()),
            state,
            to_guest,
            from_guest,
            age: now.duration_since(self.begun),
            idle: now.duration_since(self.active),
        }
    }
}
