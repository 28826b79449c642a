//! Figures that clients of the control socket, metrics and summaries share: what
//! passed, what was dropped, port by port.

use std::collections::BTreeMap;

use super::Gateway;
use crate::control::proto::Traffic;
use crate::observe::report::{Frames, Link};
use crate::slirp::DropReason;
use crate::tap::switch::{PortCounters, PortId, PortInfo};

impl Gateway {
    /// Packets dropped, by reason: all reasons that there are.
    pub(super) fn drops(&mut self) -> BTreeMap<String, u64> {
        let core = self.slirp.counters().reasons();
        let mut drops: BTreeMap<String, u64> = core
            .map(|(reason, count)| (name_of(reason), count))
            .collect();
        // There from the beginning, whether anything is impaired or not.
        drops.extend(["impaired", "impair_queue"].map(|reason| (reason.to_owned(), 0)));
        self.link
            .look_at_impairment(|impairment| impairment.add_drops(&mut drops));
        drops
    }

    /// The same, those that occurred.
    pub(super) fn drops_that_occurred(&mut self) -> BTreeMap<String, u64> {
        let mut drops = self.drops();
        drops.retain(|_, count| *count > 0);
        drops
    }

    /// Frames both ways until now.
    pub(super) fn link_figures(&self) -> Link {
        let frames = |traffic: Traffic| Frames {
            frames: traffic.frames,
            bytes: traffic.bytes,
        };
        Link {
            from_guest: frames(self.received),
            to_guest: frames(self.link.sent()),
        }
    }

    /// The ports of the link. Of one that is no switch the gateway itself knows what
    /// passed: it is its only port.
    pub(super) fn ports(&mut self) -> Vec<PortInfo> {
        let ports = self.link.ports();
        if !ports.is_empty() {
            return ports;
        }
        let counters = self.slirp.counters();
        vec![PortInfo {
            id: PortId::FIRST,
            name: self.interface.clone(),
            stations: Vec::new(),
            counters: PortCounters {
                received: self.received.frames,
                sent: self.link.sent().frames,
                malformed: counters.dropped(DropReason::Malformed),
                not_sent: counters.dropped(DropReason::Link),
            },
        }]
    }
}

/// `TableFull` is `table_full`.
fn name_of(reason: DropReason) -> String {
    let mut name = String::new();
    for c in format!("{reason:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_names() {
        assert_eq!(
            name_of(DropReason::NoHardwareAddress),
            "no_hardware_address"
        );
        assert_eq!(name_of(DropReason::Link), "link");
    }
}
