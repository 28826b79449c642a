//! Gateways and flows for tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::model::{Impaired, Look, Model, Seen};
use super::ui::Ui;
use crate::control::proto::{
    Flow, FlowCounts, FlowDirection, FlowId, FlowProtocol, FlowState, Hello, Memory, PROTOCOL,
    Statistics, Traffic,
};

pub(super) fn at_millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "0.1.0".to_owned(),
        pid: 4711,
        uptime_seconds: 0,
        interface: "tap0".to_owned(),
        mtu: 1500,
        ipv4: None,
        ipv6: None,
        host_loopback: "none".to_owned(),
        dns: true,
        icmp: true,
    }
}

/// A TCP flow from port 40000 + `id` to port 443, of age 1 s.
pub(super) fn flow(id: u64, to_guest: u64, from_guest: u64) -> Flow {
    let port = 40_000 + u16::try_from(id % 20_000).unwrap();
    Flow {
        id: FlowId(id),
        protocol: FlowProtocol::Tcp,
        direction: FlowDirection::Outbound,
        state: FlowState::Open,
        guest: ([10, 0, 2, 100], port).into(),
        remote: ([192, 0, 2, 1], 443).into(),
        peer: None,
        to_guest,
        from_guest,
        age_seconds: 1,
        idle_seconds: 0,
        name: None,
        process: None,
    }
}

/// A rule that is in force.
pub(super) fn impaired(rule: &str) -> Impaired {
    Impaired {
        rule: rule.to_owned(),
        in_force: true,
    }
}

/// What is seen after so many milliseconds.
pub(super) fn look(millis: u64, flows: Vec<Flow>) -> Look {
    let at = at_millis(millis);
    Look {
        at,
        statistics: Statistics {
            uptime_seconds: 3900 + millis / 1000,
            flows: FlowCounts {
                tcp: flows.len(),
                udp: 0,
            },
            memory: Memory {
                used: 12 << 20,
                budget: 256 << 20,
            },
            from_guest: Traffic::default(),
            to_guest: Traffic::default(),
            dropped: std::collections::BTreeMap::default(),
        },
        flows: flows.into_iter().map(|flow| Seen { at, flow }).collect(),
        rules: Vec::new(),
    }
}

/// A screen that shows these flows, seen once.
pub(super) fn ui(flows: Vec<Flow>) -> Ui {
    let mut ui = Ui::new(Model::new(hello()));
    ui.take(look(0, flows));
    ui
}
