//! Memory for frames from the guest and for bytes towards it.
//!
//! # Theory of operation
//! A frame is read into a [`FrameBuf`]. lwIP takes a segment as a `pbuf`; the
//! `pbuf` structure is embedded in front of the bytes, so handing a segment
//! over costs no allocation and no copy, and lwIP's reference count decides
//! when the buffer comes back. Buffers that hold a whole super-frame are pooled
//! (last in, first out: the warmest is reused first); smaller ones are exact.
//!
//! A [`Chunk`] holds bytes on the way to the guest until they are acknowledged.
//!
//! Both are charged to one [`Budget`], with what they cost besides their bytes:
//! the guest decides how much of both there is, and how small the pieces are, so
//! that it must be bounded for all flows together.
//!
//! Everything here belongs to the thread that owns lwIP.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use lwip_sys::{PBUF_REF, pbuf, pbuf_alloced_custom, pbuf_custom, pbuf_free};

use crate::net::MAX_FRAME_LEN;

/// Bytes of a pooled chunk. With IPv4 and TCP headers (40 bytes), IPv6's (60)
/// or options this stays below 65535, the most an IP packet can say.
pub(crate) const CHUNK: usize = 65160;

/// Pooled buffers and chunks that are kept when unused: one round's worth.
const POOL_KEEP: usize = 64;

/// What a chunk costs besides its bytes, roughly: lwIP's segment and buffers for
/// it, the entry in the outbox. A host that sends byte by byte makes thousands.
const CHUNK_OVERHEAD: usize = 256;

/// A limit, in bytes, shared by everything that holds guest data.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self {
            limit,
            used: Cell::new(0),
        })
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    /// True while another `bytes` fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used.get().saturating_add(bytes) <= self.limit
    }

    /// True when more than three quarters are used: flows should not grow.
    pub(crate) fn is_tight(&self) -> bool {
        self.used.get() > self.limit / 4 * 3
    }

    fn charge(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    fn release(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
    }
}

/// Header in front of every buffer's bytes. `custom` is first: lwIP's free
/// function gets a pointer to it.
#[repr(C)]
struct Header {
    custom: pbuf_custom,
    capacity: usize,
    pool: Rc<Pool>,
}

/// Bytes behind every buffer's own, zero and never written. lwIP reads the
/// length of a TCP option before it compares with the end of the header
/// (`tcp_parseopt`): one byte beyond a segment whose last byte begins an option.
const OVERREAD: usize = 4;

/// Source of frame buffers and chunks.
pub(crate) struct Pool {
    budget: Rc<Budget>,
    frames: RefCell<Vec<NonNull<Header>>>,
    chunks: RefCell<Vec<Box<[u8]>>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

fn layout(capacity: usize) -> Layout {
    // Both are far below isize::MAX: capacity is at most MAX_FRAME_LEN.
    let bytes = size_of::<Header>() + capacity + OVERREAD;
    Layout::from_size_align(bytes, align_of::<Header>()).expect("a frame fits in memory")
}

impl Pool {
    pub(crate) fn new(budget: Rc<Budget>) -> Rc<Self> {
        Rc::new(Self {
            budget,
            frames: RefCell::new(Vec::with_capacity(POOL_KEEP)),
            chunks: RefCell::new(Vec::with_capacity(POOL_KEEP)),
        })
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A buffer for one frame of any length. Charged, but never refused: the
    /// driver needs one to read into; see [`Budget::has_room`].
    pub(crate) fn frame(self: &Rc<Self>) -> FrameBuf {
        let pooled = self.frames.borrow_mut().pop();
        match pooled {
            Some(header) => {
                self.budget.charge(size_of::<Header>() + MAX_FRAME_LEN);
                // SAFETY: a pooled header was initialised by `allocate`, and its
                // `pool` was taken out when it was returned: write it anew.
                unsafe { (&raw mut (*header.as_ptr()).pool).write(Rc::clone(self)) };
                FrameBuf { header }
            }
            None => self.allocate(MAX_FRAME_LEN),
        }
    }

    /// A buffer of exactly `bytes.len()` with a copy of `bytes`.
    pub(crate) fn copy_of(self: &Rc<Self>, bytes: &[u8]) -> FrameBuf {
        let mut buf = self.allocate(bytes.len());
        buf.bytes_mut().copy_from_slice(bytes);
        buf
    }

    fn allocate(self: &Rc<Self>, capacity: usize) -> FrameBuf {
        let layout = layout(capacity);
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) }.cast::<Header>();
        let Some(header) = NonNull::new(raw) else {
            handle_alloc_error(layout)
        };
        self.budget.charge(size_of::<Header>() + capacity);
        // SAFETY: freshly allocated for a Header; all-zero is a valid
        // pbuf_custom (null pointers, numbers, no function).
        unsafe {
            (&raw mut (*raw).capacity).write(capacity);
            (&raw mut (*raw).pool).write(Rc::clone(self));
        }
        FrameBuf { header }
    }

    /// A chunk of up to [`CHUNK`] bytes to read into.
    pub(crate) fn chunk(self: &Rc<Self>) -> Chunk {
        self.budget.charge(CHUNK_OVERHEAD + CHUNK);
        let pooled = self.chunks.borrow_mut().pop();
        let bytes = pooled.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        Chunk {
            bytes: Some(bytes),
            pool: Rc::clone(self),
        }
    }

    /// Frees what is kept unused: the gateway is idle.
    pub(crate) fn trim(&self) {
        self.chunks.borrow_mut().clear();
        for header in self.frames.borrow_mut().drain(..) {
            // SAFETY: pooled buffers have MAX_FRAME_LEN bytes and no other owner.
            unsafe { dealloc(header.as_ptr().cast(), layout(MAX_FRAME_LEN)) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// An owned frame buffer.
pub(crate) struct FrameBuf {
    header: NonNull<Header>,
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameBuf")
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl FrameBuf {
    fn capacity(&self) -> usize {
        // SAFETY: initialised by `allocate`.
        unsafe { (*self.header.as_ptr()).capacity }
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: the bytes follow the header in the same allocation.
        unsafe { self.header.as_ptr().add(1).cast() }
    }

    /// All of the buffer's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `capacity` initialised bytes follow the header, owned by self.
        unsafe { std::slice::from_raw_parts(self.data(), self.capacity()) }
    }

    /// All of the buffer's bytes, to read a frame into.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data(), self.capacity()) }
    }

    /// Turns bytes `start..start + len` into a pbuf that owns the buffer.
    pub(super) fn into_pbuf(self, start: usize, len: u16) -> *mut pbuf {
        assert!(start + usize::from(len) <= self.capacity());
        let header = self.header.as_ptr();
        std::mem::forget(self);
        // SAFETY: the pbuf structure is in the header and lives as long as the
        // bytes; `release` frees both when lwIP drops the last reference. The
        // range was checked above. RAW layer: no room for headers is reserved.
        unsafe {
            (*header).custom.custom_free_function = Some(release);
            let payload = header.add(1).cast::<u8>().add(start);
            pbuf_alloced_custom(
                0,
                len,
                PBUF_REF,
                &raw mut (*header).custom,
                payload.cast(),
                len,
            )
        }
    }
}

impl Drop for FrameBuf {
    fn drop(&mut self) {
        // SAFETY: `self` owns the buffer and nothing else refers to it.
        unsafe { release((&raw mut (*self.header.as_ptr()).custom.pbuf).cast()) }
    }
}

/// lwIP's last reference, or the owner, is gone.
///
/// # Safety
/// `p` is the pbuf embedded in a live buffer's header.
unsafe extern "C" fn release(p: *mut pbuf) {
    let header: *mut Header = p.cast();
    // SAFETY: pbuf is the first field of pbuf_custom, which is the first of
    // Header. The pool is moved out: the header is either freed or pooled, and
    // a pooled one gets a new pool reference before use.
    unsafe {
        let capacity = (*header).capacity;
        let pool = (&raw mut (*header).pool).read();
        pool.budget.release(size_of::<Header>() + capacity);
        if capacity == MAX_FRAME_LEN && pool.frames.borrow().len() < POOL_KEEP {
            pool.frames
                .borrow_mut()
                .push(NonNull::new_unchecked(header));
        } else {
            dealloc(header.cast(), layout(capacity));
        }
    }
}

/// Bytes that lwIP received and gave to us: a chain of pbufs.
pub(crate) struct Segment {
    /// Head of the chain; null once consumed.
    head: *mut pbuf,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").finish_non_exhaustive()
    }
}

impl Segment {
    /// Takes ownership of a chain.
    ///
    /// # Safety
    /// `p` is a live chain to which the caller holds the reference.
    pub(super) unsafe fn from_raw(p: *mut pbuf) -> Self {
        Self { head: p }
    }

    /// The bytes, one slice per buffer of the chain.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.head;
        std::iter::from_fn(move || {
            // SAFETY: the chain is live while self is; `len` bytes at `payload`
            // are readable and not written while we hold them.
            unsafe {
                let p = next.as_ref()?;
                next = p.next;
                Some(std::slice::from_raw_parts(
                    p.payload.cast::<u8>(),
                    p.len.into(),
                ))
            }
        })
    }

    /// Bytes in the chain. Counted buffer by buffer: a chain's own total is 16
    /// bits wide.
    pub(crate) fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Drops the first `n` bytes; `n` is at most [`Segment::len`].
    pub(crate) fn advance(&mut self, mut n: usize) {
        while n > 0 && !self.head.is_null() {
            // SAFETY: we own the chain. A buffer that is used up is unlinked
            // and freed by itself; its successor keeps the reference that the
            // link held, which is now ours.
            unsafe {
                let p = &mut *self.head;
                let len = usize::from(p.len);
                if n < len {
                    p.payload = p.payload.cast::<u8>().add(n).cast();
                    p.len -= u16::try_from(n).expect("less than a u16");
                    p.tot_len = p
                        .tot_len
                        .wrapping_sub(u16::try_from(n).expect("less than a u16"));
                    return;
                }
                n -= len;
                self.head = p.next;
                p.next = std::ptr::null_mut();
                p.tot_len = p.len;
                pbuf_free(p);
            }
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.head.is_null() {
            // SAFETY: we own the reference.
            unsafe { pbuf_free(self.head) };
        }
    }
}

/// Bytes towards the guest.
pub(crate) struct Chunk {
    /// Present until dropped.
    bytes: Option<Box<[u8]>>,
    pool: Rc<Pool>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("len", &self.bytes().len())
            .finish()
    }
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }

    /// The first `len` bytes in a chunk that holds no more than it must.
    ///
    /// A chunk that is mostly full stays as it is; one with a few bytes in it
    /// is copied, so that small messages do not pin 64 KiB each.
    pub(crate) fn fitted(self, len: usize) -> Self {
        if len >= CHUNK / 4 {
            return self;
        }
        let bytes: Box<[u8]> = self.bytes()[..len].into();
        self.pool.budget.charge(CHUNK_OVERHEAD + len);
        Self {
            bytes: Some(bytes),
            pool: Rc::clone(&self.pool),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(bytes) = self.bytes.take() else {
            return;
        };
        self.pool.budget.release(CHUNK_OVERHEAD + bytes.len());
        let mut kept = self.pool.chunks.borrow_mut();
        if bytes.len() == CHUNK && kept.len() < POOL_KEEP {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_counts_what_is_held() {
        let pool = Pool::new(Budget::new(200_000));
        let frame = pool.frame();
        let copy = pool.copy_of(b"abc");
        assert_eq!(copy.bytes(), b"abc");
        let mut chunk = pool.chunk();
        chunk.bytes_mut()[..2].copy_from_slice(b"hi");
        let frames = 2 * size_of::<Header>() + MAX_FRAME_LEN + 3;
        assert_eq!(pool.budget().used(), frames + CHUNK_OVERHEAD + CHUNK);
        let chunk = chunk.fitted(2);
        assert_eq!(chunk.bytes(), b"hi");
        assert_eq!(pool.budget().used(), frames + CHUNK_OVERHEAD + 2);
        drop((frame, copy, chunk));
        assert_eq!(pool.budget().used(), 0);
    }

    #[test]
    fn frames_are_reused_last_in_first_out() {
        let pool = Pool::new(Budget::new(1 << 20));
        let (a, b) = (pool.frame(), pool.frame());
        let (pa, pb) = (a.data(), b.data());
        drop(a);
        drop(b);
        let (c, d) = (pool.frame(), pool.frame());
        assert_eq!((c.data(), d.data()), (pb, pa));
    }

    #[test]
    fn segments_are_consumed_across_buffers() {
        let pool = Pool::new(Budget::new(1 << 20));
        let first = pool.copy_of(b"hello ").into_pbuf(0, 6);
        let second = pool.copy_of(b"xxworld").into_pbuf(2, 5);
        // SAFETY: both are live and ours; the link takes over the second's reference.
        let mut segment = unsafe {
            (*first).next = second;
            (*first).tot_len = 11;
            Segment::from_raw(first)
        };
        assert_eq!(segment.len(), 11);
        segment.advance(3);
        assert_eq!(segment.slices().collect::<Vec<_>>().concat(), b"lo world");
        segment.advance(4);
        assert_eq!(segment.slices().collect::<Vec<_>>().concat(), b"orld");
        drop(segment);
        assert_eq!(pool.budget().used(), 0);
    }
}
