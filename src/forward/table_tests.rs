use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use super::super::PassedSocket;
use super::super::testing::{at_home, here};
use super::*;

/// A guest's side that remembers.
#[derive(Debug, Default)]
struct Guest {
    listening: BTreeMap<u32, HostSocket>,
    exposed: HashMap<(Protocol, u16), HostTarget>,
    next: u32,
    room: usize,
}

impl GuestSide for Guest {
    type Listener = u32;

    fn listen(&mut self, socket: HostSocket) -> io::Result<u32> {
        if self.listening.len() >= self.room {
            return Err(io::Error::other("no room"));
        }
        self.next += 1;
        self.listening.insert(self.next, socket);
        Ok(self.next)
    }

    fn close(&mut self, listener: u32) {
        self.listening.remove(&listener).expect("it was there");
    }

    fn expose(&mut self, protocol: Protocol, port: u16, target: HostTarget) {
        let before = self.exposed.insert((protocol, port), target);
        assert_eq!(before, None);
    }

    fn conceal(&mut self, protocol: Protocol, port: u16) {
        self.exposed
            .remove(&(protocol, port))
            .expect("it was there");
    }
}

fn table() -> (Forwards<u32>, Guest) {
    let guest = Guest {
        room: 100,
        ..Guest::default()
    };
    (Forwards::new(200, Passed::default()), guest)
}

fn publish(text: &str) -> ForwardSpec {
    ForwardSpec::Publish(at_home(text).parse().expect("a forward"))
}

fn expose(text: &str) -> ForwardSpec {
    ForwardSpec::Expose(text.parse().expect("a forward"))
}

#[test]
fn the_same_forward_again_is_the_same() {
    let (mut table, mut guest) = table();
    let spec = publish("HERE::80");
    let first = table
        .add(spec.clone(), Origin::CommandLine, &mut guest)
        .expect("added");
    assert_eq!((first.id.0.get(), first.outcome), (1, Outcome::New));
    let again = table
        .add(spec.clone(), Origin::Control, &mut guest)
        .expect("added");
    assert_eq!((again.id, again.outcome), (first.id, Outcome::AlreadyThere));
    assert_eq!(guest.listening.len(), 1);
    let listed: Vec<ForwardInfo> = table.list().collect();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].spec, listed[0].origin),
        (&spec, Origin::CommandLine)
    );
    assert!(!listed[0].at[0].has_port(PortRange::one(0)), "{listed:?}");

    let removed = table.remove_spec(&spec, &mut guest).expect("was there");
    assert_eq!(removed.id, first.id);
    assert!(guest.listening.is_empty());
    assert!(table.remove(first.id, &mut guest).is_none());
    // Its id is not used again.
    let next = table.add(spec, Origin::Control, &mut guest).expect("added");
    assert_eq!(next.id.0.get(), 2);
}

#[test]
fn a_range_stands_as_a_whole_or_not_at_all() {
    let (mut table, mut guest) = table();
    let range = publish("HERE:20300-20309");
    guest.room = 5;
    let error = table.add(range.clone(), Origin::Control, &mut guest);
    assert!(
        matches!(error, Err(ForwardError::Guest { .. })),
        "{error:?}"
    );
    assert!(guest.listening.is_empty());
    TcpListener::bind((here(), 20300)).expect("free again");
    guest.room = 10;
    table
        .add(range, Origin::Control, &mut guest)
        .expect("added");
    assert_eq!(guest.listening.len(), 10);
    let ports: Vec<u16> = guest.listening.values().map(|s| s.port).collect();
    assert!(ports.into_iter().eq(20300..=20309));
}

#[test]
fn there_is_room_for_so_many_sockets() {
    let (mut table, mut guest) = table();
    let wide = publish("HERE:20400-20500");
    let error = table
        .add(wide, Origin::Control, &mut guest)
        .expect_err("too many");
    let text = error.to_string();
    assert!(text.contains("forwards may have 100, and have 0"), "{text}");
    assert!(text.contains("ulimit -n"), "{text}");
    let fits = publish("HERE:20400-20499");
    table
        .add(fits.clone(), Origin::Control, &mut guest)
        .expect("added");
    let one_more = publish("HERE::80");
    table
        .add(one_more.clone(), Origin::Control, &mut guest)
        .expect_err("full");
    table.remove_spec(&fits, &mut guest).expect("was there");
    table
        .add(one_more, Origin::Control, &mut guest)
        .expect("room again");
}

#[test]
fn forwards_are_bounded() {
    let (mut table, mut guest) = table();
    for port in 1..=u16::try_from(MAX_FORWARDS).expect("fits") {
        table
            .add(expose(&port.to_string()), Origin::Control, &mut guest)
            .expect("added");
    }
    let error = table.add(expose("50000"), Origin::Control, &mut guest);
    assert!(
        matches!(error, Err(ForwardError::TooManyForwards)),
        "{error:?}"
    );
    // The same again is no new one.
    table
        .add(expose("1"), Origin::Control, &mut guest)
        .expect("there");
}

#[test]
fn exposed_ports_lead_somewhere_and_are_taken_back() {
    let (mut table, mut guest) = table();
    table
        .add(
            expose("5000-5002:6000-6002/udp"),
            Origin::Control,
            &mut guest,
        )
        .expect("added");
    let socket = table
        .add(expose("unix:/run/x.sock:80"), Origin::Control, &mut guest)
        .expect("added");
    assert_eq!(
        guest.exposed[&(Protocol::Udp, 6002)],
        HostTarget::Loopback(5002)
    );
    assert_eq!(
        guest.exposed[&(Protocol::Tcp, 80)],
        HostTarget::Unix(std::path::Path::new("/run/x.sock").into())
    );
    let error = table.add(expose("7000:6001/udp"), Origin::Control, &mut guest);
    let text = error.expect_err("taken").to_string();
    assert!(
        text.contains("a port that forward 1 has, --expose-host 5000-5002:6000-6002/udp;"),
        "{text}"
    );
    table
        .add(expose("7000:6001/tcp"), Origin::Control, &mut guest)
        .expect("another protocol");
    table.remove(socket.id, &mut guest).expect("was there");
    assert!(!guest.exposed.contains_key(&(Protocol::Tcp, 80)));
    assert_eq!(guest.exposed.len(), 4);
}

#[test]
fn a_forward_of_ones_own_in_the_way_is_named() {
    let (mut table, mut guest) = table();
    table
        .add(publish("HERE:20600:80"), Origin::CommandLine, &mut guest)
        .expect("added");
    let error = table.add(publish("20600:81"), Origin::Control, &mut guest);
    let text = error.expect_err("taken").to_string();
    assert!(
        text.contains(&at_home("forward 1 has, --publish HERE:20600:80/tcp;")),
        "{text}"
    );
}

#[test]
fn what_was_published_by_itself_gives_way() {
    let (mut table, mut guest) = table();
    let auto = publish("HERE:20700:20700");
    table.add(auto, Origin::Auto, &mut guest).expect("added");
    assert_eq!(
        table
            .published_at(Protocol::Tcp, 20700)
            .map(|(_, origin)| origin),
        Some(Origin::Auto)
    );
    let named = table
        .add(publish("HERE:20700:80"), Origin::Control, &mut guest)
        .expect("takes its place");
    assert_eq!(table.list().count(), 1);
    assert_eq!(
        table.published_at(Protocol::Tcp, 20700),
        Some((named.id, Origin::Control))
    );
    assert_eq!(table.published_at(Protocol::Udp, 20700), None);
}

#[test]
fn unix_sockets_go_with_their_forward() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    let (mut table, mut guest) = table();
    let spec = publish(&format!("unix:{}:8080", path.display()));
    let added = table.add(spec, Origin::Control, &mut guest).expect("added");
    std::os::unix::net::UnixStream::connect(&path).expect("connects");
    let info = table.get(added.id).expect("there");
    assert_eq!(info.at[0].to_string(), format!("unix:{}", path.display()));
    table.remove(added.id, &mut guest).expect("was there");
    assert!(!path.exists());
}

#[test]
fn adding_and_removing_leaves_nothing_open() {
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let (mut table, mut guest) = table();
    let folder = tempfile::tempdir().expect("a folder");
    let specs = [
        publish("HERE::80"),
        publish("HERE:20800-20849/udp"),
        publish(&format!("unix:{}/x:80", folder.path().display())),
        expose("5432"),
    ];
    let before = open();
    for _ in 0..100 {
        for spec in &specs {
            table
                .add(spec.clone(), Origin::Control, &mut guest)
                .expect("added");
        }
        for spec in &specs {
            table.remove_spec(spec, &mut guest).expect("was there");
        }
    }
    assert_eq!(open(), before);
    assert_eq!((table.sockets, table.ids.len()), (0, 0));
    assert!(guest.listening.is_empty() && guest.exposed.is_empty());
}

#[test]
fn passed_sockets_are_used() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let passed = Passed::new(vec![PassedSocket {
        name: "web".to_owned(),
        socket: OwnedFd::from(listener),
    }]);
    let mut table = Forwards::new(200, passed);
    let (_, mut guest) = self::table();
    let added = table
        .add(publish("systemd:web:80"), Origin::CommandLine, &mut guest)
        .expect("added");
    let info = table.get(added.id).expect("there");
    assert_eq!(info.at[0].to_string(), at.to_string());
    assert_eq!(table.passed().names().count(), 0);
    TcpStream::connect(at).expect("connects");
    let text = serde_json::to_string(&info).expect("JSON");
    assert_eq!(
        text,
        format!(
            r#"{{"id":1,"spec":{{"publish":"systemd:web:80/tcp"}},"origin":"command_line","at":["{at}"]}}"#
        )
    );
    let error = table.add(publish("systemd:80"), Origin::Control, &mut guest);
    assert!(
        matches!(error, Err(ForwardError::Passed { .. })),
        "{error:?}"
    );
}
