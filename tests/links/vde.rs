//! VDE, both ends: our client in Debian's vde_switch, and its vde_plug in a
//! switch of ours.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use gw::net::MacAddr;
use gw::tap::switch::Switch;
use gw::tap::vde::client::{ClientOptions, VdeClient};
use gw::tap::vde::switch::{SwitchOptions, VdeSwitch};

use crate::harness::{
    A, B, OURS, Plug, Program, frame, place, reaches, switch, take, until, until_ports, vde_switch,
};

/// Longest frame that vde_switch takes.
const LONGEST: usize = 1514;

fn client(path: &Path, port: Option<u32>) -> Switch {
    let options = ClientOptions {
        switch: Some(path.to_owned()),
        port,
        description: None,
    };
    switch(A, VdeClient::new(options).expect("client"))
}

fn serve(path: &Path) -> Switch {
    let options = SwitchOptions::new(path.to_owned());
    switch(OURS, VdeSwitch::new(&options).expect("made"))
}

fn long(to: MacAddr, from: MacAddr) -> Vec<u8> {
    frame(to, from, &"x".repeat(LONGEST - 14))
}

#[test]
fn our_client_in_vde_switch() {
    let (_dir, path) = place("switch");
    let mut theirs = vde_switch(&path);
    let mut ours = client(&path, Some(5));
    until_ports(&mut ours, 1);
    let mut plug = Plug::into(&path);
    reaches(&mut plug, &mut ours, &frame(A, B, "from the plug"), None);
    reaches(&mut ours, &mut plug, &frame(B, A, "from us"), None);
    reaches(&mut plug, &mut ours, &long(A, B), None);
    reaches(&mut ours, &mut plug, &long(B, A), None);

    // What the switch knows of us.
    writeln!(theirs.input(), "port/print").expect("asked");
    let mut said = String::new();
    until("the switch's answer", || {
        let mut buf = [0; 4096];
        let len = theirs.output().read(&mut buf).expect("answer");
        said.push_str(&String::from_utf8_lossy(&buf[..len]));
        said.contains("gw user=").then_some(())
    });
    let ours_said = said.split("Port ").find(|port| port.contains("gw user="));
    assert!(ours_said.expect("our port").starts_with("0005 "), "{said}");
    let pid = std::process::id();
    assert!(said.contains(&format!("PID={pid}")), "{said}");
    let names = fs::read_dir(&path).expect("directory");
    let left = names
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .find(|name| name.contains(&format!("{pid:05}-")));
    assert_eq!(left, None, "our socket's name is gone");
}

#[test]
fn our_client_comes_back_when_vde_switch_does() {
    let (_dir, path) = place("switch");
    let mut ours = client(&path, None);
    for _ in 0..2 {
        let theirs = vde_switch(&path);
        until_ports(&mut ours, 1);
        let mut plug = Plug::into(&path);
        reaches(&mut plug, &mut ours, &frame(A, B, "hello"), None);
        theirs.kill();
        until_ports(&mut ours, 0);
    }
}

#[test]
fn two_plugs_talk_through_us() {
    let (_dir, path) = place("switch");
    let mut ours = serve(&path);
    let mut a = Plug::into(&path);
    until_ports(&mut ours, 1);
    let mut b = Plug::into(&path);
    until_ports(&mut ours, 2);
    for port in ours.ports() {
        assert!(port.name.contains("(vdeplug: user="), "{}", port.name);
    }
    let text = "to b, whom nobody knows";
    reaches(&mut a, &mut b, &frame(B, A, text), Some(&mut ours));
    reaches(&mut b, &mut a, &frame(A, B, "to a"), Some(&mut ours));
    reaches(&mut a, &mut b, &long(B, A), Some(&mut ours));
    reaches(&mut a, &mut ours, &frame(OURS, A, "up"), None);
    reaches(&mut ours, &mut b, &frame(B, OURS, "down"), None);
    let all = MacAddr::BROADCAST;
    reaches(&mut a, &mut ours, &frame(all, A, "everybody"), None);
    until("the broadcast", || {
        take(&mut b).filter(|text| text == "everybody")
    });
    let stations: Vec<_> = ours.ports().map(|port| port.stations).collect();
    assert_eq!(stations, [vec![A], vec![B]]);

    // One leaves, without a word; its port and its socket go.
    drop(a);
    until_ports(&mut ours, 1);
    let names = fs::read_dir(&path).expect("directory");
    let ports = names.filter(|entry| {
        let name = entry.as_ref().expect("entry").file_name();
        name.to_string_lossy().starts_with("00")
    });
    assert_eq!(ports.count(), 1);
    reaches(&mut ours, &mut b, &frame(B, OURS, "still here"), None);
    // Another takes its place.
    let mut a = Plug::into(&path);
    until_ports(&mut ours, 2);
    let first = ours.ports().last().expect("two").name;
    assert!(first.contains(" port 1 "), "{first}");
    reaches(&mut a, &mut b, &frame(B, A, "again"), Some(&mut ours));
}

#[test]
fn our_switch_can_be_started_again() {
    let (_dir, path) = place("switch");
    for _ in 0..2 {
        let mut ours = serve(&path);
        let mut plug = Plug::into(&path);
        reaches(&mut plug, &mut ours, &frame(OURS, A, "hello"), None);
        reaches(&mut ours, &mut plug, &frame(A, OURS, "back"), None);
        drop(ours);
        assert!(!path.exists());
    }
}

#[test]
fn a_plug_gets_the_port_it_asks_for_if_that_is_free() {
    let (_dir, path) = place("switch");
    let mut ours = serve(&path);
    let url = format!("vde://{}[3]", path.display());
    let mut first = Program::start("vde_plug", &[&url]);
    until_ports(&mut ours, 1);
    let name = ours.ports().next().expect("one").name;
    assert!(name.contains(" port 3 "), "{name}");
    let mut second = Program::start("vde_plug", &[&url]);
    // It ends when the switch says no.
    until("its end", || {
        take(&mut ours);
        second.has_ended().then_some(())
    });
    assert!(!first.has_ended());
    assert_eq!(ours.ports().count(), 1);
}
