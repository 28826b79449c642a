//! `--publish auto`: follows the ports that programs of the guest listen on.

/// Most ports that are followed at a time.
pub const MAX_AUTO: usize = 256;
