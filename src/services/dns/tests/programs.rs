//! Against programs that people use: `dig` asks, `dnsmasq` knows.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, Command};

use super::super::testing::{config, plan};
use super::super::{Resolver, Transport};
use crate::config::DnsConfig;

const DNSMASQ: &[&str] = &[
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--pid-file=",
    "--no-resolv",
    "--no-hosts",
    "--listen-address=127.0.0.1",
    "--bind-interfaces",
    "--local=/#/",
    "--host-record=one.a.example,192.0.2.1,2001:db8::1",
    "--host-record=two.b.example,192.0.2.2",
    "--mx-host=b.example,mx.b.example,10",
    "--srv-host=_sip._udp.b.example,sip.b.example,5060,1,2",
    "--caa-record=b.example,0,issue,ca.example",
    "--dns-rr=b.example,65,00010000010003026833",
    "--dns-rr=_443._tcp.b.example,52,030101abcd",
    "--dns-rr=b.example,65280,c0ffee",
    "--ptr-record=9.2.0.192.in-addr.arpa,nine.example",
];

/// A port free at this moment, on UDP and TCP.
async fn free_port() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    tcp.local_addr().expect("address")
}

/// Starts `dnsmasq`; `None`: there is none here.
async fn dnsmasq(at: SocketAddr) -> Option<Child> {
    let port = format!("--port={}", at.port());
    // A long answer: thirty texts of 200 bytes.
    let text = |i| format!("--txt-record=long.example,{i:0>200}");
    let mut command = Command::new("dnsmasq");
    command.args(DNSMASQ).arg(port).args((0..30).map(text));
    command
        .kill_on_drop(true)
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

/// Serves UDP and TCP on real sockets, as the gateway does for its guests.
async fn serve(resolver: &Resolver, udp: UdpSocket, tcp: TcpListener) {
    let datagrams = async {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
            if let Some(answer) = resolver.answer(&buffer[..len], Transport::Udp).await {
                let _ = udp.send_to(&answer, from).await;
            }
        }
    };
    let streams = async {
        while let Ok((stream, _)) = tcp.accept().await {
            resolver.serve_stream(stream).await;
        }
    };
    tokio::join!(datagrams, streams);
}

async fn dig(at: SocketAddr, args: &str) -> std::io::Result<Output> {
    let mut command = Command::new("dig");
    command
        .arg("@127.0.0.1")
        .arg("-p")
        .arg(at.port().to_string());
    command.args(["+tries=1", "+time=5", "+noall", "+answer", "+comments"]);
    command
        .args(args.split(' '))
        .kill_on_drop(true)
        .output()
        .await
}

async fn wait_until_it_answers(at: SocketAddr) {
    while !dig(at, "one.a.example A")
        .await
        .is_ok_and(|o| o.status.success())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The status and the data of the answers, without names and times to live.
fn summary(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut parts = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            parts.push(rest.split(',').next().unwrap_or_default().to_owned());
        } else if !line.starts_with(';') && !line.is_empty() {
            parts.push(
                line.split_whitespace()
                    .skip(3)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    parts.join("; ")
}

#[tokio::test]
async fn dig_and_dnsmasq() {
    let upstream = free_port().await;
    let Some(_dnsmasq) = dnsmasq(upstream).await else {
        return eprintln!("SKIPPED: dnsmasq is not installed (Debian: dnsmasq-base)");
    };
    let config = DnsConfig {
        upstreams: vec![upstream],
        search: Some(vec!["a.example".into(), "b.example".into()]),
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let at = tcp.local_addr().expect("address");
    let udp = UdpSocket::bind(at).await.expect("socket");
    let check = async {
        let ready = wait_until_it_answers(upstream);
        tokio::time::timeout(Duration::from_secs(10), ready)
            .await
            .expect("dnsmasq answers");
        for (args, expected) in [
            ("one.a.example A", "NOERROR; A 192.0.2.1"),
            ("+tcp one.a.example AAAA", "NOERROR; AAAA 2001:db8::1"),
            ("one A", "NOERROR; CNAME one.a.example.; A 192.0.2.1"),
            (
                "+noedns two A",
                "NOERROR; CNAME two.b.example.; A 192.0.2.2",
            ),
            ("two AAAA", "NOERROR; CNAME two.b.example."),
            ("none A", "NXDOMAIN"),
            ("b.example MX", "NOERROR; MX 10 mx.b.example."),
            (
                "_sip._udp.b.example SRV",
                "NOERROR; SRV 1 2 5060 sip.b.example.",
            ),
            ("b.example CAA", "NOERROR; CAA 0 issue \"ca.example\""),
            ("b.example HTTPS", "NOERROR; HTTPS 1 . alpn=\"h3\""),
            ("_443._tcp.b.example TLSA", "NOERROR; TLSA 3 1 1 ABCD"),
            ("b.example TYPE65280", "NOERROR; TYPE65280 \\# 3 C0FFEE"),
            ("-x 192.0.2.9", "NOERROR; PTR nine.example."),
            ("-x 10.0.2.2", "NOERROR; PTR gateway.gw.internal."),
            ("-x fd00::3", "NOERROR; PTR dns.gw.internal."),
            ("host.containers.internal A", "NOERROR; A 10.0.2.2"),
            ("example AXFR", "NOTIMP"),
        ] {
            let output = dig(at, args).await.expect("dig");
            assert_eq!(summary(&output), expected, "dig {args}");
        }
        // Cut by UDP, asked again by TCP: all thirty.
        for args in [
            "long.example TXT",
            "+bufsize=512 long.example TXT",
            "+noedns long.example TXT",
        ] {
            let output = dig(at, args).await.expect("dig");
            assert_eq!(summary(&output).matches("TXT").count(), 30, "dig {args}");
        }
        let output = dig(at, "+ignore +bufsize=1000 long.example TXT")
            .await
            .expect("dig");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(" tc "),
            "cut"
        );
    };
    match dig(at, "-v").await {
        Ok(_) => tokio::select! {
            () = serve(&resolver, udp, tcp) => panic!("the server ended"),
            () = check => {}
        },
        Err(_) => eprintln!("SKIPPED: dig is not installed (Debian: bind9-dnsutils)"),
    }
}
