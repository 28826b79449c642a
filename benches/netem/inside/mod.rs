//! In the emulated machine: one order is carried out and its outcome printed.
//!
//! ```text
//!   namespace client                      namespace server
//!   10.0.2.100  veth ──── netem ──── veth  10.0.2.2, 192.0.2.1   (netem)
//!   10.0.2.100  TAP ── gw, in namespace server ──  192.0.2.1     (gw)
//! ```
//!
//! Both ends of a load are threads of this process, each in its namespace, so one
//! clock stamps what is sent and what arrives.

mod datagrams;
mod lab;
mod stream;

use std::process::ExitCode;

pub(crate) use self::lab::{GW, IP, TC};
use crate::error::{Context, Result};
use crate::model::{Load, Order, Outcome};

/// What stands in front of an outcome on the console.
pub(crate) const MARK: &str = "OUTCOME ";

/// Carries out the order that `text` is, as JSON.
pub(crate) fn main(text: &str) -> ExitCode {
    match carry_out(text) {
        Ok(outcome) => {
            println!("{MARK}{outcome}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(text: &str) -> Result<String> {
    let order: Order = serde_json::from_str(text).context(|| "reading an order".into())?;
    let lab = lab::Lab::set_up(&order)?;
    let outcome = match order.load {
        Load::Train { .. } => Outcome::Train(datagrams::measure(&order)?),
        Load::Stream { .. } => Outcome::Stream(stream::measure(&order)?),
    };
    drop(lab);
    serde_json::to_string(&outcome).context(|| "writing an outcome".into())
}
