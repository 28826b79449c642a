//! One TCP connection of the guest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use lwip_sys as sys;

use super::super::packet::{TcpHeader, tcp_flags};
use super::buffer::{CHUNK, Chunk, Segment};
use super::congestion::Congestion;
use super::loss::Mark;
use super::recovery::Recovery;
use super::{Egress, LAST_MET_WIRE, Stack, isolated};

/// The window of a new connection, in bytes: what a SYN can announce.
pub(crate) const INITIAL_WINDOW: u32 = 65535;

/// How long an answer to our own SYN is waited for before it is repeated, in
/// lwIP's slow timer's ticks of 500 ms (RFC 6298 section 2.1: a second).
pub(super) const SYN_RTO: i16 = 2;

/// Send queue, in pbufs, beyond which nothing is added: each costs about 100
/// bytes, and a host that sends byte by byte must not make many of them.
const MAX_SEND_QUEUE: u16 = 4096;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both directions were closed in order.
    Closed,
    /// The guest sent a reset.
    Reset,
    /// The guest did not answer any more, or we gave it up.
    Aborted,
}

/// Sequence numbers of a connection that entered TIME-WAIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeWait {
    /// Our next sequence number.
    pub(crate) snd_nxt: u32,
    /// The next one expected from the guest.
    pub(crate) rcv_nxt: u32,
}

/// What the guest was sent on a connection, in packets of the wire's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sent {
    /// All.
    pub(crate) packets: u64,
    /// Those that had been sent before.
    pub(crate) again: u64,
}

/// Data received and not yet consumed.
#[derive(Debug, Default)]
pub(crate) struct RxQueue {
    /// In order.
    pub(crate) segments: VecDeque<Segment>,
    /// Bytes in all of them.
    pub(crate) bytes: usize,
}

impl RxQueue {
    /// Drops the first `n` bytes.
    pub(crate) fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(front) = self.segments.front_mut() {
            let len = front.len();
            if n < len {
                front.advance(n);
                return;
            }
            n -= len;
            self.segments.pop_front();
        }
    }
}

/// What callbacks write and the owner reads. Callbacks run only inside calls
/// into lwIP, and no borrow of a cell is held across those.
pub(super) struct Shared {
    pcb: Cell<*mut sys::tcp_pcb>,
    token: u64,
    rx: RefCell<RxQueue>,
    fin: Cell<bool>,
    acked: Cell<usize>,
    ack_due: Cell<bool>,
    established: Cell<bool>,
    end: Cell<Option<End>>,
    time_wait: Cell<Option<TimeWait>>,
    /// The guest's MSS: what super-frames are to be cut to.
    mss: Cell<u16>,
    /// What is known of a link that loses something; `None` while it does not.
    pub(super) recovery: RefCell<Option<Box<Recovery>>>,
    /// The last segment met a wire, which delays, queues or loses.
    pub(super) wire: Cell<bool>,
    /// How much may be in flight on a wire; `None` without one.
    pub(super) congestion: RefCell<Option<Box<Congestion>>>,
    /// What was in flight at the last tick.
    pub(super) mark: Cell<Mark>,
    sent: Cell<Sent>,
    /// The length of the segments that were queued last, in bytes.
    pub(super) queued: Cell<u16>,
    ended: Rc<RefCell<Vec<u64>>>,
}

impl Shared {
    pub(super) fn pcb(&self) -> Option<NonNull<sys::tcp_pcb>> {
        NonNull::new(self.pcb.get())
    }

    pub(super) fn mss(&self) -> u16 {
        self.mss.get()
    }

    /// Counts what has left.
    pub(super) fn count_sent(&self, packets: u32, again: bool) {
        let mut sent = self.sent.get();
        sent.packets += u64::from(packets);
        sent.again += u64::from(packets) * u64::from(again);
        self.sent.set(sent);
    }
}

/// A connection; dropping it resets it unless it has ended.
pub(crate) struct Connection {
    shared: NonNull<Shared>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("token", &self.shared().token)
            .finish_non_exhaustive()
    }
}

static CALLBACKS: sys::tcp_ext_arg_callbacks = sys::tcp_ext_arg_callbacks {
    destroy: Some(on_destroy),
    passive_open: None,
};

impl Connection {
    /// Takes charge of a control block that just answered a SYN, or sent one.
    pub(super) fn adopt(
        pcb: NonNull<sys::tcp_pcb>,
        ext_id: u8,
        token: u64,
        ended: Rc<RefCell<Vec<u64>>>,
    ) -> Self {
        let shared = NonNull::from(Box::leak(Box::new(Shared {
            pcb: Cell::new(pcb.as_ptr()),
            token,
            rx: RefCell::default(),
            fin: Cell::new(false),
            acked: Cell::new(0),
            ack_due: Cell::new(false),
            established: Cell::new(false),
            end: Cell::new(None),
            time_wait: Cell::new(None),
            mss: Cell::new(0),
            recovery: RefCell::new(None),
            // Its SYN or SYN-ACK was the last segment of all.
            wire: Cell::new(LAST_MET_WIRE.load(Ordering::Relaxed)),
            congestion: RefCell::new(None),
            mark: Cell::default(),
            // The SYN or SYN-ACK has left already.
            sent: Cell::new(Sent {
                packets: 1,
                again: 0,
            }),
            queued: Cell::default(),
            ended,
        })));
        // SAFETY: the control block is live; `shared` outlives it, because Drop
        // gets rid of the control block first.
        unsafe {
            let p = &mut *pcb.as_ptr();
            shared.as_ref().mss.set(p.mss);
            p.callback_arg = shared.as_ptr().cast();
            p.recv = Some(on_recv);
            p.sent = Some(on_sent);
            p.errf = Some(on_err);
            p.flags |= sys::TF_NODELAY;
            sys::tcp_ext_arg_set_callbacks(p, ext_id, &raw const CALLBACKS);
            sys::tcp_ext_arg_set(p, ext_id, shared.as_ptr().cast());
            begin_window(p);
        }
        Self { shared }
    }

    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: allocated in `adopt`, freed in `drop`.
        unsafe { self.shared.as_ref() }
    }

    fn pcb(&self) -> Option<&sys::tcp_pcb> {
        // SAFETY: live while the pointer is set; callers hold the reference only
        // between calls into lwIP.
        self.shared().pcb().map(|p| unsafe { &*p.as_ptr() })
    }

    /// True once the handshake is complete.
    pub(crate) fn is_established(&self) -> bool {
        self.shared().established.get()
    }

    /// True for a keepalive probe (RFC 9293 section 3.8.4): one sequence number
    /// behind, and no data that is new.
    pub(crate) fn is_keepalive(&self, header: &TcpHeader) -> bool {
        header.payload <= 1
            && !header.has(tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST)
            && self
                .pcb()
                .is_some_and(|p| header.sequence == p.rcv_nxt.wrapping_sub(1))
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.shared().end.get()
    }

    /// Set when it entered TIME-WAIT.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        self.shared().time_wait.get()
    }

    /// True when the guest has closed its direction; data may still be queued.
    pub(crate) fn guest_closed(&self) -> bool {
        self.shared().fin.get()
    }

    /// Received data.
    pub(crate) fn rx(&self) -> std::cell::RefMut<'_, RxQueue> {
        self.shared().rx.borrow_mut()
    }

    /// Bytes acknowledged since the last call.
    pub(crate) fn take_acked(&self) -> usize {
        self.shared().acked.take()
    }

    /// True when received data has not been acknowledged yet.
    pub(crate) fn ack_due(&self) -> bool {
        self.shared().ack_due.get()
    }

    /// What the guest was sent.
    pub(crate) fn sent(&self) -> Sent {
        self.shared().sent.get()
    }

    /// The guest's maximum segment size, in bytes.
    pub(crate) fn mss(&self) -> u16 {
        self.shared().mss.get()
    }

    /// True when our direction is closed or closing.
    pub(crate) fn is_shut(&self) -> bool {
        self.pcb()
            .is_none_or(|p| !matches!(p.state, sys::SYN_RCVD | sys::ESTABLISHED | sys::CLOSE_WAIT))
    }

    /// Opens the receive window to `limit` bytes less what is queued.
    ///
    /// Returns true when the guest should be told now: the window it knows has
    /// grown by two segments or by half (RFC 9293 section 3.8.6.2.2).
    pub(crate) fn open_window(&self, limit: u32) -> bool {
        let Some(pcb) = self.shared().pcb() else {
            return false;
        };
        // SAFETY: live; no other reference to it exists.
        let p = unsafe { &mut *pcb.as_ptr() };
        let limit = if p.flags & sys::TF_WND_SCALE == 0 {
            limit.min(INITIAL_WINDOW)
        } else {
            limit
        };
        let queued = u32::try_from(self.shared().rx.borrow().bytes).unwrap_or(u32::MAX);
        p.rcv_wnd = p
            .rcv_wnd
            .max(limit.saturating_sub(queued))
            .min(sys::TCP_WND);
        let growth = p
            .rcv_nxt
            .wrapping_add(p.rcv_wnd)
            .wrapping_sub(p.rcv_ann_right_edge);
        let worth = u32::from(self.mss())
            .saturating_mul(2)
            .min(limit / 2)
            .max(1);
        // A growth beyond 2^31 is a negative one: the edge never moves back.
        if growth < worth || growth > i32::MAX as u32 {
            return false;
        }
        p.rcv_ann_wnd = p.rcv_wnd;
        true
    }

    /// Acknowledges what was received, at once, with the window as last opened.
    pub(crate) fn acknowledge<E: Egress>(&self, stack: &mut Stack<E>) {
        self.shared().ack_due.set(false);
        if let Some(pcb) = self.shared().pcb() {
            stack.touch();
            // SAFETY: live; tcp_output frees no connection.
            unsafe {
                (*pcb.as_ptr()).flags |= sys::TF_ACK_NOW;
                sys::tcp_output(pcb.as_ptr());
            }
        }
    }

    /// Bytes that may be written now.
    ///
    /// lwIP never splits a segment once it is queued, so a segment that does
    /// not fit the guest's window would wait for the persist timer, half a
    /// second and more. So nothing is queued that the window has no room for,
    /// and while data is in flight small rooms are left to grow. With nothing
    /// in flight and no room one byte goes in, for lwIP to probe with.
    pub(crate) fn room(&self, limit: usize) -> usize {
        let Some(p) = self.pcb() else { return 0 };
        let closing = p.flags & sys::TF_FIN != 0;
        if p.snd_queuelen >= MAX_SEND_QUEUE || closing || self.waits_for_shorter(p) {
            return 0;
        }
        let queued = p.snd_lbb.wrapping_sub(p.lastack) as usize;
        let window = p.snd_wnd as usize;
        let room = window.saturating_sub(queued).min(p.snd_buf as usize);
        if queued == 0 {
            return room.max(1).min(limit);
        }
        let worth = (p.snd_wnd_max as usize / 4).min(16 * 1024);
        if room < worth || queued >= limit {
            0
        } else {
            room.min(limit - queued)
        }
    }

    /// Queues the bytes of `chunk`, which the caller keeps until they are
    /// acknowledged. Returns false, and queues nothing, when lwIP has no room.
    pub(crate) fn write<E: Egress>(&self, stack: &mut Stack<E>, chunk: &Chunk, len: usize) -> bool {
        let Some(pcb) = self.shared().pcb() else {
            return false;
        };
        let bytes = &chunk.bytes()[..len];
        let Ok(len) = u16::try_from(bytes.len()) else {
            return false;
        };
        stack.touch();
        // SAFETY: live. The bytes stay where they are until acknowledged: the
        // caller's duty, checked by `Outbox` in the join.
        let result = unsafe {
            let size = self.segment_size(&*pcb.as_ptr());
            let usual = std::mem::replace(&mut (*pcb.as_ptr()).mss, size);
            let result = sys::tcp_write(pcb.as_ptr(), bytes.as_ptr().cast(), len, 0);
            (*pcb.as_ptr()).mss = usual;
            result
        };
        result == sys::ERR_OK
    }

    /// Sends what may be sent; an acknowledgement that is due goes with it, but
    /// not on its own.
    pub(crate) fn output<E: Egress>(&self, stack: &mut Stack<E>) {
        let Some(pcb) = self.shared().pcb() else {
            return;
        };
        stack.touch();
        self.push(pcb);
    }

    /// As [`Connection::output`].
    pub(super) fn push(&self, pcb: NonNull<sys::tcp_pcb>) {
        self.with_due_ack(pcb, || {
            // SAFETY: live.
            unsafe { sys::tcp_output(pcb.as_ptr()) };
        });
        self.note_sent(pcb);
    }

    /// Sends FIN after what is queued.
    pub(crate) fn shutdown<E: Egress>(&self, stack: &mut Stack<E>) {
        let Some(pcb) = self.shared().pcb() else {
            return;
        };
        stack.touch();
        self.with_due_ack(pcb, || {
            // SAFETY: live; only the sending side is shut, which frees nothing.
            // When memory is short lwIP notes it and retries in its timer.
            isolated(pcb, || unsafe { sys::tcp_shutdown(pcb.as_ptr(), 0, 1) });
        });
    }

    /// Runs `call`, which may send segments; notes whether the acknowledgement
    /// that is due went with one.
    fn with_due_ack(&self, pcb: NonNull<sys::tcp_pcb>, call: impl FnOnce()) {
        // SAFETY: live, before and after: `call` frees no connection. lwIP
        // clears the flag when it sends a segment.
        unsafe {
            if self.ack_due() {
                (*pcb.as_ptr()).flags |= sys::TF_ACK_DELAY;
            }
            call();
            if (*pcb.as_ptr()).flags & sys::TF_ACK_DELAY == 0 {
                self.shared().ack_due.set(false);
            }
            (*pcb.as_ptr()).flags &= !sys::TF_ACK_DELAY;
        }
    }

    /// Ends the connection without a word to the guest.
    pub(crate) fn abandon(self) {
        let Some(pcb) = self.shared().pcb() else {
            return;
        };
        // SAFETY: live and alone in the list that tcp_abandon removes it from;
        // nothing uses the control block after it.
        unsafe { (*pcb.as_ptr()).errf = None };
        // SAFETY: as above.
        isolated(pcb, || unsafe { sys::tcp_abandon(pcb.as_ptr(), 0) });
    }

    /// Sends a reset and ends the connection.
    fn reset(&self) {
        let Some(pcb) = self.shared().pcb() else {
            return;
        };
        // SAFETY: live and alone in the list that tcp_abort removes it from.
        unsafe { (*pcb.as_ptr()).errf = None };
        // SAFETY: as above; nothing here uses the control block after it.
        isolated(pcb, || unsafe { sys::tcp_abort(pcb.as_ptr()) });
        self.shared().end.set(Some(End::Aborted));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reset();
        // SAFETY: no control block refers to it any more.
        drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
    }
}

/// True when one of lwIP's timers matters to the connection.
pub(super) fn has_timer(p: &sys::tcp_pcb) -> bool {
    let quiet = matches!(
        p.state,
        sys::ESTABLISHED | sys::CLOSE_WAIT | sys::FIN_WAIT_2
    );
    !quiet || !p.unsent.is_null() || !p.unacked.is_null() || !p.ooseq.is_null()
}

/// Our notes on a connection; `None` before [`Connection::adopt`].
///
/// # Safety
/// `pcb` is null or live, and so while the notes are used.
pub(super) unsafe fn shared_of<'a>(pcb: *const sys::tcp_pcb) -> Option<&'a Shared> {
    // SAFETY: see above; callback_arg is null until `adopt`, then our Shared.
    unsafe { pcb.as_ref()?.callback_arg.cast::<Shared>().as_ref() }
}

/// Records the sequence numbers of a connection that lwIP put in TIME-WAIT.
///
/// # Safety
/// `pcb` is live.
pub(super) unsafe fn note_time_wait(pcb: *mut sys::tcp_pcb) {
    // SAFETY: see above.
    unsafe {
        if let Some(shared) = (*pcb).callback_arg.cast::<Shared>().as_ref() {
            let (snd_nxt, rcv_nxt) = ((*pcb).snd_nxt, (*pcb).rcv_nxt);
            shared.time_wait.set(Some(TimeWait { snd_nxt, rcv_nxt }));
            shared.end.set(Some(End::Closed));
        }
    }
}

/// The handshake is complete. `arg` is our Shared; data may follow at once.
pub(super) unsafe extern "C" fn on_accept(
    arg: *mut c_void,
    pcb: *mut sys::tcp_pcb,
    err: sys::err_t,
) -> sys::err_t {
    if err != sys::ERR_OK || pcb.is_null() {
        return sys::ERR_OK; // lwIP is out of memory and tells us so; nothing to do
    }
    // SAFETY: `adopt` set the argument before any segment could complete the handshake.
    unsafe {
        let (Some(shared), Some(p)) = (arg.cast::<Shared>().as_ref(), pcb.as_mut()) else {
            return sys::ERR_ABRT;
        };
        establish(shared, p);
    }
    sys::ERR_OK
}

/// The guest has answered our SYN.
pub(super) unsafe extern "C" fn on_connected(
    arg: *mut c_void,
    pcb: *mut sys::tcp_pcb,
    _err: sys::err_t,
) -> sys::err_t {
    // SAFETY: `adopt` set the argument before any answer could come in.
    unsafe {
        let (Some(shared), Some(p)) = (arg.cast::<Shared>().as_ref(), pcb.as_mut()) else {
            return sys::ERR_ABRT;
        };
        shared.mss.set(p.mss);
        begin_window(p);
        establish(shared, p);
    }
    sys::ERR_OK
}

/// lwIP opens the full window when it sees the window scale option; the SYN or
/// SYN-ACK said what fits 16 bits. Grow from there instead.
fn begin_window(p: &mut sys::tcp_pcb) {
    p.rcv_wnd = INITIAL_WINDOW;
    p.rcv_ann_wnd = INITIAL_WINDOW;
    p.rcv_ann_right_edge = p.rcv_nxt.wrapping_add(INITIAL_WINDOW);
}

/// Notes that the handshake is complete.
fn establish(shared: &Shared, p: &mut sys::tcp_pcb) {
    shared.established.set(true);
    // Segments are cut by the guest's kernel; lwIP makes them as large as one
    // packet can be.
    #[expect(clippy::cast_possible_truncation, reason = "CHUNK is below 65536")]
    let chunk = CHUNK as u16;
    p.mss = chunk;
}

/// Data, or FIN when `p` is null.
unsafe extern "C" fn on_recv(
    arg: *mut c_void,
    pcb: *mut sys::tcp_pcb,
    p: *mut sys::pbuf,
    _err: sys::err_t,
) -> sys::err_t {
    // SAFETY: the argument is our Shared; the chain is ours from here on.
    unsafe {
        let shared = &*arg.cast::<Shared>();
        if p.is_null() {
            shared.fin.set(true);
            if (*pcb).state == sys::CLOSE_WAIT {
                // May wait for the host's own end, and go with our FIN.
                (*pcb).flags &= !(sys::TF_ACK_DELAY | sys::TF_ACK_NOW);
                shared.ack_due.set(true);
            } else {
                // The connection is over, or about to be: now or never.
                (*pcb).flags |= sys::TF_ACK_NOW;
                shared.ack_due.set(false);
            }
            return sys::ERR_OK;
        }
        let segment = Segment::from_raw(p);
        let mut rx = shared.rx.borrow_mut();
        rx.bytes += segment.len();
        rx.segments.push_back(segment);
        // One acknowledgement per round, sent by us when the host has the data.
        (*pcb).flags &= !(sys::TF_ACK_DELAY | sys::TF_ACK_NOW);
        shared.ack_due.set(true);
    }
    sys::ERR_OK
}

/// The guest acknowledged `len` bytes.
unsafe extern "C" fn on_sent(arg: *mut c_void, _pcb: *mut sys::tcp_pcb, len: u16) -> sys::err_t {
    // SAFETY: the argument is our Shared.
    let shared = unsafe { &*arg.cast::<Shared>() };
    shared.acked.set(shared.acked.get() + usize::from(len));
    sys::ERR_OK
}

/// The connection is gone.
unsafe extern "C" fn on_err(arg: *mut c_void, err: sys::err_t) {
    // SAFETY: the argument is our Shared.
    let shared = unsafe { &*arg.cast::<Shared>() };
    shared.end.set(Some(match err {
        sys::ERR_CLSD => End::Closed,
        sys::ERR_RST => End::Reset,
        _ => End::Aborted,
    }));
    shared.ended.borrow_mut().push(shared.token);
}

/// The control block is being freed, for whatever reason.
unsafe extern "C" fn on_destroy(_id: u8, data: *mut c_void) {
    // SAFETY: the data is our Shared, which outlives the control block.
    unsafe { (*data.cast::<Shared>()).pcb.set(ptr::null_mut()) };
}
