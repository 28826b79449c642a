//! Byte for byte what clients of slirp4netns know.

use super::*;
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::control::Command;
use crate::control::proto::Forward;
use crate::forward::Origin;

const GUESTS: Guests = Guests {
    v4: Some(Ipv4Addr::new(10, 0, 2, 100)),
    v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100)),
};

fn with_server<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (asker, commands) = Asker::new();
        let listener = UnixListener::bind(&path).expect("binds");
        tokio::task::spawn_local(serve(listener, asker, Rc::new(GUESTS)));
        tokio::task::spawn_local(table(commands));
        test(path).await;
    });
}

/// A table of forwards without sockets; port 81 is taken.
async fn table(mut commands: mpsc::Receiver<Command>) {
    let mut forwards: Vec<Forward> = Vec::new();
    let mut last = 0;
    while let Some(command) = commands.recv().await {
        let reply = match command.request {
            Request::ForwardAdd { forward, again } => {
                assert_eq!(again, Again::Refuse);
                let text = forward.to_string();
                if text.contains(":81:") || forwards.iter().any(|f| f.forward == forward) {
                    Err(RequestError::Refused("taken".to_owned()))
                } else {
                    last += 1;
                    let id = ForwardId(NonZeroU32::new(last).expect("not 0"));
                    forwards.push(Forward {
                        id,
                        forward,
                        origin: Origin::Control,
                        at: Vec::new(),
                    });
                    Ok(Reply::Forward { id })
                }
            }
            Request::ForwardRemove {
                forward: ForwardRef::Id(id),
            } => {
                let before = forwards.len();
                forwards.retain(|f| f.id != id);
                if forwards.len() < before {
                    Ok(Reply::Done {})
                } else {
                    Err(RequestError::NotFound("gone".to_owned()))
                }
            }
            Request::ForwardList { .. } => Ok(Reply::Forwards {
                forwards: forwards.clone(),
                next: None,
            }),
            other => panic!("{other:?}"),
        };
        let _ = command.reply.send(reply);
    }
}

/// Sends `request` as Podman does, and reads to the end.
async fn ask(path: &std::path::Path, request: &[u8]) -> String {
    let mut client = UnixStream::connect(path).await.expect("connects");
    client.write_all(request).await.expect("writes");
    client.shutdown().await.expect("half a close");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("reads");
    answer
}

fn failed(desc: &str) -> String {
    format!(r#"{{"error":{{"desc":"bad request: {desc}"}}}}"#)
}

#[test]
fn ports_come_and_go() {
    with_server(async |path| {
        let add =
            |arguments: &str| format!(r#"{{"execute":"add_hostfwd","arguments":{arguments}}}"#);
        let list = r#"{"execute":"list_hostfwd"}"#;
        for (request, answer) in [
            (list.to_owned(), r#"{"return":{"entries":[]},"entries":[]}"#.to_owned()),
            (
                add(r#"{"proto":"tcp","host_addr":"127.0.0.1","host_port":18080,"guest_addr":"10.0.2.100","guest_port":80}"#),
                r#"{"return":{"id":1}}"#.to_owned(),
            ),
            (
                list.to_owned(),
                r#"{"return":{"entries":[{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":18080,"guest_addr":"10.0.2.100","guest_port":80}]},"entries":[{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":18080,"guest_addr":"10.0.2.100","guest_port":80}]}"#.to_owned(),
            ),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#.to_owned(),
                r#"{"return":{}}"#.to_owned(),
            ),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#.to_owned(),
                failed("remove_hostfwd: bad arguments.id"),
            ),
            (
                add(r#"{"proto":"udp","host_addr":"","host_port":53,"guest_addr":"","guest_port":53.0}"#),
                r#"{"return":{"id":2}}"#.to_owned(),
            ),
            (
                add(r#"{"proto":"udp","host_port":53,"guest_port":53}"#),
                failed("add_hostfwd: slirp_add_hostfwd failed"),
            ),
            (
                add(r#"{"proto":"tcp","host_port":81,"guest_port":80}"#),
                failed("add_hostfwd: slirp_add_hostfwd failed"),
            ),
            (
                add(r#"{"proto":"tcp","host_addr":"::1","host_port":80,"guest_port":80}"#),
                r#"{"return":{"id":3}}"#.to_owned(),
            ),
            (
                list.to_owned(),
                {
                    let entries = r#"[{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":53,"guest_addr":"10.0.2.100","guest_port":53},{"id":3,"proto":"tcp","host_addr":"::1","host_port":80,"guest_addr":"10.0.2.100","guest_port":80}]"#;
                    format!(r#"{{"return":{{"entries":{entries}}},"entries":{entries}}}"#)
                },
            ),
        ] {
            assert_eq!(ask(&path, (request.clone() + "\n").as_bytes()).await, answer, "{request}");
        }
    });
}

#[test]
fn mistakes_are_answered_in_slirp4netns_s_words() {
    with_server(async |path| {
        let bad = |field: &str| failed(&format!("add_hostfwd: bad arguments.{field}"));
        let not_json = failed("cannot parse JSON");
        let add =
            |arguments: &str| format!(r#"{{"execute":"add_hostfwd","arguments":{arguments}}}"#);
        for (request, answer) in [
            (String::new(), not_json.clone()),
            ("{".to_owned(), not_json.clone()),
            ("nonsense".to_owned(), not_json.clone()),
            ("[".repeat(4000), not_json.clone()),
            ("[]".to_owned(), failed("json_object() failed")),
            ("12".to_owned(), failed("json_object() failed")),
            ("null".to_owned(), failed("json_object() failed")),
            ("{}".to_owned(), failed("no execute found")),
            (r#"{"execute":3}"#.to_owned(), failed("no execute found")),
            (r#"{"execute":"?"}"#.to_owned(), failed("unknown execute")),
            (
                r#"{"execute":"?"} trailing"#.to_owned(),
                failed("unknown execute"),
            ),
            (r#"{"execute":"add_hostfwd"}"#.to_owned(), bad("proto")),
            (add("[]"), bad("proto")),
            (add(r#"{"host_addr":"x"}"#), bad("proto")),
            (add(r#"{"proto":"sctp","host_addr":"x"}"#), bad("proto")),
            (add(r#"{"proto":"tcp","host_addr":"x"}"#), bad("host_addr")),
            (add(r#"{"proto":"tcp","host_addr":7}"#), bad("host_addr")),
            (add(r#"{"proto":"tcp","guest_addr":"x"}"#), bad("host_port")),
            (add(r#"{"proto":"tcp","host_port":0}"#), bad("host_port")),
            (
                add(r#"{"proto":"tcp","host_port":65536}"#),
                bad("host_port"),
            ),
            (add(r#"{"proto":"tcp","host_port":-1}"#), bad("host_port")),
            (add(r#"{"proto":"tcp","host_port":8.5}"#), bad("host_port")),
            (add(r#"{"proto":"tcp","host_port":"80"}"#), bad("host_port")),
            (
                add(r#"{"proto":"tcp","host_port":1e300}"#),
                bad("host_port"),
            ),
            (
                add(r#"{"proto":"tcp","host_port":80,"guest_addr":"localhost"}"#),
                bad("guest_addr"),
            ),
            (
                add(r#"{"proto":"tcp","host_port":80,"guest_addr":"::1","guest_port":80}"#),
                bad("guest_addr"),
            ),
            (
                add(r#"{"proto":"tcp","host_port":80,"host_addr":"224.0.0.1","guest_port":80}"#),
                failed("add_hostfwd: slirp_add_hostfwd failed"),
            ),
            (
                r#"{"execute":"list_hostfwd","execute":"list_hostfwd"}"#.to_owned(),
                not_json.clone(),
            ),
            (add(r#"{"proto":"tcp","host_port":80}"#), bad("guest_port")),
            (
                add(r#"{"proto":"tcp","host_port":80,"guest_port":null}"#),
                bad("guest_port"),
            ),
            (
                r#"{"execute":"remove_hostfwd"}"#.to_owned(),
                failed("remove_hostfwd: bad arguments.id"),
            ),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#.to_owned(),
                failed("remove_hostfwd: bad arguments.id"),
            ),
            (" ".repeat(4095), not_json.clone()),
            (" ".repeat(4096), failed("too large message")),
            ("x".repeat(90_000), failed("too large message")),
            (
                format!("{{\"x\":\"{}\"}}", "y".repeat(90_000)),
                failed("too large message"),
            ),
        ] {
            let start: String = request.chars().take(80).collect();
            assert_eq!(ask(&path, request.as_bytes()).await, answer, "{start}");
        }
        assert_eq!(ask(&path, b"{\"execute\":\"\xff\"}").await, not_json);
    });
}

#[test]
fn a_request_is_complete_with_its_value() {
    with_server(async |path| {
        let mut client = UnixStream::connect(&path).await.expect("connects");
        for byte in br#"{"execute":"list_hostfwd"}"# {
            client.write_all(&[*byte]).await.expect("writes");
            tokio::task::yield_now().await;
        }
        // Without the client's end: the server's comes first.
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer, r#"{"return":{"entries":[]},"entries":[]}"#);
    });
}

#[test]
fn idle_clients_time_out_and_do_not_keep_others_out() {
    with_server(async |path| {
        let mut idle = Vec::new();
        for _ in 0..MAX_CLIENTS + 10 {
            let mut client = UnixStream::connect(&path).await.expect("connects");
            client.write_all(b"{\"execute\":").await.expect("writes");
            idle.push(client);
        }
        let started = Instant::now();
        let answer = ask(&path, br#"{"execute":"list_hostfwd"}"#).await;
        assert!(answer.starts_with("{\"return\""), "{answer}");
        assert!(started.elapsed() >= DEADLINE, "everybody had a turn");
        let mut answer = String::new();
        idle[0].read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer, failed("cannot parse JSON"));
    });
}

#[test]
fn ranges_are_listed_port_by_port() {
    let id = ForwardId(NonZeroU32::MIN);
    let ports = |text: &str| {
        let publish = Publish::try_from(text.to_owned()).expect("a forward");
        let entries = ports_of(id, &publish, &GUESTS);
        let show = |e: Entry| {
            let (host, guest) = (e.host_addr, e.guest_addr);
            format!(
                "{} {host} {} {guest} {}",
                e.proto, e.host_port, e.guest_port
            )
        };
        entries.into_iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(
        ports("8000-8001:9000-9001/udp"),
        [
            "udp 0.0.0.0 8000 10.0.2.100 9000",
            "udp 0.0.0.0 8001 10.0.2.100 9001"
        ]
    );
    assert_eq!(ports("[::]:80:80"), ["tcp :: 80 10.0.2.100 80"]);
    assert!(ports("unix:/run/x.sock:80").is_empty());
}

proptest! {
    #[test]
    fn json_is_read_as_others_read_it(text in r#"(\[|\]|\{|\}|"[ab]"|:|,|-?[0-9.]{1,3}|true|null| ){0,12}"#) {
        let bytes = text.as_bytes();
        let theirs = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().next();
        match (value(bytes), theirs) {
            (Some(Ok(ours)), Some(Ok(theirs))) => prop_assert_eq!(ours, theirs),
            // Not complete; or a member twice.
            (None, Some(Err(error))) => prop_assert!(error.is_eof()),
            (None, None) | (Some(Err(_)), _) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?}, {theirs:?}"),
        }
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        fuzz(&bytes);
    }

    #[test]
    fn any_arguments_are_checked(
        proto in "tcp|udp|x", host in "|127.0.0.1|::1|x", host_port: f64, port: u16, guest in "|10.0.2.100|x",
    ) {
        let request = serde_json::json!({"execute": "add_hostfwd", "arguments": {
            "proto": proto, "host_addr": host, "host_port": port, "guest_addr": guest,
            "guest_port": host_port,
        }});
        if let Ok(Execute::Add(publish)) = parse(&request, &GUESTS) {
            prop_assert!(host_port.fract() == 0.0 && host_port > 0.0);
            prop_assert!(!publish.to_string().is_empty());
        }
    }
}
