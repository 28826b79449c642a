//! The resolver as a whole, against scripted servers on the loopback. Where a
//! server is silent, time is virtual.

mod faults;
mod forward;
mod here;
mod programs;
mod robust;
mod searched;
mod streams;
