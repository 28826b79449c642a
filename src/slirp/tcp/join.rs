//! A guest's connection joined to a host socket.
//!
//! # Theory of operation
//!
//! A [`Join`] has two directions, each with its own notion of full.
//!
//! **Guest to host.** Segments are queued as lwIP delivers them and written to
//! the socket straight from the frames they came in. The guest's window is
//! opened by what the socket *took*, so that a host that stops reading stops
//! the guest, and what we hold is at most the window. The window starts at what
//! a SYN can announce and doubles, up to [`MAX_WINDOW`], whenever the guest has
//! used it up and the host kept pace.
//!
//! **Host to guest.** The socket is read only while the guest's window and our
//! own limit have room. Bytes are read into chunks that lwIP sends by
//! reference; the [`Outbox`] keeps each until the guest acknowledges it.
//!
//! **Closing** (the close table):
//!
//! | event | effect |
//! |---|---|
//! | guest FIN | `shutdown(SHUT_WR)` once everything before it is written |
//! | host end of file | FIN to the guest behind everything before it |
//! | guest reset, guest unreachable | host socket closed with a reset |
//! | host reset or error | guest connection reset |
//! | idle too long | both reset |
//!
//! **Acknowledgements** are sent once per round at most. A round that moved
//! two segments or more, or that opened the window markedly, sends one at its
//! end; smaller ones wait [`ACK_DELAY`] for data to travel with.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown};

use super::super::egress::Egress;
use super::super::lwip::{CHUNK, Chunk, Connection, End, INITIAL_WINDOW, Pool, RxQueue, Stack};
use super::super::reactor::Readiness;
use crate::policy::{HowEnded, Party};

/// Largest receive window and send buffer of one connection, in bytes.
pub(crate) const MAX_WINDOW: u32 = 4 * 1024 * 1024;

/// How long an acknowledgement may wait for data to go with, in microseconds'
/// precision; far below the 40 ms that guests' own stacks use.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(2);

/// Chunks read from one socket before the others get their turn.
const CHUNKS_PER_ROUND: usize = 8;

/// Slices of one write to the host; Linux's limit (`IOV_MAX`) is 1024.
const MAX_SLICES: usize = 256;

/// What a round of work on a join led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Carry on when something happens.
    Open,
    /// Carry on soon: the round's share of work was used up.
    More,
    /// Both directions have ended in order.
    Finished,
    /// The guest's side ended without order: reset the host's.
    ResetHost(HowEnded),
    /// The host's side did, with this error: reset the guest's.
    ResetGuest(Errno),
    /// As many bytes as were allowed were carried, and the guest has its own.
    Spent,
}

/// When the guest is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckNeed {
    /// Nothing is due.
    None,
    /// Within [`ACK_DELAY`].
    Soon,
}

/// Bytes sent to the guest and not acknowledged yet, oldest first.
#[derive(Debug, Default)]
struct Outbox {
    chunks: VecDeque<(Chunk, usize)>,
    /// Acknowledged bytes of the first chunk.
    acknowledged: usize,
}

impl Outbox {
    fn acknowledge(&mut self, bytes: usize) {
        self.acknowledged += bytes;
        while let Some((_, len)) = self.chunks.front()
            && self.acknowledged >= *len
        {
            self.acknowledged -= *len;
            self.chunks.pop_front();
        }
    }
}

/// The host's side of a join.
#[derive(Debug)]
struct HostSide {
    readable: bool,
    writable: bool,
    /// The end is in the socket's queue: reading goes on until it comes.
    ending: bool,
    /// The host has closed its direction.
    ended: bool,
    /// We have closed ours.
    shut: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) connection: Connection,
    outbox: Outbox,
    host: HostSide,
    /// Receive window, in bytes.
    window: u32,
    /// Bytes received since the window last grew.
    since_growth: u32,
    /// Bytes received since the last acknowledgement.
    since_ack: usize,
    /// Bytes towards the guest that may be unacknowledged.
    send_limit: usize,
    /// Bytes that are, and those acknowledged while there were many, since
    /// `send_limit` last grew.
    unacknowledged: usize,
    since_send_growth: usize,
    /// Payload bytes carried so far, to the guest and from it.
    to_guest: u64,
    from_guest: u64,
    /// Payload bytes that may be carried, in both directions together.
    allowed: u64,
}

impl Join {
    /// A join whose socket may be readable and writable.
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            outbox: Outbox::default(),
            host: HostSide {
                readable: true,
                writable: true,
                ending: false,
                ended: false,
                shut: false,
            },
            window: INITIAL_WINDOW,
            since_growth: 0,
            since_ack: 0,
            send_limit: INITIAL_WINDOW as usize,
            unacknowledged: 0,
            since_send_growth: 0,
            to_guest: 0,
            from_guest: 0,
            allowed: u64::MAX,
        }
    }

    /// Carries at most so many bytes of payload, in both directions together.
    pub(super) fn allow(&mut self, bytes: u64) {
        self.allowed = bytes;
    }

    /// Payload bytes that may still be carried.
    fn left(&self) -> usize {
        let carried = self.to_guest.saturating_add(self.from_guest);
        usize::try_from(self.allowed.saturating_sub(carried)).unwrap_or(usize::MAX)
    }

    /// The guest is asked once more, by another connection; nothing has come of
    /// the one before.
    pub(super) fn begin_again(&mut self, connection: Connection) {
        self.connection = connection;
    }

    /// Notes what the reactor saw.
    pub(super) fn host_ready(&mut self, ready: Readiness) {
        self.host.readable |= ready.readable;
        self.host.writable |= ready.writable;
        self.host.ending |= ready.ended;
    }

    /// Payload bytes carried so far, to the guest and from it.
    pub(super) fn carried(&self) -> (u64, u64) {
        (self.to_guest, self.from_guest)
    }

    /// True when one direction has closed.
    pub(super) fn is_half_closed(&self) -> bool {
        self.host.ended || self.connection.guest_closed()
    }

    /// Which side has closed its direction first, once one has. The guest's FIN is
    /// seen before the host's end in a round that brings both.
    pub(super) fn closed_first(&self) -> Party {
        if self.connection.guest_closed() {
            Party::Guest
        } else {
            Party::Host
        }
    }

    /// Moves what can be moved, both ways.
    pub(super) fn round(
        &mut self,
        stack: &mut Stack<Egress>,
        pool: &Rc<Pool>,
        socket: &OwnedFd,
    ) -> Outcome {
        self.release(pool);
        match self.connection.end() {
            Some(End::Reset) => {
                if self.left() > 0 {
                    // What it sent before is the host's, as far as it takes it at once.
                    let _ = self.move_to_host(socket);
                }
                return Outcome::ResetHost(HowEnded::Reset);
            }
            Some(End::Aborted) => return Outcome::ResetHost(HowEnded::Lost),
            Some(End::Closed) | None => {}
        }
        let written = match self.move_to_host(socket) {
            Ok(written) => written,
            Err(error) => return Outcome::ResetGuest(error),
        };
        let worth_telling = self.grow_window(pool, written);
        let more = match self.move_to_guest(stack, pool, socket) {
            Ok(more) => more,
            Err(error) => return Outcome::ResetGuest(error),
        };
        if self.left() == 0 {
            return self.wait_for_the_last_bytes();
        }
        self.acknowledge(stack, worth_telling);
        if self.is_finished() {
            return Outcome::Finished;
        }
        if more { Outcome::More } else { Outcome::Open }
    }

    /// Everything that is allowed was carried: it is over when the guest has it.
    fn wait_for_the_last_bytes(&self) -> Outcome {
        match self.outbox.chunks.is_empty() {
            true => Outcome::Spent,
            false => Outcome::Open,
        }
    }

    /// A round of a host that reads and writes nothing any more, but whose kernel
    /// answers: what fits the window is acknowledged, and the window closes.
    pub(super) fn idle_round(&mut self, stack: &mut Stack<Egress>) {
        self.acknowledge_now(stack);
    }

    /// Ends the guest's side without a word to it.
    pub(super) fn abandon(self) {
        // Before the chunks that it refers to.
        self.connection.abandon();
    }

    /// Whether an acknowledgement is still to be sent.
    pub(super) fn ack_need(&self) -> AckNeed {
        if self.connection.ack_due() {
            AckNeed::Soon
        } else {
            AckNeed::None
        }
    }

    /// Sends the acknowledgement that waited long enough.
    pub(super) fn acknowledge_now(&mut self, stack: &mut Stack<Egress>) {
        if self.connection.ack_due() {
            self.since_ack = 0;
            self.connection.acknowledge(stack);
        }
    }

    /// Forgets chunks that the guest has.
    fn release(&mut self, pool: &Pool) {
        let acked = self.connection.take_acked();
        if acked == 0 {
            return;
        }
        self.outbox.acknowledge(acked);
        if self.unacknowledged >= self.send_limit / 2 {
            self.since_send_growth = self.since_send_growth.saturating_add(acked);
        }
        self.unacknowledged = self.unacknowledged.saturating_sub(acked);
        // The guest keeps up, in one go or, over a wire, little by little: let
        // more be under way.
        let keeps_up = acked >= self.send_limit / 2 || self.since_send_growth >= self.send_limit;
        if keeps_up && !pool.budget().is_tight() {
            self.send_limit = (self.send_limit * 2).min(MAX_WINDOW as usize);
            self.since_send_growth = 0;
        }
    }

    /// Writes queued data to the host; then its end. Returns the bytes written.
    fn move_to_host(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let mut total = 0;
        let allowed = self.left();
        let mut rx = self.connection.rx();
        while self.host.writable && rx.bytes > 0 && total < allowed {
            match send_some(socket, &rx, allowed - total) {
                Ok(n) => {
                    rx.advance(n);
                    total += n;
                }
                Err(Errno::EAGAIN) => self.host.writable = false,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        let done = rx.bytes == 0 && self.connection.guest_closed() && !self.host.shut;
        drop(rx);
        if done {
            self.host.shut = true;
            match shutdown(socket.as_raw_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTCONN) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(total)
    }

    /// Opens the guest's window by what the host took. True when the guest
    /// should hear of it at once.
    fn grow_window(&mut self, pool: &Pool, written: usize) -> bool {
        let written32 = u32::try_from(written).unwrap_or(u32::MAX);
        self.since_growth = self.since_growth.saturating_add(written32);
        self.since_ack += written;
        self.from_guest += written as u64;
        let kept_pace = self.connection.rx().bytes == 0;
        if self.since_growth >= self.window && kept_pace && !pool.budget().is_tight() {
            self.window = self.window.saturating_mul(2).min(MAX_WINDOW);
            self.since_growth = 0;
        }
        (written > 0 || kept_pace) && self.connection.open_window(self.window)
    }

    /// Reads from the host what the guest has room for; then its end. True when
    /// there may be more and this round's share is used up.
    fn move_to_guest(
        &mut self,
        stack: &mut Stack<Egress>,
        pool: &Rc<Pool>,
        socket: &OwnedFd,
    ) -> Result<bool, Errno> {
        if !self.connection.is_established() {
            return Ok(false);
        }
        let mut wrote = false;
        let mut chunks = 0;
        while self.host.readable && !self.host.ended && chunks < CHUNKS_PER_ROUND {
            let limit = if pool.budget().is_tight() {
                CHUNK
            } else {
                self.send_limit
            };
            let room = self.connection.room(limit).min(CHUNK).min(self.left());
            if room == 0 || (!self.outbox.chunks.is_empty() && !pool.budget().has_room(CHUNK)) {
                break;
            }
            chunks += 1;
            let mut chunk = pool.chunk();
            match recv(
                socket.as_raw_fd(),
                &mut chunk.bytes_mut()[..room],
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => self.host.ended = true,
                Ok(n) => {
                    // Edge-triggered: a short read has emptied the socket, and
                    // what comes later is a new edge. An end that came already
                    // is none: it is there to be read.
                    self.host.readable = n == room || self.host.ending;
                    let chunk = chunk.fitted(n);
                    if !self.connection.write(stack, &chunk, n) {
                        return Err(Errno::ENOBUFS); // room() said yes: lwIP is out of memory
                    }
                    self.outbox.chunks.push_back((chunk, n));
                    self.to_guest += n as u64;
                    self.unacknowledged += n;
                    wrote = true;
                }
                Err(Errno::EAGAIN) => self.host.readable = false,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        if wrote {
            self.connection.output(stack);
        }
        if self.host.ended && !self.connection.is_shut() {
            self.connection.shutdown(stack);
        }
        Ok(chunks == CHUNKS_PER_ROUND && self.host.readable)
    }

    fn acknowledge(&mut self, stack: &mut Stack<Egress>, worth_telling: bool) {
        if !self.connection.ack_due() {
            self.since_ack = 0;
            if worth_telling {
                self.connection.acknowledge(stack);
            }
            return;
        }
        let two_segments = usize::from(self.connection.mss()) * 2;
        // Data that the host did not take yet must be acknowledged as well.
        let received = self.since_ack + self.connection.rx().bytes;
        if worth_telling || received >= two_segments || self.connection.rx().bytes > 0 {
            self.since_ack = 0;
            self.connection.acknowledge(stack);
        }
    }

    fn is_finished(&self) -> bool {
        self.connection.end() == Some(End::Closed)
            && self.host.shut
            && self.connection.rx().bytes == 0
    }
}

/// Writes the front of the queue, as much as one call takes and `most` bytes.
fn send_some(socket: &OwnedFd, rx: &RxQueue, most: usize) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if most < rx.bytes {
        let mut slices = rx.segments.iter().flat_map(|segment| segment.slices());
        let front = slices.find(|slice| !slice.is_empty()).unwrap_or_default();
        return send(socket.as_raw_fd(), &front[..front.len().min(most)], flags);
    }
    let slices: ArrayVec<IoSlice<'_>, MAX_SLICES> = rx
        .segments
        .iter()
        .flat_map(|segment| segment.slices())
        .take(MAX_SLICES)
        .map(IoSlice::new)
        .collect();
    match slices.as_slice() {
        [one] => send(socket.as_raw_fd(), one, flags),
        several => sendmsg::<()>(socket.as_raw_fd(), several, &[], flags, None),
    }
}
