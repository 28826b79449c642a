//! Raw bindings to the parts of lwIP that `gw` uses: its TCP and packet buffers.
//!
//! The C side is upstream lwIP, unmodified, compiled with `port/lwipopts.h`;
//! see `build.rs` for where it comes from. Structures are declared by hand so
//! that no binding generator is needed to build; `tests/layout.rs` compares
//! every declaration with what the C compiler made of it.
//!
//! lwIP keeps its state in globals and belongs to one thread. Nothing here
//! enforces that: the safe wrapper does.

#![allow(non_camel_case_types, reason = "the names are lwIP's own")]

use core::ffi::{c_char, c_int, c_void};

/// Result code: 0 or a negative `ERR_*`.
pub type err_t = i8;
/// No error.
pub const ERR_OK: err_t = 0;
/// Out of memory or over a queue's limit.
pub const ERR_MEM: err_t = -1;
/// The connection was aborted by us.
pub const ERR_ABRT: err_t = -13;
/// The connection was reset by the peer.
pub const ERR_RST: err_t = -14;
/// The connection was closed.
pub const ERR_CLSD: err_t = -15;

/// Largest receive window and its scale, send buffer and segment, in bytes.
pub const TCP_WND: u32 = 4 * 1024 * 1024;
/// See [`TCP_WND`].
pub const TCP_SND_BUF: u32 = 4 * 1024 * 1024;
/// See [`TCP_WND`].
pub const TCP_MSS: u16 = 65495;
/// See [`TCP_WND`].
pub const TCP_RCV_SCALE: u8 = 8;
/// `tcp_write`: more data follows, do not set PSH.
pub const TCP_WRITE_FLAG_MORE: u8 = 0x02;

/// An acknowledgement may wait.
pub const TF_ACK_DELAY: u16 = 0x01;
/// An acknowledgement is due with the next `tcp_output`.
pub const TF_ACK_NOW: u16 = 0x02;
/// Our side does not take data any more.
pub const TF_RXCLOSED: u16 = 0x10;
/// Our FIN is queued or sent.
pub const TF_FIN: u16 = 0x20;
/// Nagle's algorithm is off.
pub const TF_NODELAY: u16 = 0x40;
/// The retransmission timer has fired; what was in flight is sent again.
pub const TF_RTO: u16 = 0x0800;
/// The peer offered window scaling.
pub const TF_WND_SCALE: u16 = 0x0100;
/// The peer offered selective acknowledgements.
pub const TF_SACK: u16 = 0x1000;

/// `enum tcp_state`.
pub type tcp_state = u32;
/// States of RFC 9293 section 3.3.2, in lwIP's order.
pub const CLOSED: tcp_state = 0;
/// See [`CLOSED`].
pub const LISTEN: tcp_state = 1;
/// See [`CLOSED`].
pub const SYN_SENT: tcp_state = 2;
/// See [`CLOSED`].
pub const SYN_RCVD: tcp_state = 3;
/// See [`CLOSED`].
pub const ESTABLISHED: tcp_state = 4;
/// See [`CLOSED`].
pub const FIN_WAIT_1: tcp_state = 5;
/// See [`CLOSED`].
pub const FIN_WAIT_2: tcp_state = 6;
/// See [`CLOSED`].
pub const CLOSE_WAIT: tcp_state = 7;
/// See [`CLOSED`].
pub const CLOSING: tcp_state = 8;
/// See [`CLOSED`].
pub const LAST_ACK: tcp_state = 9;
/// See [`CLOSED`].
pub const TIME_WAIT: tcp_state = 10;

/// A buffer whose bytes are elsewhere and may change (received data).
pub const PBUF_REF: c_int = 0x41;
/// The buffer is freed through its own function.
pub const PBUF_FLAG_IS_CUSTOM: u8 = 0x02;
/// Keepalive probes are sent.
pub const SOF_KEEPALIVE: u8 = 0x08;
/// `ip_addr_t` holds an IPv4 address.
pub const IPADDR_TYPE_V4: u8 = 0;
/// `ip_addr_t` holds an IPv6 address.
pub const IPADDR_TYPE_V6: u8 = 6;

/// An IPv4 or IPv6 address in network byte order; IPv4 is in `addr[0]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ip_addr_t {
    /// The address.
    pub addr: [u32; 4],
    /// `IPADDR_TYPE_*`.
    pub type_: u8,
}

/// `struct netif`, used by pointer only.
#[repr(C)]
#[derive(Debug)]
pub struct netif {
    _opaque: [u8; 0],
}

/// A segment in one of a connection's queues.
#[repr(C)]
#[derive(Debug)]
pub struct tcp_seg {
    /// The next one of the queue, which is in order.
    pub next: *mut Self,
    /// Headers, then the data in a chain.
    pub p: *mut pbuf,
    /// Bytes of data.
    pub len: u16,
    /// Which options it carries.
    pub flags: u8,
    /// Its TCP header, within the first buffer of `p`.
    pub tcphdr: *mut u8,
}

/// A packet buffer, first of a chain.
#[repr(C)]
#[derive(Debug)]
pub struct pbuf {
    /// The next buffer of the chain.
    pub next: *mut Self,
    /// The bytes.
    pub payload: *mut c_void,
    /// Bytes in this buffer and those after it; wraps for chains over 64 KiB.
    pub tot_len: u16,
    /// Bytes in this buffer.
    pub len: u16,
    /// Kind and allocator.
    pub type_internal: u8,
    /// `PBUF_FLAG_*`.
    pub flags: u8,
    /// References.
    pub ref_: u8,
    /// Index of the netif it came in on.
    pub if_idx: u8,
}

/// A packet buffer with its own free function.
#[repr(C)]
#[derive(Debug)]
pub struct pbuf_custom {
    /// The buffer.
    pub pbuf: pbuf,
    /// Called with the last reference gone.
    pub custom_free_function: Option<unsafe extern "C" fn(*mut pbuf)>,
}

/// One extension slot of a pcb.
#[repr(C)]
#[derive(Debug)]
pub struct tcp_pcb_ext_args {
    /// What to call.
    pub callbacks: *const tcp_ext_arg_callbacks,
    /// With what.
    pub data: *mut c_void,
}

/// Callbacks of an extension slot.
#[repr(C)]
#[derive(Debug)]
pub struct tcp_ext_arg_callbacks {
    /// The pcb is about to be freed.
    pub destroy: Option<unsafe extern "C" fn(id: u8, data: *mut c_void)>,
    /// A listener made a pcb.
    pub passive_open: Option<
        unsafe extern "C" fn(id: u8, lpcb: *mut tcp_pcb_listen, cpcb: *mut tcp_pcb) -> err_t,
    >,
}

/// A listening protocol control block.
#[repr(C)]
#[derive(Debug)]
pub struct tcp_pcb_listen {
    /// Bound address.
    pub local_ip: ip_addr_t,
    /// Unused.
    pub remote_ip: ip_addr_t,
    /// Bound netif, 0 for any.
    pub netif_idx: u8,
    /// `SOF_*`.
    pub so_options: u8,
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Next listener.
    pub next: *mut Self,
    /// Passed to callbacks.
    pub callback_arg: *mut c_void,
    /// Extension slots.
    pub ext_args: [tcp_pcb_ext_args; 1],
    /// [`LISTEN`].
    pub state: tcp_state,
    /// Priority.
    pub prio: u8,
    /// Port, host byte order.
    pub local_port: u16,
    /// Called when a handshake completes.
    pub accept: tcp_accept_fn,
}

/// An acknowledged range above the cumulative one.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct tcp_sack_range {
    /// First sequence number.
    pub left: u32,
    /// One past the last.
    pub right: u32,
}

/// A protocol control block. Sequence numbers and windows in bytes, timers in
/// ticks of 500 ms unless said otherwise.
#[repr(C)]
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are lwIP's, described in its tcp.h")]
pub struct tcp_pcb {
    pub local_ip: ip_addr_t,
    pub remote_ip: ip_addr_t,
    pub netif_idx: u8,
    pub so_options: u8,
    pub tos: u8,
    pub ttl: u8,
    pub next: *mut Self,
    pub callback_arg: *mut c_void,
    pub ext_args: [tcp_pcb_ext_args; 1],
    pub state: tcp_state,
    pub prio: u8,
    pub local_port: u16,
    pub remote_port: u16,
    pub flags: u16,
    pub polltmr: u8,
    pub pollinterval: u8,
    pub last_timer: u8,
    pub tmr: u32,
    pub rcv_nxt: u32,
    pub rcv_wnd: u32,
    pub rcv_ann_wnd: u32,
    pub rcv_ann_right_edge: u32,
    pub rcv_sacks: [tcp_sack_range; 4],
    pub rtime: i16,
    pub mss: u16,
    pub rttest: u32,
    pub rtseq: u32,
    pub sa: i16,
    pub sv: i16,
    pub rto: i16,
    pub nrtx: u8,
    pub dupacks: u8,
    pub lastack: u32,
    pub cwnd: u32,
    pub ssthresh: u32,
    pub rto_end: u32,
    pub snd_nxt: u32,
    pub snd_wl1: u32,
    pub snd_wl2: u32,
    pub snd_lbb: u32,
    pub snd_wnd: u32,
    pub snd_wnd_max: u32,
    pub snd_buf: u32,
    pub snd_queuelen: u16,
    pub bytes_acked: u32,
    pub unsent: *mut tcp_seg,
    pub unacked: *mut tcp_seg,
    pub ooseq: *mut tcp_seg,
    pub refused_data: *mut pbuf,
    pub listener: *mut tcp_pcb_listen,
    pub sent: tcp_sent_fn,
    pub recv: tcp_recv_fn,
    pub connected: *mut c_void,
    pub poll: *mut c_void,
    pub errf: tcp_err_fn,
    /// Milliseconds.
    pub keep_idle: u32,
    /// Milliseconds.
    pub keep_intvl: u32,
    pub keep_cnt: u32,
    pub persist_cnt: u8,
    pub persist_backoff: u8,
    pub persist_probe: u8,
    pub keep_cnt_sent: u8,
    pub snd_scale: u8,
    pub rcv_scale: u8,
}

/// A handshake completed.
pub type tcp_accept_fn =
    Option<unsafe extern "C" fn(arg: *mut c_void, pcb: *mut tcp_pcb, err: err_t) -> err_t>;
/// Data, or null for FIN, arrived.
pub type tcp_recv_fn = Option<
    unsafe extern "C" fn(arg: *mut c_void, pcb: *mut tcp_pcb, p: *mut pbuf, err: err_t) -> err_t,
>;
/// Bytes were acknowledged.
pub type tcp_sent_fn =
    Option<unsafe extern "C" fn(arg: *mut c_void, pcb: *mut tcp_pcb, len: u16) -> err_t>;
/// Our own SYN was answered; the error is always `ERR_OK`.
pub type tcp_connected_fn =
    Option<unsafe extern "C" fn(arg: *mut c_void, pcb: *mut tcp_pcb, err: err_t) -> err_t>;
/// The connection is gone; its pcb is already freed or about to be.
pub type tcp_err_fn = Option<unsafe extern "C" fn(arg: *mut c_void, err: err_t)>;
/// An IP packet leaves; it is only borrowed.
pub type netif_output_fn =
    unsafe extern "C" fn(netif: *mut netif, p: *mut pbuf, to: *const c_void) -> err_t;
/// Initial sequence number for a connection.
pub type isn_hook_fn = Option<
    unsafe extern "C" fn(
        local: *const ip_addr_t,
        local_port: u16,
        remote: *const ip_addr_t,
        remote_port: u16,
    ) -> u32,
>;

/// One row of the layout table.
#[repr(C)]
#[derive(Debug)]
pub struct gw_layout {
    /// `struct` or `struct.field`, NUL-terminated.
    pub name: *const c_char,
    /// Offset of the field, in bytes.
    pub offset: usize,
    /// Size, in bytes.
    pub size: usize,
}

unsafe extern "C" {
    /// Connections that are neither listening nor in TIME-WAIT.
    pub static mut tcp_active_pcbs: *mut tcp_pcb;
    /// Connections in TIME-WAIT.
    pub static mut tcp_tw_pcbs: *mut tcp_pcb;

    pub fn tcp_new_ip_type(type_: u8) -> *mut tcp_pcb;
    pub fn tcp_bind(pcb: *mut tcp_pcb, addr: *const ip_addr_t, port: u16) -> err_t;
    pub fn tcp_connect(
        pcb: *mut tcp_pcb,
        addr: *const ip_addr_t,
        port: u16,
        connected: tcp_connected_fn,
    ) -> err_t;
    pub fn tcp_abort(pcb: *mut tcp_pcb);
    pub fn tcp_abandon(pcb: *mut tcp_pcb, reset: c_int);
    pub fn tcp_shutdown(pcb: *mut tcp_pcb, shut_rx: c_int, shut_tx: c_int) -> err_t;
    pub fn tcp_write(pcb: *mut tcp_pcb, data: *const c_void, len: u16, flags: u8) -> err_t;
    pub fn tcp_output(pcb: *mut tcp_pcb) -> err_t;
    pub fn tcp_tmr();
    pub fn tcp_ext_arg_alloc_id() -> u8;
    pub fn tcp_ext_arg_set_callbacks(
        pcb: *mut tcp_pcb,
        id: u8,
        callbacks: *const tcp_ext_arg_callbacks,
    );
    pub fn tcp_ext_arg_set(pcb: *mut tcp_pcb, id: u8, arg: *mut c_void);

    pub fn pbuf_alloced_custom(
        layer: c_int,
        length: u16,
        type_: c_int,
        p: *mut pbuf_custom,
        payload: *mut c_void,
        payload_len: u16,
    ) -> *mut pbuf;
    pub fn pbuf_free(p: *mut pbuf) -> u8;

    // From port/shim.c.

    /// The clock that lwIP sees, in milliseconds.
    pub static mut gw_lwip_now_ms: u32;
    /// Where initial sequence numbers come from.
    pub static mut gw_lwip_isn_hook: isn_hook_fn;
    /// The connection that the segment now in the output function is of; written
    /// for every segment of a connection, to be cleared when it has been read.
    pub static mut gw_lwip_output_pcb: *const tcp_pcb;
    /// Initialises lwIP and its one netif. Call once in a process.
    pub fn gw_lwip_start(mtu: u16, output: netif_output_fn, output6: netif_output_fn);
    /// Hands a segment to TCP; `p` starts at the TCP header and is consumed.
    pub fn gw_lwip_tcp_input(p: *mut pbuf, src: *const ip_addr_t, dst: *const ip_addr_t);
    /// A listener for any address, or null when out of memory.
    pub fn gw_lwip_new_listener(accept: tcp_accept_fn) -> *mut tcp_pcb_listen;
    /// Makes `only` (or none, for null) the whole list of listeners.
    pub fn gw_lwip_set_listeners(only: *mut tcp_pcb_listen);

    pub static gw_lwip_layout: [gw_layout; 0];
    pub static gw_lwip_layout_len: usize;
    pub static gw_lwip_constants: [u32; 0];
    pub static gw_lwip_constants_len: usize;
}
