//! What things are called in everything that programs read: words in lower case,
//! that stay the same.

use crate::policy::{FlowVerdict, HowEnded, Party, Protocol};

/// `tcp`, `udp`, `echo`.
#[must_use]
pub const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Echo => "echo",
    }
}

/// `guest`, `host`, `gateway`.
#[must_use]
pub const fn party(party: Party) -> &'static str {
    match party {
        Party::Guest => "guest",
        Party::Host => "host",
        Party::Gateway => "gateway",
    }
}

/// All that [`verdict`] says.
pub const VERDICTS: [&str; 10] = [
    "connected",
    "unix",
    "dns",
    "refused",
    "unreachable",
    "no_answer",
    "dropped",
    "no_room",
    "impaired",
    "undecided",
];

/// What became of a flow; `undecided`: it ended before anything did.
#[must_use]
pub const fn verdict(verdict: Option<FlowVerdict>) -> &'static str {
    match verdict {
        Some(FlowVerdict::Connected) => "connected",
        Some(FlowVerdict::Unix) => "unix",
        Some(FlowVerdict::Dns) => "dns",
        Some(FlowVerdict::Refused) => "refused",
        Some(FlowVerdict::Unreachable) => "unreachable",
        Some(FlowVerdict::NoAnswer) => "no_answer",
        Some(FlowVerdict::Dropped) => "dropped",
        Some(FlowVerdict::NoRoom) => "no_room",
        Some(FlowVerdict::Impaired(_)) => "impaired",
        None => "undecided",
    }
}

/// All that [`ended`] says.
pub const ENDS: [&str; 9] = [
    "finished",
    "reset",
    "turned_away",
    "idle",
    "killed",
    "lost",
    "evicted",
    "shutdown",
    "impaired",
];

/// How a flow ended.
#[must_use]
pub const fn ended(how: HowEnded) -> &'static str {
    match how {
        HowEnded::Finished => "finished",
        HowEnded::Reset => "reset",
        HowEnded::TurnedAway => "turned_away",
        HowEnded::Idle => "idle",
        HowEnded::Killed => "killed",
        HowEnded::Lost => "lost",
        HowEnded::Evicted => "evicted",
        HowEnded::Shutdown => "shutdown",
        HowEnded::Impaired(_) => "impaired",
    }
}

/// Whether a flow led somewhere.
#[must_use]
pub fn led_somewhere(verdict: &str) -> bool {
    matches!(verdict, "connected" | "unix" | "dns")
}
