//! Who looks at the frames of a link that is made of several.

use std::cell::RefCell;
use std::fmt;
use std::io::IoSlice;
use std::rc::Rc;

use super::Offload;
use super::switch::PortId;

/// Which way a frame passed a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Course {
    /// From whoever is behind the port.
    In,
    /// To whoever is behind the port.
    Out,
}

/// Looks at each frame that passes a port, of those that the port's link took. Must
/// return at once and not ask the link for anything.
pub trait FrameWatcher: fmt::Debug {
    /// A frame passed the port `id`, which is called `name`.
    fn frame(
        &mut self,
        id: PortId,
        name: &str,
        course: Course,
        offload: &Offload,
        parts: &[IoSlice<'_>],
    );
}

/// A watcher that its link shares with whoever set it up.
pub type SharedWatcher = Rc<RefCell<dyn FrameWatcher>>;

/// What a link does about a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// It tells the watcher of each frame.
    ByTheLink,
    /// Nothing: whoever uses the link sees all that passes.
    ByWhoUsesIt,
}
