use proptest::prelude::*;

use super::super::Rate;
use super::*;

fn rule(text: &str) -> Rule {
    text.parse()
        .unwrap_or_else(|error| panic!("'{text}': {error}"))
}

fn packets(text: &str) -> PacketEffect {
    match rule(text).effect {
        Effect::Packets(effect) => effect,
        other => panic!("'{text}': {other:?}"),
    }
}

fn error(text: &str) -> String {
    match text.parse::<Rule>() {
        Ok(rule) => panic!("'{text}' is {rule:?}"),
        Err(error) => error.to_string(),
    }
}

fn share(percent: f64) -> Share {
    Share::new(percent / 100.0).expect("is a share")
}

#[test]
fn every_word_of_a_packet_effect() {
    let effect = packets(
        "delay=80ms jitter=20ms dist=normal loss=1% dup=0.1% reorder=0.5% corrupt=0.01% \
         rate=2mbit queue=64k order=any seed=7",
    );
    let rate = Rate::new(2_000_000).expect("is a rate");
    assert_eq!(
        effect,
        PacketEffect {
            delay: Duration::from_millis(80),
            jitter: Duration::from_millis(20),
            distribution: Distribution::Normal,
            order: Order::Any,
            loss: Loss::Random(share(1.0)),
            duplicate: share(0.1),
            reorder: share(0.5),
            corrupt: share(0.01),
            rate: Some(Rates::both(rate)),
            queue: Some(65536),
            seed: Some(7),
        }
    );
}

#[test]
fn what_a_rule_is_for_in_any_order() {
    for text in [
        "up to 192.0.2.7/24 port 80-443 proto tcp name *.Example.com at 10s for 3s loss=100%",
        "loss=100% for 3s at 10s name *.example.com. proto tcp port 80-443 to 192.0.2.0/24 up",
    ] {
        let rule = rule(text);
        assert_eq!(rule.text, text);
        assert_eq!(rule.way, Way::Up);
        assert_eq!(
            rule.matcher,
            Matcher {
                to: "192.0.2.0/24".parse().ok(),
                ports: Some(PortRange {
                    first: 80,
                    last: 443
                }),
                protocol: Some(MatchProtocol::Tcp),
                name: "*.example.com".parse().ok(),
            }
        );
        assert_eq!(
            rule.schedule,
            Schedule {
                at: Duration::from_secs(10),
                lasts: Some(Duration::from_secs(3)),
            }
        );
    }
    assert_eq!(rule("pass").way, Way::Both);
    assert_eq!(
        rule("to 2001:db8::1 pass").matcher.to,
        "2001:db8::1/128".parse().ok()
    );
}

#[test]
fn faults_have_a_rule_of_their_own() {
    let tcp = |text: &str| match rule(text).effect {
        Effect::Tcp(fault) => fault,
        other => panic!("'{text}': {other:?}"),
    };
    let dns = |text: &str| match rule(text).effect {
        Effect::Dns(fault) => fault,
        other => panic!("'{text}': {other:?}"),
    };
    assert_eq!(rule("to 10.0.0.0/8 pass").effect, Effect::Pass);
    assert_eq!(tcp("port 80 refuse"), TcpFault::Refuse);
    assert_eq!(tcp("black-hole proto udp"), TcpFault::BlackHole);
    assert_eq!(tcp("stall"), TcpFault::Stall);
    assert_eq!(tcp("half-open"), TcpFault::HalfOpen);
    assert_eq!(
        tcp("slow-accept=2s"),
        TcpFault::SlowAccept(Duration::from_secs(2))
    );
    assert_eq!(
        tcp("reset-after=10k"),
        TcpFault::Reset(ResetAfter::Bytes(10240))
    );
    assert_eq!(
        tcp("reset-after=5s"),
        TcpFault::Reset(ResetAfter::Time(Duration::from_secs(5)))
    );
    assert_eq!(dns("name a.example dns=nxdomain"), DnsFault::NxDomain);
    assert_eq!(dns("dns=servfail"), DnsFault::ServFail);
    assert_eq!(dns("dns=truncate"), DnsFault::Truncate);
    assert_eq!(dns("dns=drop"), DnsFault::Drop);
    assert_eq!(dns("dns-delay=2s"), DnsFault::Delay(Duration::from_secs(2)));
    assert_eq!(
        dns("dns=192.0.2.9,2001:db8::9"),
        DnsFault::Answer(vec![
            "192.0.2.9".parse().expect("address"),
            "2001:db8::9".parse().expect("address"),
        ])
    );
}

#[test]
fn bursts() {
    let loss = |text: &str| packets(text).loss;
    assert_eq!(
        loss("loss=gemodel,p=1%,r=20%"),
        Loss::Bursts(Bursts {
            worsen: share(1.0),
            recover: share(20.0),
            bad_passes: Share::NONE,
            good_passes: Share::ALL,
        })
    );
    assert_eq!(
        loss("loss=gemodel,k=99%,h=10%,r=20%,p=1%"),
        Loss::Bursts(Bursts {
            worsen: share(1.0),
            recover: share(20.0),
            bad_passes: share(10.0),
            good_passes: share(99.0),
        })
    );
    for bad in [
        "loss=gemodel",
        "loss=gemodel,p=1%",
        "loss=gemodelp=1%,r=2%",
        "loss=gemodel,p=1%,r=2%,p=1%",
        "loss=gemodel,p=1%,r=2%,x=1%",
        "loss=gemodel,1%,2%",
    ] {
        assert!(error(bad).contains("gemodel,p=1%,r=20%"), "{bad}");
    }
}

#[test]
fn presets_can_be_overridden() {
    let preset = packets("3g");
    assert_eq!(preset.delay, Duration::from_millis(150));
    assert_eq!(preset.order, Order::Keep);
    let rates = preset.rate.expect("has one");
    assert_eq!((rates.up.bits(), rates.down.bits()), (768_000, 1_600_000));
    for text in ["3g delay=1ms seed=3", "seed=3 delay=1ms 3g"] {
        assert_eq!(
            packets(text),
            PacketEffect {
                delay: Duration::from_millis(1),
                seed: Some(3),
                ..preset
            }
        );
    }
    assert_eq!(packets("dead").loss, Loss::Random(Share::ALL));
    for (name, _) in PRESETS {
        assert_eq!(packets(name).order, Order::Keep, "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_with_what_is_right() {
    for (text, says) in [
        ("", "does not"),
        ("delay=80", "write a number and its unit: 500us, 80ms"),
        (
            "loss=0.01",
            "'0.01' has no unit; write a share in percent: 1%",
        ),
        ("delay", "write delay=80ms"),
        ("to=192.0.2.1", "write 'to 192.0.2.0/24'"),
        ("up=1 loss=1%", "'up' takes no value"),
        ("up down loss=1%", "write one of"),
        (
            "lag=3ms",
            "'lag' is nothing that a rule can say; it can say to, ",
        ),
        ("loss=1% loss=2%", "'loss' is there twice"),
        ("3g 4g", "'3g' and '4g' are two presets"),
        ("pass loss=1%", "'pass' and 'loss' do not go together"),
        ("3g refuse", "'refuse' and '3g' do not go together"),
        ("refuse stall", "'refuse' and 'stall' do not go together"),
        ("up", "'up' does not say what is to happen"),
        ("seed=7", "'seed' alone"),
        ("port", "'port' needs a port behind it"),
        ("port 0 pass", "'0' is no port"),
        ("port 9-8 pass", "'9-8' is no port"),
        ("to example.com pass", "'name example.com'"),
        ("proto sctp pass", "tcp, udp and icmp are"),
        ("name a..b pass", "'a..b' is no name"),
        ("for 0s pass", "no time at all"),
        ("jitter=1ms", "add delay=TIME"),
        ("delay=1ms dist=normal", "add jitter=TIME"),
        ("queue=64k", "add rate=RATE"),
        ("rate=2mbit queue=64", "64k"),
        ("rate=2", "500kbit"),
        ("reorder=1%", "add delay=TIME"),
        ("4g reorder=1%", "write order=any"),
        ("delay=1ms order=fifo", "keep and any are"),
        ("delay=11m", "ten minutes"),
        ("seed=x loss=1%", "write a whole number"),
        ("dns=maybe", "nxdomain, servfail, truncate, drop"),
        ("reset-after=10", "10k or 2M, or 500ms or 5s"),
        ("proto udp stall", "'stall' is for TCP"),
        ("proto icmp refuse", "'refuse' is for TCP"),
        ("seed=9007199254740992 loss=1%", "0 to 9007199254740991"),
        ("to 192.0.2.1 dns=drop", "'name PATTERN'"),
        ("proto icmp port 7 pass", "have no ports"),
        ("down dns=drop", "'down'"),
    ] {
        let error = error(text);
        let says_so = error.contains(says) || (text.is_empty() && error.contains("says what"));
        assert!(says_so, "'{text}': {error}");
    }
    assert!(error(&"x".repeat(MAX_RULE + 1)).contains("1024"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text: String) {
        let _ = text.parse::<Rule>();
    }

    #[test]
    fn any_words_are_read_or_refused_and_read_again_the_same(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "up", "down", "to", "192.0.2.0/24", "port", "80-90", "proto", "udp", "name", "*.a",
            "at", "for", "1s", "delay=1ms", "jitter=2ms", "dist=pareto", "loss=1%", "dup=2%",
            "reorder=3%", "corrupt=4%", "rate=1mbit", "queue=9k", "order=keep", "seed=1", "3g",
            "dead", "pass", "refuse", "reset-after=1k", "dns=drop", "dns-delay=1s",
        ]), 0..8),
    ) {
        if let Ok(rule) = words.join("  ").parse::<Rule>() {
            let again: Rule = rule.text.parse().expect("was read before");
            prop_assert_eq!(rule, again);
        }
    }
}

#[test]
fn every_word_is_documented() {
    const DOCUMENTATION: &str = include_str!("../../docs/impairment.md");
    let list = error("?");
    let words = list.split("it can say ").nth(1).expect("a list of words");
    for word in words.replace("and the presets ", "").split(", ") {
        let word = word.trim_end_matches("...");
        assert!(DOCUMENTATION.contains(&format!("`{word}")), "{word}");
    }
    assert!(DOCUMENTATION.contains(&format!("0 to {MAX_SEED}")));
    assert!(DOCUMENTATION.contains(&format!("There can be {}.", super::super::MAX_RULES)));
}
