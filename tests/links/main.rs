//! Links against the real program at their other end: Debian's vde2 and vdeplug,
//! socat, python3. Each test starts what it needs and ends it.

mod cables;
mod guests;
mod harness;
mod qemu;

mod vde;
