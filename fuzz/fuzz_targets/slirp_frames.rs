//! Any frames, as they are and with their checksums made right, through the
//! whole translation core. No destination but the gateway itself is let
//! through: the fuzzer must not talk to the network.
#![no_main]

mod common;

use std::cell::RefCell;
use std::time::Duration;

use arbitrary::Arbitrary;
use common::{GATEWAY_MAC, World, fix};
use gw::net::{Checksum, Gso, GsoKind, Offload};
use gw::policy::HostLoopback;

#[derive(Debug, Arbitrary)]
struct Input {
    frame: Vec<u8>,
    /// Give it addresses that are let through, and right checksums.
    mend: bool,
    /// Remote address when mended.
    dns: bool,
    gso: Option<(u8, u16)>,
    valid: bool,
    wait_ms: u16,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(HostLoopback::Closed));
}

fn mend(frame: &mut [u8], dns: bool) -> Option<()> {
    frame.get_mut(..6)?.copy_from_slice(&GATEWAY_MAC.0);
    frame.get_mut(6..12)?.copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let host = if dns { 3 } else { 2 };
    let version = frame.get(14)? >> 4;
    if version == 4 {
        frame[12..14].copy_from_slice(&[8, 0]);
        let len = u16::try_from(frame.len() - 14).ok()?;
        frame.get_mut(16..18)?.copy_from_slice(&len.to_be_bytes());
        frame.get_mut(26..34)?.copy_from_slice(&[10, 0, 2, 100, 10, 0, 2, host]);
    } else {
        frame[14] = 0x60 | frame[14] & 15;
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let len = u16::try_from(frame.len().checked_sub(54)?).ok()?;
        frame.get_mut(18..20)?.copy_from_slice(&len.to_be_bytes());
        let mut addresses = [0; 32];
        (addresses[0], addresses[15], addresses[16], addresses[31]) = (0xfd, 100, 0xfd, host);
        frame.get_mut(22..54)?.copy_from_slice(&addresses);
    }
    fix(frame)
}

/// True for what would leave this machine.
fn leaves(frame: &[u8]) -> bool {
    match frame.get(14).map(|b| b >> 4) {
        Some(4) => frame.get(30..33) != Some(&[10, 0, 2]),
        Some(6) => frame.get(38..40) != Some(&[0xfd, 0]),
        _ => false,
    }
}

libfuzzer_sys::fuzz_target!(|inputs: Vec<Input>| {
    WORLD.with_borrow_mut(|world| {
        for mut input in inputs {
            if input.mend {
                let _ = mend(&mut input.frame, input.dns);
            }
            if leaves(&input.frame) {
                continue;
            }
            let gso = input.gso.map(|(kind, size)| Gso {
                kind: [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][usize::from(kind % 3)],
                size,
                header_len: 54,
            });
            let checksum = if input.valid { Checksum::Valid } else { Checksum::Complete };
            world.feed(&input.frame, &Offload { checksum, gso });
            world.turn(Duration::from_millis(input.wait_ms.into()));
        }
        world.empty();
    });
});
