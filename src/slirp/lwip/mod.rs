//! lwIP behind a safe face. The only room of the translation core with `unsafe`.
//!
//! # Theory of operation
//!
//! **One owner.** lwIP keeps its state in globals, so a process has one
//! [`Stack`] and it never leaves its thread. Every call into lwIP goes through
//! `&mut Stack`.
//!
//! **Constant-time demultiplexing.** lwIP looks connections up in a list. Here
//! that list is empty between calls; the caller finds the [`Connection`] by its
//! own means, and around each call the list consists of that one connection.
//! Only [`Stack::tick`] strings all of them together, for the timers.
//!
//! **Callbacks only take notes.** A callback records what happened in the
//! connection's [`connection::Shared`] state: data is queued, acknowledged bytes
//! are counted, an end is noted. The caller reads the notes when lwIP has
//! returned. The one exception is output: a segment is lent to us only during
//! the call, so it goes straight to [`Egress`], which must not call back here.
//!
//! **Lifetimes.** lwIP frees a connection at its own discretion. The destroy
//! callback of an extension slot fires on every such path and clears our
//! pointer, so a [`Connection`] never dangles.
//!
//! **TIME-WAIT** is not lwIP's: it would keep a full control block for two
//! minutes per connection and refuse to let the guest reuse the port. Instead
//! the connection is dismissed and its sequence numbers are handed out as
//! [`TimeWait`].

mod addr;
mod buffer;
mod congestion;
mod connection;
mod loss;
mod recovery;
mod resend;
mod sack;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use lwip_sys as sys;

pub(crate) use buffer::{Budget, CHUNK, Chunk, FrameBuf, Pool};
pub(crate) use connection::{Connection, End, INITIAL_WINDOW, RxQueue, TimeWait};

use super::packet::tcp_flags;

/// Where lwIP's segments go.
pub(crate) trait Egress {
    /// Sends one IP packet with a TCP segment. `headers` is the IP and TCP
    /// header with an empty TCP checksum; `payload` may exceed one frame by far,
    /// then `mss` is the size to cut it to (0: not known). Returns in how many
    /// packets of the wire's size it left.
    fn segment(&mut self, headers: &[u8], payload: &[IoSlice<'_>], mss: u16) -> u32;

    /// Whether the last segment met a wire, on which congestion is to be avoided.
    fn is_wire(&self) -> bool;
}

/// A segment from the guest: `len` bytes from `start` (the TCP header) of `frame`.
#[derive(Debug)]
pub(crate) struct Ingress {
    pub(crate) frame: FrameBuf,
    pub(crate) start: usize,
    pub(crate) len: u16,
    /// Source of the packet.
    pub(crate) guest: IpAddr,
    /// Its destination.
    pub(crate) remote: IpAddr,
}

/// The process already has a stack.
#[derive(Debug, thiserror::Error)]
#[error("this process already runs a gateway; lwIP allows one per process")]
pub(crate) struct StackInUse;

static IN_USE: AtomicBool = AtomicBool::new(false);

/// The owner of lwIP.
pub(crate) struct Stack<E: Egress> {
    egress: NonNull<E>,
    listener: NonNull<sys::tcp_pcb_listen>,
    /// Connections that ended in a callback, by the token they were opened with.
    ended: Rc<RefCell<Vec<u64>>>,
    ext_id: u8,
    /// True while some connection may have a timer running.
    ticking: Cell<bool>,
    /// Not Send, not Sync.
    _one_thread: PhantomData<*mut ()>,
}

impl<E: Egress> fmt::Debug for Stack<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

/// Interval of [`Stack::tick`], in milliseconds (lwIP's `TCP_TMR_INTERVAL`).
pub(crate) const TICK_MS: u64 = 250;

/// lwIP's callbacks find the egress here. Written by the one stack only, read
/// during calls into lwIP on the same thread.
static mut EGRESS: Option<(*mut (), EgressFn)> = None;
type EgressFn = unsafe fn(*mut (), &[u8], &[IoSlice<'_>], u16) -> Departure;

/// How a segment left.
#[derive(Debug, Clone, Copy, Default)]
struct Departure {
    /// In so many packets of the wire's size.
    packets: u32,
    /// It met a wire.
    met_wire: bool,
}

/// Whether the last segment of any connection met a wire: a connection's first is
/// sent before it has a place of its own to note it.
static LAST_MET_WIRE: AtomicBool = AtomicBool::new(false);

/// Longest payload chain sent as it is; longer ones are copied together.
const MAX_SLICES: usize = 256;

impl<E: Egress> Stack<E> {
    /// Starts lwIP on a network with the given MTU, in bytes.
    pub(crate) fn new(mtu: u16, egress: E) -> Result<Self, StackInUse> {
        if IN_USE.swap(true, Ordering::AcqRel) {
            return Err(StackInUse);
        }
        let egress = NonNull::from(Box::leak(Box::new(egress)));
        // SAFETY: first and only initialisation in this process; the thread that
        // calls this is the one that all later calls come from (Self is !Send).
        let (listener, ext_id) = unsafe {
            EGRESS = Some((egress.as_ptr().cast(), forward::<E>));
            sys::gw_lwip_isn_hook = Some(initial_sequence_number);
            sys::gw_lwip_start(mtu, on_output, on_output);
            let listener = sys::gw_lwip_new_listener(Some(connection::on_accept));
            sys::gw_lwip_set_listeners(ptr::null_mut());
            (listener, sys::tcp_ext_arg_alloc_id())
        };
        let listener = NonNull::new(listener).expect("memory for one control block");
        Ok(Self {
            egress,
            listener,
            ended: Rc::default(),
            ext_id,
            ticking: Cell::new(false),
            _one_thread: PhantomData,
        })
    }

    /// What the segments go to.
    pub(crate) fn egress(&mut self) -> &mut E {
        // SAFETY: lwIP reaches it only during calls that borrow self mutably.
        unsafe { self.egress.as_mut() }
    }

    /// Sets the clock that lwIP sees, in milliseconds; wraps as lwIP expects.
    pub(crate) fn set_now(&mut self, ms: u64) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "lwIP's clock wraps at 32 bits"
        )]
        // SAFETY: a plain store on the owning thread.
        unsafe {
            sys::gw_lwip_now_ms = ms as u32;
        }
    }

    /// Feeds the SYN of a new connection to lwIP, which answers it.
    ///
    /// `token` comes back from [`Stack::take_ended`]. `None` when the segment is
    /// not a SYN that lwIP accepts, or memory is short.
    pub(crate) fn open(
        &mut self,
        syn: Ingress,
        guest_to: SocketAddr,
        token: u64,
    ) -> Option<Connection> {
        // SAFETY: the lists are empty between calls; the listener lives as long
        // as self. The new control block, if any, is the only list element.
        let pcb = unsafe {
            self.listener.as_mut().local_port = guest_to.port();
            sys::gw_lwip_set_listeners(self.listener.as_ptr());
            segment_input(syn);
            sys::gw_lwip_set_listeners(ptr::null_mut());
            let pcb = sys::tcp_active_pcbs;
            sys::tcp_active_pcbs = ptr::null_mut();
            NonNull::new(pcb)?
        };
        self.ticking.set(true);
        Some(Connection::adopt(
            pcb,
            self.ext_id,
            token,
            Rc::clone(&self.ended),
        ))
    }

    /// Asks the guest at `guest` for a connection from `remote`: sends the SYN.
    ///
    /// `token` is as in [`Stack::open`]. The answer shows in
    /// [`Connection::is_established`] or [`Connection::end`]. `None` when memory
    /// is short, or the addresses are of two families.
    pub(crate) fn connect(
        &mut self,
        guest: SocketAddr,
        remote: SocketAddr,
        token: u64,
    ) -> Option<Connection> {
        if guest.is_ipv4() != remote.is_ipv4() {
            return None;
        }
        let (local, peer) = (addr::to_lwip(remote.ip()), addr::to_lwip(guest.ip()));
        // SAFETY: all lists are empty, so that the port is free and the new
        // control block is the only list element. It is in the list of bound
        // ones until it connects, and leaves that list with its abort too.
        let pcb = unsafe {
            let pcb = NonNull::new(sys::tcp_new_ip_type(local.type_))?;
            let bound = sys::tcp_bind(pcb.as_ptr(), &raw const local, remote.port());
            let connected = Some(connection::on_connected as _);
            let begun = match bound {
                sys::ERR_OK => {
                    let port = guest.port();
                    sys::tcp_connect(pcb.as_ptr(), &raw const peer, port, connected)
                }
                error => error,
            };
            if begun != sys::ERR_OK {
                sys::tcp_abort(pcb.as_ptr());
                return None;
            }
            (*pcb.as_ptr()).rto = connection::SYN_RTO;
            sys::tcp_active_pcbs = ptr::null_mut();
            pcb
        };
        self.ticking.set(true);
        Some(Connection::adopt(
            pcb,
            self.ext_id,
            token,
            Rc::clone(&self.ended),
        ))
    }

    /// Feeds a segment that belongs to no connection: lwIP answers with a reset
    /// whose numbers the guest accepts (RFC 9293 section 3.10.7.1).
    pub(crate) fn refuse(&mut self, segment: Ingress) {
        // SAFETY: all lists are empty.
        unsafe { segment_input(segment) };
    }

    /// Feeds a segment to its connection.
    pub(crate) fn input(&mut self, connection: &Connection, segment: Ingress) {
        self.ticking.set(true);
        let shared = connection.shared();
        let Some(pcb) = shared.pcb() else {
            return self.refuse(segment);
        };
        let header = segment.frame.bytes().get(segment.start..);
        let blocks = sack::blocks(header.unwrap_or_default());
        connection.before_input(pcb);
        isolated(pcb, || {
            // SAFETY: `pcb` is live and alone in the list.
            unsafe { segment_input(segment) };
        });
        connection.after_input(&blocks);
    }

    /// Runs lwIP's timers; to be called every [`TICK_MS`] while
    /// [`Stack::wants_tick`]. Ends are reported by [`Stack::take_ended`].
    pub(crate) fn tick<'a>(&mut self, connections: impl Iterator<Item = &'a Connection>) {
        let mut wanted = false;
        let mut head = ptr::null_mut();
        for connection in connections {
            if let Some(pcb) = connection.shared().pcb() {
                connection.probe(pcb);
                // SAFETY: live, and in no list.
                unsafe {
                    wanted |= connection::has_timer(&*pcb.as_ptr());
                    (*pcb.as_ptr()).next = head;
                }
                head = pcb.as_ptr();
            }
        }
        // SAFETY: a well-formed list of live connections; what lwIP frees it
        // also unlinks. No connection enters TIME-WAIT by a timer.
        unsafe {
            sys::tcp_active_pcbs = head;
            sys::tcp_tmr();
            sys::tcp_active_pcbs = ptr::null_mut();
        }
        self.ticking.set(wanted);
    }

    /// True while a connection may need [`Stack::tick`].
    pub(crate) fn wants_tick(&self) -> bool {
        self.ticking.get()
    }

    /// Moves the tokens of connections that ended since the last call to `into`.
    pub(crate) fn take_ended(&mut self, into: &mut Vec<u64>) {
        into.append(&mut self.ended.borrow_mut());
    }

    /// A connection was written to or closed: its timers may run.
    fn touch(&mut self) {
        self.ticking.set(true);
    }
}

/// Hands one segment to lwIP.
///
/// # Safety
/// The lists hold what the segment may belong to, and nothing dangling.
unsafe fn segment_input(segment: Ingress) {
    let (src, dst) = (addr::to_lwip(segment.guest), addr::to_lwip(segment.remote));
    let p = segment.frame.into_pbuf(segment.start, segment.len);
    // SAFETY: lwIP consumes `p`; the addresses are copied.
    unsafe { sys::gw_lwip_tcp_input(p, &src, &dst) };
}

/// Runs `call` with `pcb` as the only connection that lwIP knows.
fn isolated<R>(pcb: NonNull<sys::tcp_pcb>, call: impl FnOnce() -> R) -> R {
    // SAFETY: live and in no list. Afterwards lwIP either freed it or left it
    // as the head of a list of one, whichever list that is.
    unsafe {
        (*pcb.as_ptr()).next = ptr::null_mut();
        sys::tcp_active_pcbs = pcb.as_ptr();
        let result = call();
        if !sys::tcp_tw_pcbs.is_null() {
            // RFC 9293's TIME-WAIT, which we keep ourselves. No reset is sent.
            connection::note_time_wait(sys::tcp_tw_pcbs);
            sys::tcp_abandon(sys::tcp_tw_pcbs, 0);
        }
        sys::tcp_active_pcbs = ptr::null_mut();
        sys::tcp_tw_pcbs = ptr::null_mut();
        result
    }
}

/// RFC 6528: hash of the addresses under a secret key, plus a 4 microsecond clock.
unsafe extern "C" fn initial_sequence_number(
    local: *const sys::ip_addr_t,
    local_port: u16,
    remote: *const sys::ip_addr_t,
    remote_port: u16,
) -> u32 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;
    use std::time::Instant;
    static KEY: OnceLock<(RandomState, Instant)> = OnceLock::new();

    let (key, start) = KEY.get_or_init(|| (RandomState::new(), Instant::now()));
    // SAFETY: lwIP passes the addresses of a live connection.
    let (local, remote) = unsafe { (addr::from_lwip(&*local), addr::from_lwip(&*remote)) };
    let hash = key.hash_one((local, local_port, remote, remote_port));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sequence numbers wrap at 32 bits"
    )]
    let (hash, clock) = (hash as u32, (start.elapsed().as_micros() / 4) as u32);
    hash.wrapping_add(clock)
}

/// lwIP's netif output: one IP packet, lent for the duration of the call.
unsafe extern "C" fn on_output(
    _netif: *mut sys::netif,
    p: *mut sys::pbuf,
    _to: *const std::ffi::c_void,
) -> sys::err_t {
    // SAFETY: `p` is a live chain for the duration of the call, not written to
    // meanwhile; EGRESS was set before lwIP started; the connection noted last
    // is the one whose data segment this is, or null.
    unsafe {
        let first = std::slice::from_raw_parts((*p).payload.cast::<u8>(), (*p).len.into());
        let header_len = header_len(first);
        let (headers, rest) = first.split_at(header_len);
        let mut slices = arrayvec::ArrayVec::<IoSlice<'_>, MAX_SLICES>::new();
        let mut copied = Vec::new();
        if !rest.is_empty() {
            slices.push(IoSlice::new(rest));
        }
        let mut next = (*p).next;
        while let Some(q) = next.as_ref() {
            let bytes = std::slice::from_raw_parts(q.payload.cast::<u8>(), q.len.into());
            if copied.is_empty() && slices.try_push(IoSlice::new(bytes)).is_err() {
                copied = slices.iter().flat_map(|s| s.iter().copied()).collect();
            }
            if !copied.is_empty() {
                copied.extend_from_slice(bytes);
            }
            next = q.next;
        }
        let one = [IoSlice::new(&copied)];
        let payload: &[IoSlice<'_>] = if copied.is_empty() { &slices } else { &one };
        let pcb = sys::gw_lwip_output_pcb;
        sys::gw_lwip_output_pcb = ptr::null();
        let shared = connection::shared_of(pcb);
        let again = shared.is_some() && is_again(&*pcb, headers, payload);
        let left = emit(headers, payload, shared.map_or(0, |shared| shared.mss()));
        if let Some(shared) = shared {
            shared.count_sent(left.packets, again);
            shared.wire.set(left.met_wire);
        }
    }
    sys::ERR_OK
}

/// True for a segment that takes sequence numbers which were sent before.
fn is_again(pcb: &sys::tcp_pcb, headers: &[u8], payload: &[IoSlice<'_>]) -> bool {
    let tcp = &headers[ip_header_len(headers)..];
    let takes = !payload.is_empty() || tcp[13] & (tcp_flags::SYN | tcp_flags::FIN) != 0;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    // lwIP counts on only when the segment has left.
    takes && sack::before(sequence, pcb.snd_nxt)
}

/// Sends one IP packet of a connection; see [`Egress::segment`].
///
/// # Safety
/// The stack exists, and its egress is not borrowed.
unsafe fn emit(headers: &[u8], payload: &[IoSlice<'_>], mss: u16) -> Departure {
    // SAFETY: EGRESS was set before lwIP started, on this thread.
    let left = unsafe { EGRESS.map(|(egress, send)| send(egress, headers, payload, mss)) };
    let left = left.unwrap_or_default();
    LAST_MET_WIRE.store(left.met_wire, Ordering::Relaxed);
    left
}

/// Bytes of IP and TCP header in a packet that lwIP built.
fn header_len(packet: &[u8]) -> usize {
    let ip = ip_header_len(packet);
    ip + usize::from(packet[ip + 12] >> 4) * 4
}

fn ip_header_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 6 {
        40
    } else {
        usize::from(packet[0] & 0x0f) * 4
    }
}

/// Calls the egress behind an untyped pointer.
///
/// # Safety
/// `egress` points to a live `E` that nothing else borrows.
unsafe fn forward<E: Egress>(
    egress: *mut (),
    headers: &[u8],
    payload: &[IoSlice<'_>],
    mss: u16,
) -> Departure {
    // SAFETY: see above; `Stack::egress` cannot be borrowed during a call into
    // lwIP, because that borrows the stack.
    let egress = unsafe { &mut *egress.cast::<E>() };
    Departure {
        packets: egress.segment(headers, payload, mss),
        met_wire: egress.is_wire(),
    }
}
