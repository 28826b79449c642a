//! Who sends to a UDP socket.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::MAX_CLIENTS;
use crate::tap::fdb::AGEING;

/// Names a client; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientId(u64);

/// Whoever has sent a frame lately.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    heard: Instant,
}

/// Who is there.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_id: HashMap<ClientId, Client>,
    by_address: HashMap<SocketAddr, ClientId>,
    next_id: u64,
    next_expiry: Option<Instant>,
}

impl Clients {
    /// Takes note that a client was heard, and says who had to make room.
    pub(super) fn heard(
        &mut self,
        address: SocketAddr,
        now: Instant,
    ) -> (ClientId, Option<ClientId>) {
        if let Some(id) = self.by_address.get(&address)
            && let Some(client) = self.by_id.get_mut(id)
        {
            client.heard = now;
            return (*id, None);
        }
        let mut gone = None;
        if self.by_id.len() >= MAX_CLIENTS {
            let oldest = self.by_id.iter().min_by_key(|(_, client)| client.heard);
            gone = oldest.map(|(id, _)| *id);
        }
        if let Some(gone) = gone {
            self.remove(gone);
        }
        let id = ClientId(self.next_id);
        self.next_id += 1;
        let heard = now;
        self.by_id.insert(id, Client { address, heard });
        self.by_address.insert(address, id);
        self.next_expiry = self.next_expiry.or(Some(now + AGEING));
        tracing::info!(client = %address, "heard a new client");
        (id, gone)
    }

    fn remove(&mut self, id: ClientId) {
        if let Some(client) = self.by_id.remove(&id) {
            self.by_address.remove(&client.address);
            tracing::info!(client = %client.address, "a client has left");
        }
    }

    /// Removes who has been silent for too long, and says who that was.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<ClientId> {
        if self.next_expiry.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let is_silent = |client: &Client| now.saturating_duration_since(client.heard) >= AGEING;
        let silent = self.by_id.iter().filter(|(_, client)| is_silent(client));
        let silent: Vec<_> = silent.map(|(id, _)| *id).collect();
        for id in &silent {
            self.remove(*id);
        }
        let expiries = self.by_id.values().map(|client| client.heard + AGEING);
        self.next_expiry = expiries.min();
        silent
    }

    /// Where a client is.
    pub(super) fn address(&self, id: ClientId) -> Option<SocketAddr> {
        self.by_id.get(&id).map(|client| client.address)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, SocketAddr)> + '_ {
        self.by_id.iter().map(|(id, client)| (*id, client.address))
    }
}
