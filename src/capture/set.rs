//! The captures of a gateway: what its loop has of them.

use std::collections::HashMap;
use std::fmt;
use std::io::IoSlice;
use std::num::NonZeroU32;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::filter::HEAD_LEN;
use super::queue::{Closed, Done, Incoming, Order, Queue};
use super::spec::{CaptureSpec, Segment, Target};
use super::writer;
use super::{CaptureError, Direction, MAX_CAPTURES, Note};
use crate::net::Offload;

/// Interfaces of one capture; the last stands for all that come later.
pub const MAX_INTERFACES: usize = 1024;

/// How long captures may take to write what is left at the gateway's end.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Names a capture. Counted from 1, never used twice by one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CaptureId(pub NonZeroU32);

impl fmt::Display for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells ports apart; never used twice by one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey(pub u32);

/// What frames pass: becomes an interface of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port<'n> {
    /// Which.
    pub key: PortKey,
    /// The interface's name.
    pub name: &'n str,
}

/// Called when what was asked for is done, by any thread.
pub type Answer<T> = Box<dyn FnOnce(Result<T, CaptureError>) + Send>;

/// How far a capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureState {
    /// Nobody reads its FIFO yet.
    Waiting,
    /// It captures.
    Running,
    /// It writes what is left.
    Ending,
}

/// A capture as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureInfo {
    /// Which.
    pub id: CaptureId,
    /// As it was asked for.
    pub spec: CaptureSpec,
    /// How far it is.
    pub state: CaptureState,
    /// The file being written.
    pub file: Option<Target>,
    /// Packets in all its files.
    pub packets: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Packets that were lost.
    pub lost: u64,
}

/// All captures of a gateway. Dropped, they end.
#[derive(Debug, Default)]
pub struct Captures {
    running: Vec<Capture>,
    last_id: u32,
}

struct Capture {
    id: CaptureId,
    spec: CaptureSpec,
    queue: Arc<Queue>,
    interfaces: HashMap<PortKey, u32>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture")
            .field("id", &self.id)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Captures {
    /// True when nothing is captured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a capture on a thread of its own; `ports` are its interfaces from
    /// the beginning. `answer` is called when its file is open, or could not be.
    pub fn start<'n>(
        &mut self,
        spec: CaptureSpec,
        ports: impl IntoIterator<Item = Port<'n>>,
        answer: Answer<CaptureId>,
    ) {
        self.forget_ended();
        if self.running.len() >= MAX_CAPTURES {
            return answer(Err(CaptureError::TooMany));
        }
        if self
            .running
            .iter()
            .any(|other| other.spec.target == spec.target)
        {
            return answer(Err(CaptureError::Busy(spec.target)));
        }
        self.last_id += 1;
        let id = CaptureId(NonZeroU32::new(self.last_id).unwrap_or(NonZeroU32::MIN));
        let mut capture = Capture {
            id,
            spec: spec.clone(),
            queue: Arc::default(),
            interfaces: HashMap::new(),
        };
        for port in ports {
            // It cannot be closed yet.
            let _ = capture.interface(port);
        }
        let queue = Arc::clone(&capture.queue);
        // In a place from which it can be taken back when there is no thread.
        let (sender, receiver) = mpsc::channel::<Done<()>>();
        let thread = thread::Builder::new()
            .name("gw-capture".to_owned())
            .spawn(move || {
                if let Ok(opened) = receiver.recv() {
                    writer::run(spec, queue, opened);
                }
            });
        match thread {
            Ok(_) => {
                self.running.push(capture);
                let _ = sender.send(Box::new(move |opened| answer(opened.map(|()| id))));
            }
            Err(error) => answer(Err(CaptureError::Thread(error))),
        }
    }

    /// As [`Captures::start`]; waits for the file to be open.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn start_now<'n>(
        &mut self,
        spec: CaptureSpec,
        ports: impl IntoIterator<Item = Port<'n>>,
    ) -> Result<CaptureId, CaptureError> {
        let target = spec.target.clone();
        let (sender, receiver) = mpsc::channel();
        let answer = move |opened| {
            let _ = sender.send(opened);
        };
        self.start(spec, ports, Box::new(answer));
        receiver.recv().unwrap_or(Err(CaptureError::Ended(target)))
    }

    /// Ends a capture; without an id the only one there is. `answer` is called
    /// when its file is complete.
    pub fn stop(&mut self, id: Option<CaptureId>, answer: Answer<()>) {
        self.order(id, answer, Order::Stop);
    }

    /// Begins another file of a capture; without an id of the only one there is.
    /// `answer` is called when it has.
    pub fn rotate(&mut self, id: Option<CaptureId>, answer: Answer<()>) {
        self.order(id, answer, Order::Rotate);
    }

    fn order(&mut self, id: Option<CaptureId>, answer: Answer<()>, order: fn(Done<()>) -> Order) {
        self.forget_ended();
        let found = match (id, &self.running[..]) {
            (None, [only]) => Ok(only),
            (None, all) => Err(CaptureError::Which(all.len())),
            (Some(id), all) => all
                .iter()
                .find(|capture| capture.id == id)
                .ok_or(CaptureError::Unknown(id)),
        };
        match found {
            Err(error) => answer(Err(error)),
            Ok(capture) => {
                if let Err(order) = capture.queue.order(order(answer)) {
                    let (Order::Rotate(answer) | Order::Stop(answer)) = order;
                    answer(Err(CaptureError::Unknown(capture.id)));
                }
            }
        }
    }

    /// The captures, by id.
    pub fn list(&mut self) -> Vec<CaptureInfo> {
        self.forget_ended();
        self.running.iter().map(Capture::info).collect()
    }

    /// Shows a frame to all captures.
    pub fn frame(
        &mut self,
        port: Port<'_>,
        direction: Direction,
        offload: &Offload,
        parts: &[IoSlice<'_>],
    ) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len == 0 || self.running.is_empty() {
            return;
        }
        let mut gathered = [0; HEAD_LEN];
        let head = head(parts, &mut gathered);
        let at = writer::now();
        let mut ended = false;
        for capture in &mut self.running {
            let filter = capture.spec.filter.as_ref();
            if !filter.is_none_or(|filter| filter.matches(head)) {
                continue;
            }
            let incoming = capture.interface(port).map(|interface| Incoming {
                at,
                interface,
                direction,
                offload,
                parts,
                len,
                wanted: wanted(&capture.spec, offload, len),
                packets: packets(&capture.spec, offload, len),
            });
            let added = incoming.and_then(|incoming| capture.queue.add_frame(&incoming));
            ended |= added.is_err();
        }
        if ended {
            self.forget_ended();
        }
    }

    /// Says something about a flow in all captures: it becomes the comment of the
    /// flow's next packet there.
    pub fn note(&mut self, note: &Note) {
        for capture in &self.running {
            capture.queue.add_note(note);
        }
    }

    /// Ends all captures and waits until their files are complete, a moment at
    /// most.
    pub fn finish(&mut self) {
        for capture in &self.running {
            // One that is ending already needs no order.
            let _ = capture.queue.order(Order::Stop(Box::new(|_| {})));
        }
        let deadline = Instant::now() + FINISH_PATIENCE;
        loop {
            self.forget_ended();
            if self.running.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        for capture in self.running.drain(..) {
            let target = &capture.spec.target;
            tracing::warn!("the capture to '{target}' is not complete: it took too long to write");
        }
    }

    fn forget_ended(&mut self) {
        self.running.retain(|capture| !capture.queue.is_closed());
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Capture {
    /// The number of the interface that stands for `port`.
    fn interface(&mut self, port: Port<'_>) -> Result<u32, Closed> {
        if let Some(&interface) = self.interfaces.get(&port.key) {
            return Ok(interface);
        }
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let last = u32::try_from(MAX_INTERFACES - 1).unwrap_or(u32::MAX);
        if next > last {
            return Ok(last);
        }
        let name = if next == last {
            "other ports"
        } else {
            port.name
        };
        self.queue.add_interface(name.to_owned())?;
        self.interfaces.insert(port.key, next);
        Ok(next)
    }

    fn info(&self) -> CaptureInfo {
        let progress = self.queue.progress();
        let state = if self.queue.is_stopping() {
            CaptureState::Ending
        } else if progress.file.is_none() {
            CaptureState::Waiting
        } else {
            CaptureState::Running
        };
        CaptureInfo {
            id: self.id,
            spec: self.spec.clone(),
            state,
            file: progress.file,
            packets: progress.packets,
            bytes: progress.bytes,
            lost: self.queue.lost(),
        }
    }
}

/// The beginning of a frame, in one piece.
fn head<'f>(parts: &'f [IoSlice<'f>], gathered: &'f mut [u8; HEAD_LEN]) -> &'f [u8] {
    match parts {
        [only] => only,
        [first, ..] if first.len() >= HEAD_LEN => first,
        _ => {
            let mut len = 0;
            for part in parts {
                let room = &mut gathered[len..];
                let part = &part[..part.len().min(room.len())];
                room[..part.len()].copy_from_slice(part);
                len += part.len();
            }
            &gathered[..len]
        }
    }
}

/// Bytes of a frame that a capture takes: all of what is still to be cut or summed
/// up, whose sums go over all of it.
fn wanted(spec: &CaptureSpec, offload: &Offload, len: usize) -> usize {
    if spec.segment == Segment::On && writer::is_unfinished(offload) {
        return len;
    }
    usize::try_from(spec.snaplen.get()).unwrap_or(len).min(len)
}

/// Packets of the file that a frame stands for.
fn packets(spec: &CaptureSpec, offload: &Offload, len: usize) -> u64 {
    match (spec.segment, offload.gso) {
        (Segment::On, Some(gso)) if gso.size > 0 => {
            let payload = len.saturating_sub(gso.header_len.into());
            let packets = payload.div_ceil(gso.size.into()).max(1);
            u64::try_from(packets).unwrap_or(1)
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
