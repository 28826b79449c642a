//! Captures and what they are attached to: the link, or the ports of a switch.

use std::cell::RefCell;
use std::io::IoSlice;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::Gateway;
use crate::capture::{
    Answer, CaptureError, CaptureInfo, CaptureSpec, CaptureState, Captures, Direction, Note, Port,
    PortKey, Target,
};
use crate::config::Config;
use crate::control::proto::{self, Reply};
use crate::control::{Command, Request, RequestError};
use crate::net::Offload;
use crate::tap::switch::PortId;
use crate::tap::{Course, FrameWatcher, SharedWatcher, Watched};

/// The key of a link that has no ports; those are counted from 1.
const ONLY_PORT: PortKey = PortKey(0);

/// Where frames are shown to the captures.
#[derive(Debug, Clone)]
pub(super) struct Wiretap {
    captures: Rc<RefCell<Captures>>,
    /// The name of a link that has no ports.
    name: Rc<str>,
}

impl Wiretap {
    fn new(config: &Config) -> Self {
        Self {
            captures: Rc::default(),
            name: config.interface.name.as_str().into(),
        }
    }

    /// Shows a frame of a link that has no ports.
    pub(super) fn show(&self, course: Course, offload: &Offload, parts: &[IoSlice<'_>]) {
        let port = Port {
            key: ONLY_PORT,
            name: &self.name,
        };
        self.show_at(port, course, offload, parts);
    }

    /// Shows a frame to every capture, as the guest sees it.
    fn show_at(&self, port: Port<'_>, course: Course, offload: &Offload, parts: &[IoSlice<'_>]) {
        let direction = match course {
            Course::In => Direction::FromGuest,
            Course::Out => Direction::ToGuest,
        };
        self.captures
            .borrow_mut()
            .frame(port, direction, offload, parts);
    }

    /// For a link that has ports.
    pub(super) fn into_watcher(self) -> SharedWatcher {
        Rc::new(RefCell::new(self))
    }
}

impl FrameWatcher for Wiretap {
    fn frame(
        &mut self,
        id: PortId,
        name: &str,
        course: Course,
        offload: &Offload,
        parts: &[IoSlice<'_>],
    ) {
        let key = PortKey(id.get());
        self.show_at(Port { key, name }, course, offload, parts);
    }
}

/// All captures of the gateway.
#[derive(Debug)]
pub(super) struct Capturing {
    wiretap: Wiretap,
    /// Who shows the frames; `None`: nobody does, for there is no capture.
    attached: Option<Watched>,
}

impl Capturing {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            wiretap: Wiretap::new(config),
            attached: None,
        }
    }

    /// Those that run.
    pub(super) fn list(&self) -> Vec<CaptureInfo> {
        self.wiretap.captures.borrow_mut().list()
    }

    /// Writes what is left, and ends them.
    pub(super) fn finish(&self) {
        self.wiretap.captures.borrow_mut().finish();
    }

    /// Says something about a flow in all captures.
    pub(super) fn note(&self, note: &Note) {
        if self.attached.is_some() {
            self.wiretap.captures.borrow_mut().note(note);
        }
    }

    /// True when a note would be read by somebody.
    pub(super) const fn wants_notes(&self) -> bool {
        self.attached.is_some()
    }

    /// To be called at the end of each round.
    pub(super) fn end_round(&self) {
        if self.attached.is_some() {
            self.wiretap.captures.borrow_mut().end_round();
        }
    }
}

impl Gateway {
    /// Starts the captures that the configuration asks for.
    pub(super) fn start_captures(&mut self, specs: &[CaptureSpec]) -> Result<(), CaptureError> {
        for spec in specs {
            self.with_ports(|captures, ports| captures.start_now(spec.clone(), ports))?;
        }
        Ok(())
    }

    /// Where there is no capture any more, frames are shown to nobody.
    fn detach_captures(&mut self) {
        if self.capturing.wiretap.captures.borrow().is_empty() {
            self.link.capture(None);
            self.capturing.attached = None;
        }
    }

    /// Starts a capture on what there is.
    fn with_ports<T>(&mut self, start: impl FnOnce(&mut Captures, Vec<Port<'_>>) -> T) -> T {
        let wiretap = &self.capturing.wiretap;
        if self.capturing.attached.is_none() {
            self.capturing.attached = self.link.capture(Some(wiretap.clone()));
        }
        let Wiretap { captures, name } = wiretap;
        let listed = self.link.ports();
        let mut ports: Vec<Port<'_>> = listed
            .iter()
            .map(|port| Port {
                key: PortKey(port.id.get()),
                name: &port.name,
            })
            .collect();
        if self.capturing.attached == Some(Watched::ByWhoUsesIt) {
            ports.push(Port {
                key: ONLY_PORT,
                name,
            });
        }
        start(&mut captures.borrow_mut(), ports)
    }

    /// Does a command that is about captures, and hands back any other. It is
    /// answered by the capture's thread: files take their time.
    pub(super) fn do_capture(&mut self, command: Command) -> Option<Command> {
        let Command { request, reply } = command;
        match request {
            Request::CaptureStart { capture } => {
                let answer = answer(reply, |id| Reply::Capture { id });
                match later(capture) {
                    Ok(spec) => {
                        self.with_ports(|captures, ports| captures.start(spec, ports, answer));
                    }
                    Err(error) => answer(Err(error)),
                }
            }
            Request::CaptureStop { id } => {
                let answer = answer(reply, |()| Reply::Done {});
                self.capturing
                    .wiretap
                    .captures
                    .borrow_mut()
                    .stop(id, answer);
            }
            Request::CaptureRotate { id } => {
                let answer = answer(reply, |()| Reply::Done {});
                self.capturing
                    .wiretap
                    .captures
                    .borrow_mut()
                    .rotate(id, answer);
            }
            Request::CaptureList {} => {
                let captures = self.capturing.list();
                let captures = captures.into_iter().map(listed).collect();
                let _ = reply.send(Ok(Reply::Captures { captures }));
            }
            request => return Some(Command { request, reply }),
        }
        self.detach_captures();
        None
    }
}

/// Hands what a capture says over to a client, should it still be there.
fn answer<T: 'static>(
    reply: oneshot::Sender<Result<Reply, RequestError>>,
    done: fn(T) -> Reply,
) -> Answer<T> {
    Box::new(move |outcome| {
        let _ = reply.send(outcome.map(done).map_err(RequestError::from));
    })
}

/// What may be asked for while the gateway runs.
fn later(spec: CaptureSpec) -> Result<CaptureSpec, CaptureError> {
    match &spec.target {
        Target::Stdout => Err(CaptureError::StdoutLater),
        Target::Path(path) if path.is_relative() => Err(CaptureError::Relative(spec.target)),
        Target::Path(_) => Ok(spec),
    }
}

fn listed(info: CaptureInfo) -> proto::Capture {
    proto::Capture {
        id: info.id,
        capture: info.spec,
        state: match info.state {
            CaptureState::Waiting => proto::CaptureState::Waiting,
            CaptureState::Running => proto::CaptureState::Running,
            CaptureState::Ending => proto::CaptureState::Ending,
        },
        file: info.file.map(|file| file.to_string()),
        packets: info.packets,
        bytes: info.bytes,
        lost: info.lost,
    }
}

impl From<CaptureError> for RequestError {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Unknown(_) => Self::NotFound(error.to_string()),
            CaptureError::StdoutLater | CaptureError::Relative(_) | CaptureError::Which(_) => {
                Self::BadRequest(error.to_string())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}
