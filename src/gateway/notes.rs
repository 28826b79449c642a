//! What captures say of flows: made of what the translation core tells.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::capture::Note;
use crate::policy::{FlowEvent, FlowNumber, FlowOpened, FlowVerdict};

/// Flows of which it is not known yet what becomes. As many as are told of and
/// alive: the core bounds them.
#[derive(Debug, Default)]
pub(super) struct Undecided(HashMap<FlowNumber, FlowOpened>);

impl Undecided {
    /// What is to be said because of `event`; `name` knows remotes' names.
    pub(super) fn note(
        &mut self,
        event: &FlowEvent,
        name: impl FnOnce(IpAddr) -> Option<Rc<str>>,
    ) -> Option<Note> {
        let (flow, verdict, peer) = match event {
            FlowEvent::Opened(flow) => {
                self.0.insert(flow.number, *flow);
                return None;
            }
            FlowEvent::Decided(decided) => {
                let flow = self.0.remove(&decided.number)?;
                (flow, decided.verdict, decided.peer)
            }
            FlowEvent::Closed(closed) => {
                let flow = self.0.remove(&closed.opened.number)?;
                (flow, closed.verdict?, closed.peer)
            }
        };
        let name = name(flow.remote.ip());
        // That the peer is whom the guest asked for is not worth saying.
        let peer = peer.filter(|peer| verdict == FlowVerdict::Connected && *peer != flow.remote);
        let FlowOpened {
            protocol,
            guest,
            remote,
            ..
        } = flow;
        Some(Note::verdict(
            protocol,
            guest,
            remote,
            verdict,
            peer,
            name.as_deref(),
        ))
    }

    /// Nobody wants to know.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{FlowDecided, Party, Protocol};
    use std::time::Instant;

    #[test]
    fn a_verdict_is_said_once() {
        let mut undecided = Undecided::default();
        let at = Instant::now();
        let end = |text: &str| text.parse().expect("an address and port");
        let (guest, remote) = (end("10.0.2.100:40000"), end("192.0.2.1:443"));
        let opened = FlowOpened {
            number: FlowNumber(7),
            id: None,
            at,
            protocol: Protocol::Tcp,
            by: Party::Guest,
            guest,
            remote,
        };
        let decided = |verdict, peer| {
            FlowEvent::Decided(FlowDecided {
                number: FlowNumber(7),
                at,
                verdict,
                peer,
            })
        };
        let refused = decided(FlowVerdict::Refused, Some(remote));
        // It began before anybody wanted to know.
        assert_eq!(undecided.note(&refused, |_| None), None);
        assert_eq!(undecided.note(&FlowEvent::Opened(opened), |_| None), None);
        let note = undecided.note(&refused, |ip| {
            assert_eq!(ip, remote.ip());
            Some("www.example.com".into())
        });
        let said = |text: &str| Some(Note::new(Protocol::Tcp, guest, remote, text.to_owned()));
        assert_eq!(note, said("www.example.com: refused"));
        assert_eq!(undecided.note(&refused, |_| None), None);
        for (peer, text) in [
            (remote, "connected"),
            (end("127.0.0.1:443"), "connected to 127.0.0.1:443"),
        ] {
            undecided.note(&FlowEvent::Opened(opened), |_| None);
            let note = undecided.note(&decided(FlowVerdict::Connected, Some(peer)), |_| None);
            assert_eq!(note, said(text));
        }
        undecided.note(&FlowEvent::Opened(opened), |_| None);
        undecided.forget();
        assert_eq!(undecided.note(&refused, |_| None), None);
    }
}
