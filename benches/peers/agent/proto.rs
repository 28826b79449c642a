//! What the orchestrator asks of an agent: one JSON line each way.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A request, written to the agent's standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Opens the servers; answered with [`Reply::Ports`].
    Serve,
    /// What this agent has received until now; answered with [`Reply::Counters`].
    Counters,
    /// The MTU of the namespace's TAP; answered with [`Reply::Mtu`].
    Mtu {
        /// The interface's name.
        interface: String,
    },
    /// Starts a load that runs until [`Request::Stop`].
    Start {
        /// What to do.
        load: Load,
        /// The server's address.
        to: SocketAddr,
        /// How many connections at once.
        streams: usize,
    },
    /// Ends the running load.
    Stop,
    /// One byte there and back, again and again, for `millis`.
    RoundTrips {
        /// TCP over one connection, or UDP.
        transport: Transport,
        /// The echo server.
        to: SocketAddr,
        /// How long, in milliseconds.
        millis: u64,
    },
    /// Connect, one byte there and back, close; for `millis`.
    Connections {
        /// The server.
        to: SocketAddr,
        /// How long, in milliseconds.
        millis: u64,
    },
    /// Opens connections that stay open, each to an address of its own.
    Idle {
        /// First destination; each connection goes to the next address.
        first: IpAddr,
        /// The server's port.
        port: u16,
        /// How many.
        count: u32,
    },
    /// Tries to connect until it works; answered with [`Reply::At`].
    FirstConnection {
        /// The server.
        to: SocketAddr,
        /// When to give up, in milliseconds.
        millis: u64,
    },
}

/// A kind of load.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// TCP from the agent to the server.
    TcpUp,
    /// TCP from the server to the agent.
    TcpDown,
    /// Datagrams of [`UDP_PAYLOAD`] bytes from the agent to the server.
    UdpUp,
    /// Datagrams of [`UDP_PAYLOAD`] bytes from the server to the agent.
    UdpDown,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Payload of the datagrams of a UDP load, in bytes.
pub(crate) const UDP_PAYLOAD: usize = 1400;

/// An answer, written to the agent's standard output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// The request failed.
    Failed {
        /// Why.
        why: String,
    },
    /// Where the servers listen.
    Ports(Ports),
    /// What was received until now.
    Counters(Counters),
    /// An MTU in bytes.
    Mtu {
        /// The MTU.
        bytes: u32,
    },
    /// Round-trip times.
    Latency(Latency),
    /// Something was done `count` times in `seconds`.
    Rate {
        /// How often.
        count: u64,
        /// In how many seconds.
        seconds: f64,
    },
    /// It happened at this instant of the monotonic clock.
    At {
        /// Nanoseconds of `CLOCK_MONOTONIC`.
        nanos: u64,
    },
}

/// The ports of an agent's servers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// TCP: reads and counts.
    pub(crate) sink: u16,
    /// TCP: writes until the peer goes away.
    pub(crate) source: u16,
    /// TCP: returns every byte.
    pub(crate) echo: u16,
    /// TCP: returns one byte and closes.
    pub(crate) once: u16,
    /// TCP: returns one byte and keeps the connection open.
    pub(crate) keep: u16,
    /// UDP: counts.
    pub(crate) udp_sink: u16,
    /// UDP: sends datagrams to whoever asks.
    pub(crate) udp_source: u16,
    /// UDP: returns every datagram.
    pub(crate) udp_echo: u16,
}

/// What an agent received.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// When it was counted: nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) nanos: u64,
    /// TCP payload bytes.
    pub(crate) bytes: u64,
    /// Datagrams of the right length.
    pub(crate) datagrams: u64,
}

/// Round-trip times in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// How many round trips were made.
    pub(crate) count: usize,
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
}
