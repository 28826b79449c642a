//! What a flow is called.

use crate::control::proto::{Flow, FlowDirection, FlowProtocol, FlowState};

/// The other end as the guest knows it: name and port, or address and port.
pub(super) fn remote(flow: &Flow) -> String {
    match &flow.name {
        Some(name) => format!("{name}:{}", flow.remote.port()),
        None => flow.remote.to_string(),
    }
}

/// Whose socket it is in the guest, where that is known.
pub(super) fn process(flow: &Flow) -> Option<&str> {
    flow.process.as_ref().map(|process| process.name.as_str())
}

/// The same with its number.
pub(super) fn numbered_process(flow: &Flow) -> Option<String> {
    let process = flow.process.as_ref()?;
    Some(format!("{}[{}]", process.name, process.pid))
}

/// `TCP`, `UDP`.
pub(super) const fn protocol(protocol: FlowProtocol) -> &'static str {
    match protocol {
        FlowProtocol::Tcp => "TCP",
        FlowProtocol::Udp => "UDP",
    }
}

/// Who began it: the arrow points away from them, who stand on the left as the
/// guest does.
pub(super) const fn arrow(direction: FlowDirection) -> &'static str {
    match direction {
        FlowDirection::Outbound => ">",
        FlowDirection::Inbound => "<",
    }
}

/// In four columns.
pub(super) const fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::Connecting => "conn",
        FlowState::Open => "open",
        FlowState::HalfClosed => "half",
    }
}

/// Everything about a flow that a filter looks into.
pub(super) fn searched(flow: &Flow) -> String {
    let state = match flow.state {
        FlowState::Connecting => "connecting",
        FlowState::Open => "open",
        FlowState::HalfClosed => "half closed",
    };
    let peer = flow.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let process = numbered_process(flow).unwrap_or_default();
    let exe = flow.process.as_ref().and_then(|p| p.exe.as_deref());
    let exe = exe.unwrap_or_default();
    format!(
        "{} {} {} {} {} {peer} {process} {exe} {state}",
        protocol(flow.protocol),
        flow.guest,
        arrow(flow.direction),
        remote(flow),
        flow.remote,
    )
}

/// `TCP 10.0.2.100:40000 > www.example.com:443`.
pub(super) fn whole(flow: &Flow) -> String {
    format!(
        "{} {} {} {}",
        protocol(flow.protocol),
        flow.guest,
        arrow(flow.direction),
        remote(flow)
    )
}
