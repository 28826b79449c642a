//! Composition root. A stand-in that carries nothing: it holds the link open
//! until it is told to stop.

use std::future::Future;

use crate::config::Config;
use crate::tap::Link;

/// Serves one guest.
#[derive(Debug)]
pub struct Gateway {
    _link: Box<dyn Link>,
}

/// Why a gateway is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// By this signal.
    Signal(i32),
    /// The other end of `--exit-fd` is closed.
    ExitFd,
    /// The namespace is gone, or its process has ended.
    TargetGone,
    /// The command of `gw run` has ended.
    CommandEnded,
}

/// How a gateway ended.
#[derive(Debug)]
pub struct Ended;

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
#[error("the gateway failed")]
pub struct GatewayError;

impl Gateway {
    /// Prepares to serve the guest behind `link`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn new(_config: &Config, link: Box<dyn Link>) -> Result<Self, GatewayError> {
        Ok(Self { _link: link })
    }

    /// Serves until `stop` resolves; calls `ready` when traffic flows.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn run(
        self,
        ready: impl FnOnce(),
        stop: impl Future<Output = StopReason>,
    ) -> Result<Ended, GatewayError> {
        ready();
        stop.await;
        Ok(Ended)
    }
}
