use proptest::prelude::*;

use super::*;
use crate::forward::ForwardSpec;

fn publish(text: &str) -> Publish {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Each form and how it is written in full.
#[test]
fn published_forms() {
    for (text, full) in [
        ("8080", "8080:8080/tcp"),
        ("8080:80", "8080:80/tcp"),
        ("8080:80/udp", "8080:80/udp"),
        ("8080:80/TCP", "8080:80/tcp"),
        ("53/udp", "53:53/udp"),
        ("127.0.0.1:8080", "127.0.0.1:8080:8080/tcp"),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
        ("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp"),
        ("[::]:8080:80", "[::]:8080:80/tcp"),
        ("[::1]:8080:80/udp", "[::1]:8080:80/udp"),
        ("[2001:db8:0::1]:80", "[2001:db8::1]:80:80/tcp"),
        ("8000-8010:9000-9010", "8000-8010:9000-9010/tcp"),
        ("8000-8010", "8000-8010:8000-8010/tcp"),
        ("8000-8000:80", "8000:80/tcp"),
        ("192.0.2.1%eth0:80:80", "192.0.2.1%eth0:80:80/tcp"),
        ("%eth0:80", "%eth0:80:80/tcp"),
        ("%eth0:8080:80", "%eth0:8080:80/tcp"),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80:80/tcp"),
        ("8080:10.0.2.100:80", "8080:10.0.2.100:80/tcp"),
        ("8080:[fd00::100]:80", "8080:[fd00::100]:80/tcp"),
        (
            "127.0.0.1:8000-8001:10.0.2.7:80-81/udp",
            "127.0.0.1:8000-8001:10.0.2.7:80-81/udp",
        ),
        ("[::1]:8080:[fd00::100]:80", "[::1]:8080:[fd00::100]:80/tcp"),
        ("127.0.0.1::80", "127.0.0.1::80/tcp"),
        ("127.0.0.1:0:80", "127.0.0.1::80/tcp"),
        ("[::1]::80", "[::1]::80/tcp"),
        ("%eth0::80", "%eth0::80/tcp"),
        ("0:80", "0:80/tcp"),
        ("127.0.0.1::10.0.2.7:80", "127.0.0.1::10.0.2.7:80/tcp"),
        ("unix:/run/x.sock:8080", "unix:/run/x.sock:8080"),
        ("unix:/run/x.sock:8080/tcp", "unix:/run/x.sock:8080"),
        ("unix:/run/a:b/x:8080", "unix:/run/a:b/x:8080"),
        ("unix:x:80", "unix:x:80"),
        ("systemd:80", "systemd:80/tcp"),
        ("systemd:web.socket:80", "systemd:web.socket:80/tcp"),
        ("systemd:dns:53/udp", "systemd:dns:53/udp"),
    ] {
        let parsed = publish(text);
        assert_eq!(parsed.to_string(), full, "{text}");
        assert_eq!(publish(full), parsed, "{text}");
    }
}

#[test]
fn what_a_publication_is_made_of() {
    let expected = Publish {
        protocol: Protocol::Udp,
        host: PublishAt::Ports {
            addr: Some(IpAddr::from([192, 0, 2, 1])),
            interface: Some("eth0".to_owned()),
            ports: PortRange {
                first: 8000,
                last: 8001,
            },
        },
        guest: Some(IpAddr::from([10, 0, 2, 7])),
        guest_ports: PortRange {
            first: 80,
            last: 81,
        },
    };
    assert_eq!(
        publish("192.0.2.1%eth0:8000-8001:10.0.2.7:80-81/udp"),
        expected
    );
}

#[test]
fn refused_publications_say_why_and_show_the_forms() {
    for (text, why) in [
        ("", "nothing is to be published"),
        ("80/sctp", "SCTP is not carried; tcp and udp are"),
        ("80/icmp", "'icmp' is no protocol"),
        ("80/", "'' is no protocol"),
        ("http", "'http' is no port"),
        ("8080:http", "'http' is no port"),
        ("localhost:8080:80", "'localhost' is no address"),
        ("8080:web:80", "'web' is no address"),
        ("8080:", "'' is no port"),
        (":80", "'' is no port"),
        ("+80", "'+80' is no port"),
        ("65536", "'65536' is no port"),
        (
            "8010-8000",
            "the range 8010-8000 is empty; 8000-8010 is meant",
        ),
        (
            "8000-8010:80",
            "8000-8010 are 11 ports and 80 are 1: give both sides as many",
        ),
        ("8000-8010-8020", "'8010-8020' is no port"),
        ("0", "port 0 stands for one that the system chooses"),
        ("80:0", "port 0 stands for"),
        ("0-10:0-10", "port 0 stands for"),
        ("127.0.0.1::80-81", "port 0 stands for"),
        ("127.0.0.1", "'' is no port"),
        ("127.0.0.1:", "'' is no port"),
        ("127.0.0.256:80", "'127.0.0.256' is no address"),
        ("::1:8080:80", "put it in brackets"),
        ("2001:db8:1:2:3:4:5:6:80:80", "put it in brackets"),
        ("fe80::1:80", "put it in brackets"),
        ("[::1:8080:80", "is no address"),
        ("[::1]8080:80", "is no address"),
        ("[127.0.0.1]:80", "'127.0.0.1' is no address"),
        ("[::ffff:127.0.0.1]:80", "holds an IPv4 address"),
        ("[fe80::1]:80", "fe80::1 is link-local; name its interface"),
        ("224.0.0.1:80", "224.0.0.1 is not an address to listen on"),
        ("255.255.255.255:80", "is not an address to listen on"),
        ("%:80", "'' is no name of an interface"),
        ("%a b:80", "'a b' is no name of an interface"),
        ("%sixteen-chars-xx:80", "is no name of an interface"),
        ("8080:10.0.2.100", "names a guest address without a port"),
        ("8080:127.0.0.1:80", "the guest's loopback 127.0.0.1 cannot"),
        ("8080:[::1]:80", "the guest's loopback ::1 cannot"),
        ("8080:0.0.0.0:80", "0.0.0.0 is not an address that a guest"),
        ("8080:80:80", "too many parts"),
        ("127.0.0.1:80:10.0.2.7:80:1", "too many parts"),
        ("unix:/run/x.sock", "is no port"),
        ("unix::80", "'' is no path"),
        ("unix:@x:80", "abstract sockets, as '@x'"),
        ("unix:/run/x:80/udp", "a unix socket carries one TCP port"),
        ("unix:/run/x:80-81", "a unix socket carries one TCP port"),
        ("unix:/run/x:0", "port 0"),
        ("systemd:", "'' is no port"),
        ("systemd::80", "'' is no name of a passed socket"),
        ("systemd:a:b:80", "'a:b' is no name of a passed socket"),
        ("systemd:80-81", "'80-81' is no port"),
    ] {
        let error = text.parse::<Publish>().expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
        assert!(error.contains("[ADDR:]PORT[-PORT]"), "{text}: {error}");
    }
    let long = format!("unix:/{}:80", "x".repeat(MAX_UNIX_PATH));
    assert!(long.parse::<Publish>().is_err());
}

#[test]
fn exposed_forms() {
    for (text, full) in [
        ("5432", "5432:5432/tcp"),
        ("5432:15432", "5432:15432/tcp"),
        ("53/udp", "53:53/udp"),
        ("8000-8010:9000-9010", "8000-8010:9000-9010/tcp"),
        ("8000-8010/udp", "8000-8010:8000-8010/udp"),
        ("unix:/run/x.sock:8080", "unix:/run/x.sock:8080"),
    ] {
        let parsed: Expose = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(parsed.to_string(), full, "{text}");
        assert_eq!(full.parse(), Ok(parsed), "{text}");
    }
    let expose: Expose = "8000-8010:9000-9010".parse().expect("a forward");
    assert_eq!(expose.to, ExposeTo::Loopback(8000));
    assert_eq!(expose.ports.first, 9000);
}

#[test]
fn refused_exposures_say_why_and_show_the_forms() {
    for (text, why) in [
        ("", "'' is no port"),
        ("127.0.0.1:80", "'127.0.0.1' is no port"),
        ("80:81:82", "too many parts"),
        ("0:80", "no port"),
        ("80:0", "port 0"),
        ("80-81:80", "give both sides as many"),
        ("80/sctp", "SCTP is not carried"),
        ("unix:/run/x:80/udp", "a unix socket carries one TCP port"),
    ] {
        let error = text.parse::<Expose>().expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
        assert!(error.contains("5432:15432"), "{text}: {error}");
    }
}

#[test]
fn auto_forms() {
    for (text, full) in [
        ("auto", "auto"),
        ("auto:127.0.0.1", "auto:127.0.0.1"),
        ("auto:[::1]", "auto:[::1]"),
        ("auto,except=22", "auto,except=22"),
        (
            "auto:0.0.0.0,except=22,6000-6010",
            "auto:0.0.0.0,except=22,6000-6010",
        ),
    ] {
        let Ok(PublishOption::Auto(auto)) = text.parse() else {
            panic!("{text} is not read");
        };
        assert_eq!(auto.to_string(), full);
    }
    for text in [
        "auto:",
        "auto:x",
        "auto,",
        "auto,only=22",
        "auto,except=",
        "auto,except=0",
        "auto,except=22,",
        "auto:127.0.0.1:80",
        "automatic",
        "auto:%eth0",
    ] {
        assert!(text.parse::<PublishOption>().is_err(), "{text}");
    }
}

/// Fields are public: what is put together by hand is checked as well.
#[test]
fn what_no_text_says_is_refused_too() {
    let good = publish("8080:80");
    let mut echo = good.clone();
    echo.protocol = Protocol::Echo;
    let mut longer = good.clone();
    longer.guest_ports.last = 81;
    let mut backwards = good.clone();
    backwards.guest_ports = PortRange { first: 2, last: 1 };
    let mut unix = publish("unix:/run/x:80");
    unix.guest = Some([10, 0, 2, 7].into());
    for wrong in [echo, longer, backwards, unix] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
    let beyond = Expose {
        protocol: Protocol::Tcp,
        ports: PortRange { first: 1, last: 9 },
        to: ExposeTo::Loopback(65530),
    };
    assert!(beyond.check().is_err());
}

#[test]
fn forwards_in_json() {
    let publish: ForwardSpec = publish("8080:80").into();
    let text = serde_json::to_string(&publish).expect("JSON");
    assert_eq!(text, r#"{"publish":"8080:80/tcp"}"#);
    assert_eq!(
        serde_json::from_str::<ForwardSpec>(&text).ok(),
        Some(publish)
    );
    let expose: ForwardSpec = serde_json::from_str(r#"{"expose_host":"5432"}"#).expect("a forward");
    assert_eq!(expose.to_string(), "--expose-host 5432:5432/tcp");
    let error = serde_json::from_str::<ForwardSpec>(r#"{"publish":"80/sctp"}"#);
    assert!(error.expect_err("refused").to_string().contains("SCTP"));
}

proptest! {
    #[test]
    fn what_is_read_is_written_so_that_it_is_read_again(text in "\\PC{0,40}") {
        fuzz(&text);
    }

    #[test]
    fn nearly_right_text_too(
        text in "(unix:|systemd:|auto)?[0-9a-f:./%,=@\\[\\]-]{0,24}(:[0-9-]{1,6})?(/tcp|/udp)?"
    ) {
        fuzz(&text);
    }

    #[test]
    fn and_what_is_right(
        addr in "(|127\\.0\\.0\\.1:|\\[::1\\]:|%eth0:|10\\.1\\.2\\.3%wg0:|\\[fe80::1%eth0\\]:)",
        first in 1u16..=65000,
        count in 0u16..=500,
        guest in 1u16..=65000,
        guest_addr in "(|10\\.0\\.2\\.7:|\\[fd00::1\\]:)",
        protocol in "(|/tcp|/udp)",
    ) {
        let text = format!(
            "{addr}{first}-{}:{guest_addr}{guest}-{}{protocol}", first + count, guest + count
        );
        let publish: Publish = text.parse().expect("right");
        prop_assert_eq!(publish.sockets(), usize::from(count) + 1);
        prop_assert_eq!(publish.to_string().parse(), Ok(publish));
    }
}
