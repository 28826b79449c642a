//! Black-box tests of the `gw` binary in namespaces of their own.
//!
//! Each behaviour that `gw` promises is one test, and is tried with the
//! programs that people use where there is one, with a few lines of Python
//! where a socket must behave specially. See `harness` for the world they run
//! in, and `tests/run` for the one command that installs what they need.

mod bubblewrap;
mod capture;
mod control;
mod differential;
mod dns;
mod doctor;
mod errors;
mod flowlog;
mod forward;
mod guides;
mod harness;
mod icmp;
mod impair;
mod ip;
mod kernel;
mod lifecycle;
mod metrics;
mod neighbour;
mod podman;
mod podman_guide;
mod report;
mod rootlesskit;
mod rootlesskit_guide;
mod run;
mod serve;
mod slirp4netns;
mod stats;
mod tcp;
mod udp;
mod vm;
