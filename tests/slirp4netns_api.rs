//! slirp4netns's API on a whole gateway, whose link leads nowhere: what clients
//! send and get, byte for byte, and what the forwards do.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gw::config::{Config, Configure, GuestSockets, IcmpPolicy, InterfaceConfig, ObserveConfig};
use gw::gateway::{Gateway, Inherited, StopReason};
use gw::net::{AddressPlan, MacAddr, Mtu, Offload, PlanV4, PlanV6};
use gw::policy::HostLoopback;
use gw::tap::{Caps, Link, Medium, Received};

/// A link without a guest.
#[derive(Debug)]
struct Nowhere {
    ours: UnixDatagram,
    _guests: UnixDatagram,
}

impl Nowhere {
    fn new() -> Self {
        let (ours, guests) = UnixDatagram::pair().expect("a pair");
        ours.set_nonblocking(true).expect("non-blocking");
        Self {
            ours,
            _guests: guests,
        }
    }
}

impl Link for Nowhere {
    fn caps(&self) -> Caps {
        Caps {
            medium: Medium::Ethernet,
            checksum: true,
            tso: true,
            uso: true,
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let len = self.ours.recv(buf)?;
        Ok(Received {
            len,
            offload: Offload::default(),
        })
    }

    fn send(&mut self, _offload: &Offload, _frame: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
}

fn config(api: &Path) -> Config {
    let v4 = PlanV4::new("10.0.2.0/24".parse().expect("a network"));
    let v6 = PlanV6::new("fd00::/64".parse().expect("a network"));
    Config {
        plan: AddressPlan {
            v4: Some(v4.expect("a plan")),
            v6: Some(v6.expect("a plan")),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            mtu: Mtu::ETHERNET,
        },
        interface: InterfaceConfig {
            name: "tap0".to_owned(),
            mac: None,
            configure: Configure::Static,
            guest_sockets: GuestSockets::Unseen,
            processes: GuestSockets::Unseen,
        },
        host_loopback: HostLoopback::Closed,
        outbound4: None,
        outbound6: None,
        dns: None,
        icmp: IcmpPolicy::GatewayOnly,
        forwards: Vec::new(),
        auto_publish: None,
        observe: ObserveConfig::default(),
        impairments: Vec::new(),
        memory: gw::config::DEFAULT_MEMORY,
        ready_fd: None,
        exit_fd: None,
        pid_file: None,
        control: None,
        slirp4netns_api: Some(api.to_owned()),
    }
}

/// Runs `client` beside a gateway.
fn with_gateway(client: impl FnOnce(&Path) + Send + 'static) -> PathBuf {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("api");
    // What was there before makes way.
    std::fs::write(&path, "left behind").expect("writes");
    let config = config(&path);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (done, stop) = tokio::sync::oneshot::channel();
    let mut thread = None;
    let ended = runtime.block_on(async {
        let gateway = Gateway::new(&config, Box::new(Nowhere::new()), Inherited::default())
            .expect("a gateway");
        let ready = || {
            let path = path.clone();
            thread = Some(std::thread::spawn(move || {
                client(&path);
                let _ = done.send(());
            }));
        };
        let stop = async {
            let _ = stop.await;
            StopReason::ExitFd
        };
        gateway.run(ready, stop).await
    });
    ended.expect("ran");
    let client = thread.expect("got ready").join();
    client.expect("the client is content");
    assert!(!path.exists(), "the socket goes with the gateway");
    path
}

/// As Podman and rootlesskit do it: the request and its end, then all of the
/// answer.
fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("connects");
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a limit");
    stream.write_all(request.as_bytes()).expect("writes");
    stream.shutdown(Shutdown::Write).expect("half a close");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("reads to the end");
    answer
}

fn add(proto: &str, host_addr: &str, host_port: u16, guest_port: u16) -> String {
    format!(
        "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"{proto}\",\"host_addr\":\
         \"{host_addr}\",\"host_port\":{host_port},\"guest_addr\":\"\",\"guest_port\":{guest_port}}}}}\n"
    )
}

/// A port that nobody has; nobody takes it soon either.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").port()
}

#[test]
fn ports_are_published_listed_and_taken_back() {
    with_gateway(|path| {
        let mode = path.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o022, 0, "only its owner may connect");
        let (tcp, udp) = (free_port(), free_port());
        let list = "{\"execute\":\"list_hostfwd\"}\n";
        let listed = |entries: &str| {
            format!("{{\"return\":{{\"entries\":[{entries}]}},\"entries\":[{entries}]}}")
        };
        assert_eq!(ask(path, list), listed(""));
        assert_eq!(
            ask(path, &add("tcp", "127.0.0.1", tcp, 80)),
            "{\"return\":{\"id\":1}}"
        );
        assert_eq!(
            ask(path, &add("udp", "127.0.0.1", udp, 53)),
            "{\"return\":{\"id\":2}}"
        );
        let first = format!(
            "{{\"id\":1,\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{tcp},\
             \"guest_addr\":\"10.0.2.100\",\"guest_port\":80}}"
        );
        let second = format!(
            "{{\"id\":2,\"proto\":\"udp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{udp},\
             \"guest_addr\":\"10.0.2.100\",\"guest_port\":53}}"
        );
        assert_eq!(ask(path, list), listed(&format!("{first},{second}")));
        // They are there.
        TcpListener::bind(("127.0.0.1", tcp)).expect_err("taken");
        UdpSocket::bind(("127.0.0.1", udp)).expect_err("taken");
        TcpStream::connect(("127.0.0.1", tcp)).expect("listens");
        let failed =
            "{\"error\":{\"desc\":\"bad request: add_hostfwd: slirp_add_hostfwd failed\"}}";
        assert_eq!(ask(path, &add("tcp", "127.0.0.1", tcp, 80)), failed);
        assert_eq!(ask(path, &add("tcp", "127.0.0.1", tcp, 81)), failed);
        assert_eq!(ask(path, &add("tcp", "192.0.2.77", tcp, 80)), failed);

        let remove = "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":1}}\n";
        assert_eq!(ask(path, remove), "{\"return\":{}}");
        let gone = "{\"error\":{\"desc\":\"bad request: remove_hostfwd: bad arguments.id\"}}";
        assert_eq!(ask(path, remove), gone);
        drop(TcpListener::bind(("127.0.0.1", tcp)).expect("free again"));
        assert_eq!(ask(path, list), listed(&second));
        // Ids are not used again.
        assert_eq!(
            ask(path, &add("tcp", "", tcp, 80)),
            "{\"return\":{\"id\":3}}"
        );
    });
}

#[test]
fn ipv6_is_published_too() {
    with_gateway(|path| {
        let port = free_port();
        assert_eq!(
            ask(path, &add("tcp", "::1", port, 80)),
            "{\"return\":{\"id\":1}}"
        );
        TcpStream::connect(("::1", port)).expect("listens");
        let list = ask(path, "{\"execute\":\"list_hostfwd\"}");
        let entry =
            format!("\"host_addr\":\"::1\",\"host_port\":{port},\"guest_addr\":\"10.0.2.100\"");
        assert!(list.contains(&entry), "{list}");
    });
}

#[test]
fn a_crowd_is_served() {
    with_gateway(|path| {
        // They neither ask nor go.
        let idle: Vec<_> = (0..40)
            .map(|_| UnixStream::connect(path).expect("connects"))
            .collect();
        let clients: Vec<_> = (0..100)
            .map(|_| {
                let path = path.to_owned();
                std::thread::spawn(move || ask(&path, "{\"execute\":\"list_hostfwd\"}\n"))
            })
            .collect();
        for client in clients {
            let answer = client.join().expect("served");
            assert_eq!(answer, "{\"return\":{\"entries\":[]},\"entries\":[]}");
        }
        drop(idle);
        // Gone before the answer.
        for request in [
            "",
            "{",
            "{\"execute\":\"list_hostfwd\"}\n",
            &"x".repeat(5000),
        ] {
            let mut rude = UnixStream::connect(path).expect("connects");
            let _ = rude.write_all(request.as_bytes());
        }
        assert!(ask(path, "{\"execute\":\"list_hostfwd\"}").starts_with("{\"return\""));
    });
}
