//! The thread of a capture: from what is queued to what is written.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pcap_file::PcapError;

use super::CaptureError;
use super::format::{About, Encoder, Packet, Statistics};
use super::note::Notes;
use super::output::{self, Opened, Output};
use super::queue::{Batch, Captured, Done, Item, Order, Progress, Queue, Seen};
use super::spec::{CaptureSpec, Segment, Target};
use crate::net::{Checksum, Medium, Offload};
use crate::wire::segment::{SegmentError, Segmenter};

/// Bytes that are written at once.
const WRITE_AT: usize = 256 << 10;

/// How often a FIFO without a reader is tried.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How often the log says that packets are lost.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Lets the gateway's own thread go first where there are not processors enough.
const NICENESS: i32 = 5;

/// Why a capture ends before it is told to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its reader has left")]
    ReaderLeft,
    #[error("its reader is too slow, and is not waited for at the end")]
    ReaderTooSlow,
    #[error("{0}; what was written before can be read")]
    Write(#[source] io::Error),
    #[error(transparent)]
    NextFile(#[from] CaptureError),
    #[error("a packet cannot be encoded: {0}")]
    Encode(#[from] PcapError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderLeft,
            io::ErrorKind::TimedOut => Self::ReaderTooSlow,
            _ => Self::Write(error),
        }
    }
}

/// An interface of the files.
#[derive(Debug)]
struct Interface {
    name: String,
    /// Packets that were written.
    written: u64,
    /// Packets that were lost before the last that was written.
    lost: u64,
}

struct Writer {
    spec: CaptureSpec,
    queue: Arc<Queue>,
    output: Output,
    encoder: Encoder,
    /// Packets in the present file.
    in_file: u64,
    began: Duration,
    interfaces: Vec<Interface>,
    notes: Notes,
    segmenter: Segmenter,
    progress: Progress,
    losses: Losses,
}

/// What was said of lost packets.
#[derive(Debug, Default)]
struct Losses {
    said: u64,
    when: Option<Instant>,
}

/// Runs until it is told to stop or cannot go on. `opened` is told whether it
/// begins: a FIFO is, though it has no reader yet.
pub(super) fn run(spec: CaptureSpec, queue: Arc<Queue>, opened: Done<()>) {
    // Refused only to who may not even be kinder.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let Some(output) = open(&spec, &queue, opened) else {
        return;
    };
    let target = spec.target.clone();
    let (outcome, orders) = match Writer::new(spec, Arc::clone(&queue), output) {
        Ok(writer) => writer.run(),
        Err(failure) => (Err(failure), Vec::new()),
    };
    if let Err(failure) = outcome {
        tracing::warn!("the capture to '{target}' has ended: {failure}");
    }
    end(&queue, &target, orders);
}

/// Takes no more, and tells who still waits for something.
fn end(queue: &Queue, target: &Target, mut orders: Vec<Order>) {
    orders.extend(queue.close());
    for order in orders {
        let (Order::Rotate(done) | Order::Stop(done)) = order;
        done(Err(CaptureError::Ended(target.clone())));
    }
}

/// `None`: it was not opened, or told to stop before.
fn open(spec: &CaptureSpec, queue: &Queue, opened: Done<()>) -> Option<Output> {
    let mut opened = Some(opened);
    loop {
        match output::open(spec) {
            Ok(Opened::Output(output)) => {
                if let Some(opened) = opened.take() {
                    opened(Ok(()));
                }
                return Some(output);
            }
            Ok(Opened::NoReader) => {
                if let Some(opened) = opened.take() {
                    opened(Ok(()));
                }
                thread::sleep(TRY_AGAIN);
                if queue.is_stopping() {
                    for order in queue.close() {
                        match order {
                            Order::Stop(done) => done(Ok(())),
                            Order::Rotate(done) => {
                                done(Err(CaptureError::Pipe(spec.target.clone())));
                            }
                        }
                    }
                    return None;
                }
            }
            Err(error) => {
                // Closed first: who hears of it may start another.
                end(queue, &spec.target, Vec::new());
                match opened.take() {
                    Some(opened) => opened(Err(error)),
                    None => tracing::warn!("{error}"),
                }
                return None;
            }
        }
    }
}

impl Writer {
    fn new(spec: CaptureSpec, queue: Arc<Queue>, output: Output) -> Result<Self, Failure> {
        let encoder = Encoder::new(about(&spec))?;
        let progress = Progress {
            file: Some(output.target()),
            ..Progress::default()
        };
        let mut writer = Self {
            spec,
            queue,
            output,
            encoder,
            in_file: 0,
            began: now(),
            interfaces: Vec::new(),
            notes: Notes::default(),
            segmenter: Segmenter::default(),
            progress,
            losses: Losses::default(),
        };
        // Who looks at once sees a file that is one.
        writer.flush()?;
        writer.queue.report(&writer.progress);
        Ok(writer)
    }

    /// Until the end. Hands back orders that nobody has done.
    fn run(mut self) -> (Result<(), Failure>, Vec<Order>) {
        let mut batch = Batch::default();
        loop {
            let mut orders = self.queue.take(&mut batch).into_iter();
            if let Err(failure) = self.write_batch(&mut batch) {
                return (Err(failure), orders.collect());
            }
            while let Some(order) = orders.next() {
                match order {
                    Order::Rotate(done) => match self.next_file() {
                        Ok(()) => done(Ok(())),
                        // The present one is as good as before.
                        Err(Failure::NextFile(error)) => done(Err(error)),
                        Err(failure) => {
                            done(Err(CaptureError::Ended(self.spec.target.clone())));
                            return (Err(failure), orders.collect());
                        }
                    },
                    Order::Stop(done) => {
                        let finished = self.finish();
                        match finished {
                            Ok(()) => {
                                let left = self.queue.close();
                                done(Ok(()));
                                return (Ok(()), left);
                            }
                            Err(failure) => {
                                return (Err(failure), vec![Order::Stop(done)]);
                            }
                        }
                    }
                }
            }
        }
    }

    fn write_batch(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        let mut at = 0;
        for item in batch.items.drain(..) {
            match item {
                Item::Interface(name) => {
                    self.encoder.interface(&name)?;
                    self.interfaces.push(Interface {
                        name,
                        written: 0,
                        lost: 0,
                    });
                }
                Item::Note(note) => self.notes.put(note),
                Item::Frame(frame) => {
                    let bytes = batch.bytes.get(at..at + frame.stored).unwrap_or_default();
                    at += frame.stored;
                    self.frame(&frame, bytes)?;
                }
            }
        }
        self.flush()?;
        self.say_losses();
        Ok(())
    }

    fn frame(&mut self, frame: &Captured, bytes: &[u8]) -> Result<(), Failure> {
        let offload = match self.spec.segment {
            Segment::On if bytes.len() == frame.len => frame.offload,
            Segment::On | Segment::Off => Offload::default(),
        };
        let mut segmenter = mem::take(&mut self.segmenter);
        let mut is_first = true;
        let mut failure = None;
        let cut = segmenter.each(Medium::Ethernet, &offload, bytes, |piece| {
            let len = if piece.len() == bytes.len() {
                frame.len
            } else {
                piece.len()
            };
            let outcome = self.packet(frame, piece, len, mem::take(&mut is_first));
            if let Err(error) = outcome {
                failure.get_or_insert(error);
            }
            Ok::<(), Infallible>(())
        });
        self.segmenter = segmenter;
        match (cut, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(Ok(())), None) => Ok(()),
            // It is not what it says it is: as it came.
            (Err(SegmentError::Checksum | SegmentError::NotCuttable), None) => {
                self.packet(frame, bytes, frame.len, true)
            }
        }
    }

    /// A packet of the file, of which `data` may be a part.
    fn packet(
        &mut self,
        frame: &Captured,
        data: &[u8],
        len: usize,
        is_first: bool,
    ) -> Result<(), Failure> {
        let snaplen = usize::try_from(self.spec.snaplen.get()).unwrap_or(usize::MAX);
        let comment = if is_first {
            self.notes.take(data)
        } else {
            None
        };
        let index = usize::try_from(frame.interface).unwrap_or(usize::MAX);
        let Some(interface) = self.interfaces.get_mut(index) else {
            return Ok(());
        };
        let packet = Packet {
            at: frame.at,
            interface: frame.interface,
            direction: frame.direction,
            data: &data[..data.len().min(snaplen)],
            len,
            lost: frame.lost - mem::replace(&mut interface.lost, frame.lost),
            comment: comment.as_deref(),
        };
        interface.written += 1;
        let size = self.output.written() + as_u64(self.encoder.len() + Encoder::size_of(&packet));
        if self.in_file > 0 && self.spec.size.is_some_and(|most| size > most) {
            self.next_file()?;
        }
        self.encoder.packet(&packet)?;
        self.in_file += 1;
        self.progress.packets += 1;
        if self.encoder.len() >= WRITE_AT {
            self.flush()?;
        }
        Ok(())
    }

    fn next_file(&mut self) -> Result<(), Failure> {
        if matches!(self.output, Output::Stream(_)) {
            return Err(CaptureError::Pipe(self.spec.target.clone()).into());
        }
        self.conclude()?;
        self.output.rotate()?;
        self.progress.file = Some(self.output.target());
        self.encoder = Encoder::new(about(&self.spec))?;
        self.in_file = 0;
        for interface in &self.interfaces {
            self.encoder.interface(&interface.name)?;
        }
        self.flush()?;
        self.queue.report(&self.progress);
        Ok(())
    }

    /// The last of the last file.
    fn finish(&mut self) -> Result<(), Failure> {
        self.conclude()?;
        let lost = self.queue.lost();
        let packets = self.progress.packets;
        let target = &self.spec.target;
        if lost > 0 {
            tracing::warn!(packets, lost, "the capture to '{target}' lacks packets");
        } else {
            tracing::info!(packets, "the capture to '{target}' is complete");
        }
        Ok(())
    }

    /// Writes how it was, behind the packets of a file.
    fn conclude(&mut self) -> Result<(), Failure> {
        let ended = now();
        let seen = self.queue.report(&self.progress);
        for (index, (interface, Seen { picked, lost })) in
            (0..).zip(self.interfaces.iter().zip(seen))
        {
            self.encoder.statistics(&Statistics {
                interface: index,
                began: self.began,
                ended,
                picked,
                lost,
                written: interface.written,
            })?;
        }
        self.flush()
    }

    /// Hands what is encoded to the system.
    fn flush(&mut self) -> Result<(), Failure> {
        let Self {
            encoder,
            output,
            queue,
            progress,
            ..
        } = self;
        encoder.drain(|bytes| {
            if bytes.is_empty() {
                return Ok(());
            }
            output.write(bytes, || queue.is_stopping())?;
            progress.bytes += as_u64(bytes.len());
            Ok::<(), io::Error>(())
        })?;
        Ok(())
    }

    /// Says so when packets were lost, now and then.
    fn say_losses(&mut self) {
        let seen = self.queue.report(&self.progress);
        let lost: u64 = seen.iter().map(|seen| seen.lost).sum();
        let is_due = self
            .losses
            .when
            .is_none_or(|when| when.elapsed() >= SAY_AGAIN);
        if lost > self.losses.said && is_due {
            let target = &self.spec.target;
            tracing::warn!(
                lost,
                "the capture to '{target}' loses packets: what it is written to is too slow; \
                 a filter= or snaplen= would make it smaller"
            );
            self.losses = Losses {
                said: lost,
                when: Some(Instant::now()),
            };
        }
    }
}

/// True for a frame that is not yet as it is on a wire.
pub(super) fn is_unfinished(offload: &Offload) -> bool {
    offload.gso.is_some() || matches!(offload.checksum, Checksum::Partial { .. })
}

fn about(spec: &CaptureSpec) -> About {
    About {
        form: spec.form(),
        snaplen: spec.snaplen.get(),
        filter: spec.filter.as_ref().map(ToString::to_string),
    }
}

/// Since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
