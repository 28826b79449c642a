//! Flows for tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::process::Process;
use super::record::{Identity, Record};
use crate::policy::{
    Carried, FlowClosed, FlowNumber, FlowOpened, FlowVerdict, HowEnded, Party, Protocol,
};

/// A flow that can be changed before it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) closed: FlowClosed,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) process: Option<Arc<Process>>,
}

/// A connection that worked, from 100 ms after `began` to 600 ms.
pub(crate) fn flow(began: Instant, number: u64, remote: &str) -> Flow {
    let remote: SocketAddr = remote.parse().expect("an address");
    let guest: SocketAddr = if remote.is_ipv4() {
        "10.0.2.100:40000".parse().expect("an address")
    } else {
        "[fd00::100]:40000".parse().expect("an address")
    };
    let opened = FlowOpened {
        number: FlowNumber(number),
        id: Some(number),
        at: began + Duration::from_millis(100),
        protocol: Protocol::Tcp,
        by: Party::Guest,
        guest,
        remote,
    };
    let carried = |bytes, packets| Carried {
        bytes,
        packets,
        retransmits: 0,
    };
    let closed = FlowClosed {
        opened,
        at: began + Duration::from_millis(600),
        verdict: Some(FlowVerdict::Connected),
        peer: Some(remote),
        connect_time: Some(Duration::from_millis(20)),
        to_guest: carried(1000, 3),
        from_guest: carried(100, 2),
        rtt: Some(Duration::from_millis(15)),
        guest_rtt: None,
        by: Party::Guest,
        how: HowEnded::Finished,
        half_closed_by: None,
        impaired: false,
    };
    Flow {
        closed,
        name: None,
        process: None,
    }
}

impl Flow {
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    pub(crate) fn of(mut self, pid: u32, name: &str) -> Self {
        self.process = Some(Arc::new(Process {
            pid,
            name: name.to_owned(),
            exe: Some(PathBuf::from("/usr/bin").join(name)),
            uid: 1000,
        }));
        self
    }

    pub(crate) fn refused(mut self) -> Self {
        self.closed.verdict = Some(FlowVerdict::Refused);
        self.closed.how = HowEnded::TurnedAway;
        self.closed.by = Party::Host;
        self.closed.connect_time = None;
        self.closed.rtt = None;
        self.closed.peer = None;
        self.closed.to_guest = Carried::default();
        self.closed.from_guest = Carried::default();
        self.closed.at = self.closed.opened.at + Duration::from_millis(5);
        self
    }

    fn identity(&self) -> Identity {
        Identity {
            began: SystemTime::UNIX_EPOCH,
            name: self.name.clone(),
            process: self.process.clone(),
        }
    }

    pub(crate) fn opened(&self) -> Record {
        Record::Opened {
            flow: self.closed.opened,
            identity: self.identity(),
        }
    }

    pub(crate) fn closed(&self) -> Record {
        Record::Closed {
            flow: Box::new(self.closed.clone()),
            identity: self.identity(),
            at: SystemTime::UNIX_EPOCH,
        }
    }
}
