//! Our client in our switch, and strangers at either.

use std::fs;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::client::{ANSWER_TIMEOUT, ClientOptions, VdeClient};
use super::protocol::{ADDRESS_LEN, Request, decode_address, encode_address};
use super::switch::{MAX_HANDSHAKES, SwitchOptions, VdeSwitch};
use crate::net::{MAX_FRAME_LEN, MacAddr};
use crate::tap::switch::{PortSource, Switch};
use crate::tap::{Link, Offload};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PATIENCE: Duration = Duration::from_secs(5);

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat()
}

/// The text of the next frame for the gateway.
fn next(switch: &mut Switch) -> Option<String> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    loop {
        match switch.recv(&mut buf) {
            Ok(received) => {
                return Some(String::from_utf8_lossy(&buf[14..received.len]).into_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn send(switch: &mut Switch, frame: &[u8]) {
    switch
        .send(&Offload::default(), &[IoSlice::new(frame)])
        .expect("a switch takes everything");
}

/// Runs the switches until `done`.
fn until(switches: &mut [&mut Switch], mut done: impl FnMut(&mut [&mut Switch]) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(switches) {
        assert!(Instant::now() < end, "it did not happen");
        for switch in &mut *switches {
            next(switch);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An empty directory, and a path in it for a switch.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("switch");
    (dir, path)
}

fn serve(path: &Path) -> Switch {
    let mut switch = Switch::new(OURS).expect("switch");
    let source = VdeSwitch::new(&SwitchOptions::new(path.to_owned())).expect("made");
    switch.add_source(Box::new(source)).expect("room");
    switch
}

fn plug(path: &Path, port: Option<u32>) -> Switch {
    let mut switch = Switch::new(THEIRS).expect("switch");
    let options = ClientOptions {
        switch: Some(path.to_owned()),
        port,
        description: None,
    };
    let source = VdeClient::new(options).expect("client");
    switch.add_source(Box::new(source)).expect("room");
    switch
}

fn ports(switch: &Switch) -> usize {
    switch.ports().count()
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("directory");
    let names = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn frames_pass_both_ways_and_nothing_is_left() {
    let (_dir, path) = place();
    let mut server = serve(&path);
    let mut client = plug(&path, None);
    until(&mut [&mut server, &mut client], |s| ports(s[1]) == 1);
    let name = server.ports().next().expect("a port").name;
    assert!(name.contains("port 1 (gw user="), "{name}");
    let files = names(&path);
    assert!(files[0].starts_with("001."), "{files:?}");
    assert_eq!(files[1..], ["ctl"], "the client's is gone already");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("there").mode() & 0o7777;
    assert_eq!(mode(&path), 0o2700);
    assert_eq!(mode(&path.join("ctl")), 0o600);
    assert_eq!(mode(&path.join(&files[0])), 0o600);

    send(&mut client, &frame(OURS, THEIRS, "hello"));
    assert_eq!(next(&mut server).as_deref(), Some("hello"));
    send(&mut server, &frame(THEIRS, OURS, "and to you"));
    assert_eq!(next(&mut client).as_deref(), Some("and to you"));

    drop(client);
    until(&mut [&mut server], |s| ports(s[0]) == 0);
    assert_eq!(names(&path), ["ctl"]);
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_client_comes_back_when_the_switch_does() {
    let (_dir, path) = place();
    let mut client = plug(&path, None);
    assert_eq!(ports(&client), 0);
    for _ in 0..2 {
        let mut server = serve(&path);
        until(&mut [&mut server, &mut client], |s| ports(s[1]) == 1);
        send(&mut client, &frame(OURS, THEIRS, "again"));
        assert_eq!(next(&mut server).as_deref(), Some("again"));
        drop(server);
        until(&mut [&mut client], |s| ports(s[0]) == 0);
    }
}

#[test]
fn ports_have_numbers() {
    let (_dir, path) = place();
    let mut server = serve(&path);
    let mut seventh = plug(&path, Some(7));
    until(&mut [&mut server, &mut seventh], |s| ports(s[1]) == 1);
    let mut first = plug(&path, None);
    until(&mut [&mut server, &mut first], |s| ports(s[1]) == 1);
    let said: Vec<_> = server.ports().map(|port| port.name).collect();
    assert!(said[0].contains(" port 7 "), "{said:?}");
    assert!(said[1].contains(" port 1 "), "{said:?}");

    let mut late = VdeClient::new(ClientOptions {
        switch: Some(path.clone()),
        port: Some(7),
        description: None,
    })
    .expect("client");
    assert!(late.poll().expect("asks").is_none());
    next(&mut server);
    let said = late.poll().expect_err("taken").to_string();
    assert!(said.contains("the switch refuses"), "{said}");

    drop(seventh);
    until(&mut [&mut server], |s| ports(s[0]) == 1);
    let mut seventh = plug(&path, Some(7));
    until(&mut [&mut server, &mut seventh], |s| ports(s[1]) == 1);
}

/// A client by hand: its data socket and the bytes of a request for it.
fn by_hand(dir: &Path, name: &str, port: Option<u32>) -> (UnixDatagram, Vec<u8>) {
    let path = dir.join(name);
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_nonblocking(true).expect("set");
    let request = Request {
        client: path,
        port,
        description: "by hand".to_owned(),
    };
    (socket, request.encode().expect("fits"))
}

fn v1(v3: &[u8]) -> Vec<u8> {
    // Magic, type, six bytes of an address, and the rest as in version 3.
    [&v3[..4], &v3[8..12], &[0; 6], &v3[12..]].concat()
}

fn connect(path: &Path) -> UnixStream {
    let ctl = UnixStream::connect(path.join("ctl")).expect("connect");
    ctl.set_read_timeout(Some(PATIENCE)).expect("set");
    ctl
}

#[test]
fn both_versions_byte_by_byte() {
    for version in [1, 3] {
        let (dir, path) = place();
        let mut server = serve(&path);
        let (data, request) = by_hand(dir.path(), "client", Some(3));
        let request = if version == 1 { v1(&request) } else { request };
        let mut ctl = connect(&path);
        // The beginning alone is not yet a request.
        ctl.write_all(&request[..50]).expect("write");
        assert_eq!(next(&mut server), None);
        assert_eq!(ports(&server), 0);
        ctl.write_all(&request[50..]).expect("write");
        until(&mut [&mut server], |s| ports(s[0]) == 1);
        let mut answer = [0; ADDRESS_LEN];
        ctl.read_exact(&mut answer).expect("answer");
        let theirs = decode_address(&answer).expect("a path");
        let name = theirs
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        assert!(name.starts_with("003."), "{name}");
        data.connect(&theirs).expect("connect");
        data.send(&frame(OURS, THEIRS, "up")).expect("send");
        assert_eq!(next(&mut server).as_deref(), Some("up"));
        send(&mut server, &frame(THEIRS, OURS, "down"));
        let mut buf = [0; 100];
        let len = data.recv(&mut buf).expect("frame");
        assert_eq!(&buf[14..len], b"down");

        if version == 1 {
            // The goodbye of a client of the second generation.
            data.send(&[]).expect("send");
        } else {
            drop(ctl);
        }
        until(&mut [&mut server], |s| ports(s[0]) == 0);
        assert!(!theirs.exists());
    }
}

/// The switch closes the stream, and says nothing else.
fn is_refused(server: &mut Switch, mut ctl: UnixStream) -> bool {
    next(server);
    assert_eq!(ports(server), 0);
    ctl.set_nonblocking(true).expect("set");
    matches!(ctl.read(&mut [0; 200]), Ok(0))
        || ctl
            .read(&mut [0; 1])
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn who_asks_for_what_there_is_not_is_sent_away() {
    let (dir, path) = place();
    let mut server = serve(&path);
    let (_data, good) = by_hand(dir.path(), "client", None);
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    let naming = |path: &Path| {
        let mut bytes = good.clone();
        bytes[12..12 + ADDRESS_LEN].copy_from_slice(&encode_address(path).expect("fits"));
        bytes
    };
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("client"), &link).expect("link");
    for (what, request) in [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("the management port", with(8, 1)),
        ("a port that there is not", with(8, 257 << 8)),
        ("another version", with(4, 2)),
        ("no socket", naming(Path::new("/dev/null"))),
        ("nothing", naming(Path::new("/nowhere"))),
        ("a link", naming(&link)),
        ("a relative path", naming(Path::new("client"))),
        ("a stream socket", naming(&path.join("ctl"))),
    ] {
        let mut ctl = connect(&path);
        ctl.write_all(&request).expect("write");
        assert!(is_refused(&mut server, ctl), "{what}");
        assert_eq!(names(&path), ["ctl"], "{what}");
    }
    let mut ctl = connect(&path);
    ctl.write_all(&good).expect("write");
    next(&mut server);
    assert_eq!(ports(&server), 1, "the same, unchanged");
}

/// Needs root, who can be two users.
#[test]
fn the_socket_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to be two users");
        return;
    }
    let (dir, path) = place();
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(dir.path(), everybody.clone()).expect("chmod");
    let mut options = SwitchOptions::new(path.clone());
    options.directory_mode = 0o777;
    options.access.mode = 0o666;
    let mut server = Switch::new(OURS).expect("switch");
    let source = VdeSwitch::new(&options).expect("made");
    server.add_source(Box::new(source)).expect("room");
    let (_data, request) = by_hand(dir.path(), "roots", None);
    fs::set_permissions(dir.path().join("roots"), everybody).expect("chmod");
    let file = dir.path().join("request");
    fs::write(&file, &request).expect("write");
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); \
         s.send(open('{}', 'rb').read()); print(len(s.recv(200)))",
        path.join("ctl").display(),
        file.display()
    );
    let child = |user: &str| {
        std::process::Command::new("setpriv")
            .args([
                "--reuid",
                user,
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                &script,
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("setpriv")
    };
    for (user, answer) in [("65534", "0\n"), ("0", "110\n")] {
        let mut child = child(user);
        until(&mut [&mut server], |_| {
            child.try_wait().expect("wait").is_some()
        });
        let output = child.wait_with_output().expect("output");
        assert_eq!(String::from_utf8_lossy(&output.stdout), answer, "{user}");
    }
}

#[test]
fn silent_clients_make_room_and_are_sent_away() {
    let (dir, path) = place();
    let mut server = serve(&path);
    let silent: Vec<_> = (0..MAX_HANDSHAKES + 5).map(|_| connect(&path)).collect();
    for _ in 0..5 {
        next(&mut server);
    }
    let is_closed = |mut ctl: &UnixStream| {
        ctl.set_nonblocking(true).expect("set");
        matches!(ctl.read(&mut [0; 1]), Ok(0))
    };
    let closed = silent.iter().filter(|ctl| is_closed(ctl)).count();
    assert_eq!(closed, 5, "the oldest make room");
    let (_data, request) = by_hand(dir.path(), "client", None);
    let mut ctl = connect(&path);
    ctl.write_all(&request).expect("write");
    until(&mut [&mut server], |s| ports(s[0]) == 1);
    let end = Instant::now() + 2 * PATIENCE;
    while !silent.iter().all(is_closed) {
        assert!(Instant::now() < end, "still there");
        next(&mut server);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ports(&server), 1);
}

#[test]
fn a_switch_that_lives_is_left_alone_and_a_dead_ones_place_is_taken() {
    let (_dir, path) = place();
    let first = serve(&path);
    let said = VdeSwitch::new(&SwitchOptions::new(path.clone()))
        .expect_err("in use")
        .to_string();
    assert!(said.contains("another program listens on"), "{said}");
    drop(first);

    // As it is after a crash.
    fs::create_dir(&path).expect("directory");
    drop(UnixListener::bind(path.join("ctl")).expect("bind"));
    drop(UnixDatagram::bind(path.join("001.9")).expect("bind"));
    let mut second = serve(&path);
    let mut client = plug(&path, None);
    until(&mut [&mut second, &mut client], |s| ports(s[1]) == 1);
    drop((second, client));
    assert!(path.exists(), "a directory that was there stays");
    assert!(!path.join("ctl").exists());
}

#[test]
fn what_is_no_switch_is_named() {
    let (dir, path) = place();
    let said = |path: &Path| {
        let options = ClientOptions {
            switch: Some(path.to_owned()),
            ..ClientOptions::default()
        };
        let mut client = VdeClient::new(options).expect("client");
        let said = client.poll().expect_err("no switch").to_string();
        assert!(client.poll().expect("said once").is_none());
        said
    };
    let missing = said(&path);
    assert!(missing.contains("cannot connect to '"), "{missing}");
    assert!(missing.contains("No such file"), "{missing}");
    // It answers with nothing of use.
    let listener = UnixListener::bind(dir.path().join("ctl")).expect("bind");
    let mut client = VdeClient::new(ClientOptions {
        switch: Some(dir.path().to_owned()),
        ..ClientOptions::default()
    })
    .expect("client");
    assert!(client.poll().expect("asks").is_none());
    let (mut stream, _) = listener.accept().expect("accept");
    stream.write_all(&[0xff; 60]).expect("write");
    assert!(client.poll().expect("half of it").is_none());
    stream.write_all(&[0xff; 60]).expect("write");
    let said = client.poll().expect_err("no answer").to_string();
    assert!(said.contains("names no socket"), "{said}");

    let long = dir.path().join("x".repeat(60));
    let said = VdeSwitch::new(&SwitchOptions::new(long.join("y".repeat(40))))
        .expect_err("no directory")
        .to_string();
    assert!(said.contains("cannot use the directory"), "{said}");
    fs::create_dir(&long).expect("directory");
    let said = VdeSwitch::new(&SwitchOptions::new(long.join("y".repeat(40))))
        .expect_err("too long")
        .to_string();
    assert!(said.contains("too long for a VDE switch"), "{said}");
    assert_eq!(names(&long), [""; 0]);
}

#[test]
fn a_switch_that_does_not_answer_is_given_up() {
    let (dir, path) = place();
    fs::create_dir(&path).expect("directory");
    let listener = UnixListener::bind(path.join("ctl")).expect("bind");
    let mut client = VdeClient::new(ClientOptions {
        switch: Some(path.clone()),
        ..ClientOptions::default()
    })
    .expect("client");
    assert!(client.poll().expect("asks").is_none());
    let (mut stream, _) = listener.accept().expect("accept");
    assert_eq!(names(&path).len(), 2, "ctl, and the client's socket");
    let mut look = [PollFd::new(client.readiness(), PollFlags::POLLIN)];
    let longer = PollTimeout::try_from(ANSWER_TIMEOUT + PATIENCE).expect("time");
    assert_eq!(poll(&mut look, longer), Ok(1), "its own timer wakes it");
    let said = client.poll().expect_err("no answer").to_string();
    assert!(said.contains("did not answer"), "{said}");
    assert_eq!(names(&path), ["ctl"]);
    let mut request = Vec::new();
    stream.read_to_end(&mut request).expect("closed");
    let request = Request::parse(&request).expect("a request");
    assert!(
        request
            .client
            .starts_with(dir.path().canonicalize().expect("path"))
    );
}

/// A client that talks on its control stream, where there is nothing to say.
#[test]
fn a_client_that_talks_out_of_turn_does_not_stop_the_others() {
    let (dir, path) = place();
    let mut server = serve(&path);
    let (_data, request) = by_hand(dir.path(), "client", None);
    let mut ctl = connect(&path);
    ctl.write_all(&request).expect("write");
    until(&mut [&mut server], |s| ports(s[0]) == 1);
    ctl.set_nonblocking(true).expect("set");
    let mut turns = 0;
    let mut buf = vec![0; MAX_FRAME_LEN];
    while turns < 100 {
        while ctl.write(&[0; 4096]).is_ok() {}
        let none = server.recv(&mut buf).expect_err("no frame");
        assert_eq!(none.kind(), io::ErrorKind::Interrupted);
        turns += 1;
    }
    drop(ctl);
    until(&mut [&mut server], |s| ports(s[0]) == 0);
}

/// A client that does not read loses frames, and stays.
#[test]
fn a_slow_client_is_not_disconnected() {
    let (_dir, path) = place();
    let mut server = serve(&path);
    let mut client = plug(&path, None);
    until(&mut [&mut server, &mut client], |s| ports(s[1]) == 1);
    let text = "x".repeat(1400);
    for _ in 0..10_000 {
        send(&mut server, &frame(MacAddr::BROADCAST, OURS, &text));
    }
    next(&mut server);
    let counters = server.ports().next().expect("still there").counters;
    assert!(counters.not_sent > 0, "{counters:?}");
    // What waited comes as the client reads.
    let mut seen = 0;
    until(&mut [&mut server], |_| {
        seen += std::iter::from_fn(|| next(&mut client)).count();
        seen >= usize::try_from(counters.sent).expect("few")
    });
    assert_eq!(seen, usize::try_from(counters.sent).expect("few"));
    send(&mut server, &frame(MacAddr::BROADCAST, OURS, "after"));
    assert_eq!(next(&mut client).as_deref(), Some("after"));
}
