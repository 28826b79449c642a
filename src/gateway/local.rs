//! What the gateway answers itself, tied to the translation core: the
//! neighbourhood at once, DNS by tasks.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::GatewayError;
use crate::config::Config;
use crate::impair::Faults;
use crate::net::Checksum;
use crate::services::dns::{NameTable, Resolver, Transport};
use crate::services::neighbourhood::{
    Handled, Lease, Neighbourhood, NeighbourhoodConfig, TransportChecksum,
};
use crate::slirp::{Local, Slirp};

/// DNS answers that wait for the loop; the resolver bounds the queries.
const MAX_ANSWERS: usize = 1024;

/// A DNS answer on its way to a guest.
#[derive(Debug)]
pub(super) struct DnsAnswer {
    pub(super) guest: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) message: Vec<u8>,
}

/// The gateway's own services.
#[derive(Debug)]
pub(super) struct Services {
    neighbourhood: Neighbourhood,
    resolver: Option<Resolver>,
    answers: mpsc::Sender<DnsAnswer>,
    frames: Vec<Vec<u8>>,
}

impl Services {
    pub(super) fn new(
        config: &Config,
        now: Instant,
    ) -> Result<(Self, mpsc::Receiver<DnsAnswer>), GatewayError> {
        let mut neighbourhood = NeighbourhoodConfig::new(config.plan.clone());
        neighbourhood.announce_dns = config.dns.is_some();
        let resolver = config
            .dns
            .clone()
            .map(|dns| Resolver::new(dns, &config.plan))
            .transpose()?;
        let (sender, receiver) = mpsc::channel(MAX_ANSWERS);
        let services = Self {
            neighbourhood: Neighbourhood::new(neighbourhood, now),
            resolver,
            answers: sender,
            frames: Vec::new(),
        };
        Ok((services, receiver))
    }

    /// Does what time asks for.
    pub(super) fn poll(&mut self, now: Instant, slirp: &mut Slirp) {
        if self
            .neighbourhood
            .next_deadline()
            .is_some_and(|at| at <= now)
        {
            self.follow_search();
            self.neighbourhood.poll(now, &mut self.frames);
            for frame in self.frames.drain(..) {
                slirp.send_frame(&frame);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.neighbourhood.next_deadline()
    }

    /// The resolver; `None`: switched off.
    pub(super) const fn resolver(&self) -> Option<&Resolver> {
        self.resolver.as_ref()
    }

    /// Which names led guests to which addresses; empty without a resolver.
    pub(super) fn names(&self) -> Rc<NameTable> {
        let names = self.resolver.as_ref().map(Resolver::names);
        names.unwrap_or_default()
    }

    /// Gives questions that come from now on these faults.
    pub(super) fn set_faults(&self, faults: Rc<Faults>) {
        if let Some(resolver) = &self.resolver {
            resolver.set_faults(faults);
        }
    }

    /// DHCP leases, those that have run out as well.
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.neighbourhood.leases()
    }

    /// Guests are told the search domains that the resolver has now.
    fn follow_search(&mut self) {
        if let Some(resolver) = &self.resolver {
            self.neighbourhood.set_search(&resolver.search_domains());
        }
    }
}

impl Local for Rc<RefCell<Services>> {
    fn frame(
        &mut self,
        now: Instant,
        frame: &[u8],
        checksum: Checksum,
        answers: &mut Vec<Vec<u8>>,
    ) {
        let this = &mut *self.borrow_mut();
        if frame.get(12..14) != Some(&ETHERTYPE_ARP) {
            this.follow_search();
        }
        let checksum = match checksum {
            Checksum::Complete => TransportChecksum::Verify,
            Checksum::Valid | Checksum::Partial { .. } => TransportChecksum::Vouched,
        };
        let handled = this.neighbourhood.handle(now, frame, checksum, answers);
        // Of IPv4 only DHCP comes here.
        if frame.get(12..14) == Some(&ETHERTYPE_IPV4)
            && let Some(resolver) = &this.resolver
        {
            resolver.follow_leases(this.neighbourhood.leases());
        }
        if let Handled::Ignored(reason) = handled {
            tracing::trace!(%reason, "a frame to the gateway was ignored");
        }
    }

    fn dns_datagram(&mut self, guest: SocketAddr, server: SocketAddr, query: &[u8]) {
        let this = self.borrow();
        let Some(resolver) = this.resolver.clone() else {
            return;
        };
        let answers = this.answers.clone();
        let query = query.to_vec();
        tokio::task::spawn_local(async move {
            if let Some(message) = resolver.answer(&query, Transport::Udp).await {
                // A full queue drops the answer: the guest asks again.
                let _ = answers.try_send(DnsAnswer {
                    guest,
                    server,
                    message,
                });
            }
        });
    }

    fn dns_stream(&mut self) -> io::Result<OwnedFd> {
        let this = self.borrow();
        let resolver = this
            .resolver
            .clone()
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        let (guests, ours) = UnixStream::pair()?;
        guests.set_nonblocking(true)?;
        ours.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(ours)?;
        tokio::task::spawn_local(async move { resolver.serve_stream(stream).await });
        Ok(guests.into())
    }
}

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
