//! The link with what is attached to it: captures, and impairment.
//!
//! ```text
//!  guest ── link ── captures ── impairment ── translation core
//! ```
//!
//! So captures show what the guest's own wire carries: what it sent before
//! anything became of it, and what reached it after.
//!
//! The link is read by the loop and written to by the translation core, never at
//! the same time. With nothing attached there is a test of a pointer for each
//! frame, and nothing else.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use super::capture::Wiretap;
use super::impaired::Impaired;
use crate::control::proto::Traffic;
use crate::impair::Names;
use crate::net::Offload;
use crate::slirp::Outlet;
use crate::tap::switch::PortInfo;
use crate::tap::{Course, Link, Received, Watched};

/// The guest's own wire: the link with its captures.
#[derive(Debug)]
pub(super) struct Wire {
    link: Box<dyn Link>,
    /// `None`: nothing is captured, or the link itself shows what passes it.
    capture: Option<Wiretap>,
}

impl Wire {
    pub(super) fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let received = self.link.recv(buf)?;
        if let Some(capture) = &self.capture {
            let frame = &buf[..received.len];
            capture.show(Course::In, &received.offload, &[IoSlice::new(frame)]);
        }
        Ok(received)
    }

    pub(super) fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.link.send(offload, frame)?;
        if let Some(capture) = &self.capture {
            capture.show(Course::Out, offload, frame);
        }
        Ok(())
    }
}

/// See the module's documentation.
#[derive(Debug)]
struct Attached {
    wire: Wire,
    /// What the guest calls its remotes.
    names: Rc<dyn Names>,
    /// `None` until there are rules.
    impairment: Option<Box<Impaired>>,
}

impl Attached {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        match &mut self.impairment {
            None => self.wire.recv(buf),
            Some(impairment) => impairment.recv(&mut self.wire, buf),
        }
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        match &mut self.impairment {
            None => self.wire.send(offload, frame),
            Some(impairment) => impairment.send(&mut self.wire, offload, frame),
        }
    }

    /// Whether rules took the last frame that was sent.
    fn is_wire(&self) -> bool {
        self.impairment
            .as_ref()
            .is_some_and(|rules| rules.took_last())
    }

    /// When [`Attached::recv`] is to be called though the link has nothing.
    fn next_deadline(&self) -> Option<Instant> {
        self.impairment.as_ref()?.next_deadline()
    }
}

/// The end that the translation core writes to.
#[derive(Debug, Clone)]
pub(super) struct LineOutlet {
    /// `None` at the end.
    attached: Rc<RefCell<Option<Attached>>>,
    /// Frames to it.
    sent: Rc<Cell<Traffic>>,
}

impl Outlet for LineOutlet {
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        match self.attached.borrow_mut().as_mut() {
            Some(attached) => attached.send(offload, frame)?,
            None => return Err(io::ErrorKind::NotConnected.into()),
        }
        let mut sent = self.sent.get();
        sent.count(frame.iter().map(|part| part.len()).sum());
        self.sent.set(sent);
        Ok(())
    }

    fn is_wire(&self) -> bool {
        self.attached
            .borrow()
            .as_ref()
            .is_some_and(Attached::is_wire)
    }
}

/// The end that the loop has. Dropped, it gives the link up, whoever still shares
/// it: lwIP keeps what it was given for ever, and a link may have files and
/// children to remove.
#[derive(Debug)]
pub(super) struct Line(LineOutlet);

impl Drop for Line {
    fn drop(&mut self) {
        if let Ok(mut attached) = self.0.attached.try_borrow_mut() {
            *attached = None;
        }
    }
}

impl Line {
    /// `names` knows what the guest calls its remotes.
    pub(super) fn new(link: Box<dyn Link>, names: Rc<dyn Names>) -> Self {
        Self(LineOutlet {
            attached: Rc::new(RefCell::new(Some(Attached {
                wire: Wire {
                    link,
                    capture: None,
                },
                names,
                impairment: None,
            }))),
            sent: Rc::default(),
        })
    }

    /// For the translation core.
    pub(super) fn outlet(&self) -> LineOutlet {
        self.0.clone()
    }

    /// `WouldBlock` without a link.
    pub(super) fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        match self.0.attached.borrow_mut().as_mut() {
            Some(attached) => attached.recv(buf),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// When [`Line::recv`] is to be called though the link has nothing.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.attached.borrow().as_ref()?.next_deadline()
    }

    /// Looks at the link itself.
    pub(super) fn with_link<T>(&self, look: impl FnOnce(&dyn Link) -> T) -> Option<T> {
        let attached = self.0.attached.borrow();
        attached.as_ref().map(|attached| look(&*attached.wire.link))
    }

    /// Does something with the rules, which are made of nothing if there were
    /// none yet. `None` without a link.
    pub(super) fn with_impairment<T>(&self, act: impl FnOnce(&mut Impaired) -> T) -> Option<T> {
        let mut attached = self.0.attached.borrow_mut();
        let Attached {
            names, impairment, ..
        } = attached.as_mut()?;
        Some(act(impairment.get_or_insert_with(|| {
            Box::new(Impaired::new(Rc::clone(names)))
        })))
    }

    /// Lets the schedules of the rules begin.
    pub(super) fn start_schedules(&self, now: Instant) {
        let mut attached = self.0.attached.borrow_mut();
        if let Some(impairment) = attached.as_mut().and_then(|a| a.impairment.as_mut()) {
            impairment.start(now);
        }
    }

    /// Looks at the rules; `None` when there never were any.
    pub(super) fn look_at_impairment<T>(&self, look: impl FnOnce(&Impaired) -> T) -> Option<T> {
        let attached = self.0.attached.borrow();
        attached.as_ref()?.impairment.as_deref().map(look)
    }

    /// Captures what passes the link, or nothing any more. Says who shows it;
    /// `None` without a link.
    pub(super) fn capture(&self, wiretap: Option<Wiretap>) -> Option<Watched> {
        let mut attached = self.0.attached.borrow_mut();
        let wire = &mut attached.as_mut()?.wire;
        let watcher = wiretap.clone().map(Wiretap::into_watcher);
        let watched = wire.link.watch_frames(watcher);
        wire.capture = match watched {
            Watched::ByTheLink => None,
            Watched::ByWhoUsesIt => wiretap,
        };
        Some(watched)
    }

    pub(super) fn ports(&self) -> Vec<PortInfo> {
        self.with_link(|link| link.ports()).unwrap_or_default()
    }

    /// Frames to it.
    pub(super) fn sent(&self) -> Traffic {
        self.0.sent.get()
    }
}
