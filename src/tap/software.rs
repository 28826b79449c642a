//! What a link does for a frame that its medium cannot carry as it is.

use std::io::{self, IoSlice};

use super::{Caps, Checksum, GsoKind, Offload};
use crate::wire::segment::Segmenter;

/// Completes checksums and cuts super-frames, with buffers that are kept from
/// one frame to the next.
#[derive(Debug, Default)]
pub(super) struct Software {
    gathered: Vec<u8>,
    segmenter: Segmenter,
}

impl Software {
    /// Calls `send` with `frame` as it is, where `caps` can carry it and it has at
    /// most `max_slices` slices, else with the frames it stands for.
    #[inline]
    pub(super) fn carry(
        &mut self,
        caps: &Caps,
        offload: &Offload,
        frame: &[IoSlice<'_>],
        max_slices: usize,
        mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        if can_carry(caps, offload) && frame.len() <= max_slices {
            return send(frame);
        }
        self.send(caps, offload, frame, |_, whole| {
            send(&[IoSlice::new(whole)])
        })
    }

    /// Gathers `frame` into one piece and calls `write` with what `caps` can
    /// carry: the frame as it is, or the frames it stands for, complete.
    #[cold]
    pub(super) fn send(
        &mut self,
        caps: &Caps,
        offload: &Offload,
        frame: &[IoSlice<'_>],
        mut write: impl FnMut(&Offload, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.gathered.clear();
        for slice in frame {
            self.gathered.extend_from_slice(slice);
        }
        if can_carry(caps, offload) {
            return write(offload, &self.gathered);
        }
        self.segmenter
            .each(caps.medium, offload, &self.gathered, |piece| {
                write(&Offload::default(), piece)
            })
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
    }
}

/// True when a medium with `caps` finishes what `offload` leaves open.
#[inline]
pub(super) fn can_carry(caps: &Caps, offload: &Offload) -> bool {
    let checksum = match offload.checksum {
        Checksum::Complete | Checksum::Valid => true,
        Checksum::Partial { .. } => caps.checksum,
    };
    let segmentation = match offload.gso.map(|gso| gso.kind) {
        None => true,
        Some(GsoKind::Tcp4 | GsoKind::Tcp6) => caps.tso,
        Some(GsoKind::Udp) => caps.uso,
    };
    checksum && segmentation
}
