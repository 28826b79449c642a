//! What can be written, and what is said about the rest.

use clap::{CommandFactory as _, Parser as _};
use proptest::prelude::*;

use super::fields::{plain, significant, split};
use super::*;
use crate::cli::args::Cli;
use crate::cli::resolve::{Mode, resolve};
use crate::tap::process::{PairType, ProcessCommand, Restart};

fn kind(text: &str) -> LinkKind {
    match parse(text) {
        Ok(spec) => {
            assert_eq!(spec.to_string(), text);
            spec.kind
        }
        Err(e) => panic!("{text}: {e}"),
    }
}

#[test]
fn interfaces() {
    let LinkKind::Tap(tap) = kind("tap:tap0") else {
        panic!("no TAP")
    };
    assert_eq!((tap.name.as_str(), tap.netns), ("tap0", None));
    assert_eq!(tap.configure, Configure::LeaveAlone);
    let LinkKind::Tap(tap) = kind("tap:eth0,netns=4711,static") else {
        panic!("no TAP")
    };
    assert_eq!(tap.netns, Some(NetnsTarget::Pid(4711)));
    assert_eq!(tap.configure, Configure::Static);
    let LinkKind::Tun(tun) = kind(r"tun:tun0,netns=/run/a\,b/net,userns=/proc/7/ns/user") else {
        panic!("no TUN")
    };
    assert_eq!(tun.netns, Some(NetnsTarget::Path("/run/a,b/net".into())));
    assert_eq!(tun.userns, Some("/proc/7/ns/user".into()));
    assert_eq!(tun.configure, Configure::Static);
    let LinkKind::Tun(tun) = kind("tun:tun0") else {
        panic!("no TUN")
    };
    assert_eq!(tun.configure, Configure::LeaveAlone);
}

#[test]
fn descriptors() {
    let handed = |text: &str| match kind(text) {
        LinkKind::Fd(handed) => handed,
        other => panic!("{other:?}"),
    };
    for text in ["fd", "fd:", "fd,medium=ip", "fd:,medium=ip"] {
        assert_eq!(handed(text).at, Descriptors::Told, "{text}");
    }
    assert_eq!(handed("fd:3").at, Descriptors::One(3));
    assert_eq!(handed("fd:3,3").at, Descriptors::One(3));
    let both = handed("fd:0,1,framing=len32,medium=ether");
    assert_eq!(both.at, Descriptors::Two(0, 1));
    assert_eq!(both.framing, Some(Framing::Lengths(Prefix::Len32)));
    assert_eq!(both.medium, Some(Medium::Ethernet));
    assert_eq!(
        handed("fd:7,framing=dgram").framing,
        Some(Framing::Messages)
    );

    let settled = |told: Option<&str>| {
        let mut spec = parse("fd").expect("parses");
        spec.settle(told.map(OsStr::new))
            .map(|()| spec.descriptors())
            .map_err(|e| e.to_string())
    };
    assert_eq!(settled(None), Ok(vec![0, 1]));
    assert_eq!(settled(Some("5")), Ok(vec![5]));
    let said = settled(Some("x")).expect_err("no number");
    assert!(said.contains("VPNFD is \"x\""), "{said}");
}

#[test]
fn commands() {
    let options = |text: &str| match kind(text) {
        LinkKind::Exec(options) => options,
        other => panic!("{other:?}"),
    };
    let program = |program: &str, arguments: &[&str]| ProcessCommand::Program {
        program: program.into(),
        arguments: arguments.iter().map(Into::into).collect(),
    };
    let plain = options("exec:socat -u 'a b',c:d -");
    assert_eq!(plain.command, program("socat", &["-u", "a b,c:d", "-"]));
    assert_eq!(
        (plain.restart, plain.pair),
        (Restart::Never, PairType::SeqPacket)
    );
    let all = options("exec,restart,shell,dgram,medium=ip:a | b, c 'd");
    assert_eq!(all.command, ProcessCommand::Shell("a | b, c 'd".into()));
    assert_eq!(
        (all.restart, all.pair),
        (Restart::Always, PairType::Datagram)
    );
    assert_eq!(all.medium, Medium::Ip);
    assert_eq!(options(r"exec:a\ b \\").command, program("a b", &["\\"]));
}

#[test]
fn sockets() {
    let LinkKind::Udp {
        bind,
        framing,
        peer,
    } = kind("udp:[::1]:5555,framing=len16,peer=[::1]:6666")
    else {
        panic!("no UDP")
    };
    assert_eq!(bind.to_string(), "[::1]:5555");
    assert_eq!(peer.expect("pinned").to_string(), "[::1]:6666");
    assert_eq!(framing, UdpFraming::Len16);

    let LinkKind::Qemu(ListenAddress::Unix { path, access }) =
        kind("qemu:./net:1,mode=0660,group=0")
    else {
        panic!("no socket")
    };
    assert_eq!((path.as_path(), access.mode), ("./net:1".as_ref(), 0o660));
    assert_eq!(access.group.expect("given").as_raw(), 0);
    assert!(matches!(
        kind("qemu:127.0.0.1:5555"),
        LinkKind::Qemu(ListenAddress::Tcp(_))
    ));
    let LinkKind::Qemu(ListenAddress::Unix { path, .. }) = kind("qemu:net.sock") else {
        panic!("no socket")
    };
    assert_eq!(path.as_os_str(), "net.sock");
    for text in ["bess:/run/b", "unixgram:/run/u,mode=600,group=root"] {
        let (LinkKind::Bess(at) | LinkKind::Unixgram(at)) = kind(text) else {
            panic!("no socket")
        };
        assert_eq!(at.access.mode, 0o600);
    }
}

#[test]
fn vde() {
    let client = |text: &str| match kind(text) {
        LinkKind::Vde(options) => (
            options.switch.map(|p| p.display().to_string()),
            options.port,
        ),
        other => panic!("{other:?}"),
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(client("vde"), (None, None));
    assert_eq!(client("vde:"), (None, None));
    assert_eq!(client("vde:[7]"), (None, Some(7)));
    assert_eq!(
        client("vde:/run/a[7]"),
        (some("/run/a[7]").map(|_| "/run/a".into()), Some(7))
    );
    assert_eq!(client(r"vde:/run/a\[7\]"), (some("/run/a[7]"), None));
    assert_eq!(client(r"vde:/run/a\\b\,c"), (some(r"/run/a\b,c"), None));
    assert_eq!(client("vde:/run/a]b"), (some("/run/a]b"), None));

    for (text, directory_mode) in [
        ("vdeswitch:/run/s", 0o2700),
        ("vdeswitch:/run/s,mode=0660,group=root", 0o2770),
        ("vdeswitch:/run/s,mode=666", 0o2777),
    ] {
        let LinkKind::VdeSwitch(options) = kind(text) else {
            panic!("no switch")
        };
        assert_eq!(options.directory.as_os_str(), "/run/s");
        assert_eq!(options.directory_mode, directory_mode, "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_told_with_what_would() {
    for (text, wrong, form) in [
        ("", "there is no kind of link ''", "vdeswitch:DIR"),
        ("tab:x", "there is no kind of link 'tab'", "tap:NAME"),
        (
            "/dev/net/tun",
            "no kind of link '/dev/net/tun'",
            "unixgram:PATH",
        ),
        ("tap", "the name of the interface is missing", "tap:NAME"),
        ("tap:a/b", "1 to 15 characters", "tap:NAME"),
        ("tap:a,netns", "'netns' needs a value", "tap:NAME"),
        ("tap:a,netns=0", "is not a process id", "tap:NAME"),
        (
            "tap:a,netns=1,netns=2",
            "'netns' is given twice",
            "tap:NAME",
        ),
        ("tap:a,static", "it needs 'netns'", "tap:NAME"),
        (
            "tap:a,static=1,netns=1",
            "'static' takes no value",
            "tap:NAME",
        ),
        ("tun:a,static,netns=1", "has no option 'static'", "tun:NAME"),
        ("tap:a,userns=/x", "'userns' needs 'netns'", "tap:NAME"),
        ("tap:a,mtu=1500", "'tap:' has no option 'mtu'", "tap:NAME"),
        ("fd:x", "'x' is not the number of a descriptor", "fd[:N"),
        ("fd:-1", "'-1' is not the number", "fd[:N"),
        ("fd:3,4,5", "has no option '5'", "fd[:N"),
        (
            "fd:3,framing=len8",
            "'framing' is dgram or len16 or len32, not 'len8'",
            "fd[:N",
        ),
        ("fd:3,medium=wifi", "'medium' is ether or ip", "fd[:N"),
        ("exec", "the command is missing", "exec["),
        ("exec:  ", "the command is missing", "exec["),
        ("exec,restart", "the command is missing", "exec["),
        ("exec:a 'b", "a quote that is not closed", "exec["),
        ("exec,again:a", "has no option 'again'", "exec["),
        (
            "udp:5555",
            "'5555' is not an address and a port",
            "udp:ADDR:PORT",
        ),
        ("udp:localhost:5555", "like 127.0.0.1:5555", "udp:ADDR:PORT"),
        ("udp:127.0.0.1:0", "has port 0", "udp:ADDR:PORT"),
        (
            "udp:127.0.0.1:1,peer=[::1]:2",
            "both must be IPv4",
            "udp:ADDR:PORT",
        ),
        (
            "udp:127.0.0.1:1,peer=0.0.0.0:2",
            "nobody's address",
            "udp:ADDR:PORT",
        ),
        (
            "udp:127.0.0.1:1,framing=len32",
            "'framing' is raw or len16",
            "udp:ADDR:PORT",
        ),
        ("vde:/run/a[0]", "a number from 1 to 256", "vde:DIR"),
        ("vde:/run/a[x]", r"'\[' and '\]'", "vde:DIR"),
        ("vde:/run/a\\", r"nothing behind the last '\'", "vde:DIR"),
        ("vdeswitch:", "the directory is missing", "vdeswitch:DIR"),
        (
            "vdeswitch:/a,mode=999",
            "not a mode in octal",
            "vdeswitch:DIR",
        ),
        (
            "vdeswitch:/a,group=no-such-group",
            "there is no group",
            "vdeswitch:DIR",
        ),
        ("qemu:5555", "not an address and a port", "qemu:PATH"),
        (
            "qemu:127.0.0.1:5,mode=600",
            "neither mode nor group",
            "qemu:PATH",
        ),
        ("bess:", "the path is missing", "bess:PATH"),
        ("unixgram:/a\0b", "a zero byte", "unixgram:PATH"),
    ] {
        let said = parse(text).expect_err(text).to_string();
        assert!(said.contains(wrong), "{text}: '{said}' lacks '{wrong}'");
        assert!(said.contains(form), "{text}: '{said}' lacks '{form}'");
    }
}

fn resolved(line: &str) -> Result<(Configure, usize), String> {
    let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
    let invocation = resolve(cli).map_err(|e| e.to_string())?;
    let Mode::Serve(links) = invocation.mode else {
        panic!("not serve")
    };
    Ok((invocation.config.interface.configure, links.len()))
}

#[test]
fn links_beside_each_other() {
    use Configure::{LeaveAlone, Static};
    for (line, configure, count) in [
        ("gw serve --link udp:127.0.0.1:5", LeaveAlone, 1),
        ("gw serve --link tun:tun0,netns=1", Static, 1),
        ("gw serve --link fd:3,medium=ip", Static, 1),
        (
            "gw serve --link tap:a,netns=1,static --link vde:",
            Static,
            2,
        ),
        (
            "gw serve --link fd:3 --link fd:4,5 --ready-fd 6",
            LeaveAlone,
            2,
        ),
    ] {
        assert_eq!(resolved(line), Ok((configure, count)), "{line}");
    }
    for (line, part) in [
        ("gw serve", "say whom to serve, with --link"),
        (
            "gw serve --link tun:a --link vde:",
            "'tun:a' carries bare IP packets",
        ),
        (
            "gw serve --link tun:a --link tun:b",
            "start a gateway for each",
        ),
        (
            "gw serve --link vde: --link exec,medium=ip:x",
            "cannot be switched",
        ),
        (
            "gw serve --link tap:a,netns=1,static --link tap:a,netns=2,static",
            "one link at most can be 'static'",
        ),
        (
            "gw serve --link fd:3 --link fd:4,3",
            "descriptor 3 is given twice",
        ),
        (
            "gw serve --link fd:3 --exit-fd 3",
            "descriptor 3 is given twice",
        ),
        (
            "gw serve --link vde: -p auto",
            "--publish auto is for namespaces",
        ),
        (
            "gw serve --link vde: --ifname x",
            "unexpected argument '--ifname'",
        ),
        (
            "gw serve --link vde: --netns 1",
            "unexpected argument '--netns'",
        ),
        ("gw serve --link vdeswitch", "the directory is missing"),
    ] {
        let said = resolved(line).expect_err(line);
        assert!(said.contains(part), "{line}: '{said}' lacks '{part}'");
    }
    let line = "gw serve".to_owned() + &" --link vde:".repeat(257);
    let said = resolved(&line).expect_err("too many");
    assert!(said.contains("257 links are too many"), "{said}");
}

#[test]
fn the_help_lists_every_form() {
    let mut command = Cli::command();
    let serve = command.find_subcommand_mut("serve").expect("there");
    let help = serve.render_long_help().to_string();
    for (_, form) in FORMS {
        assert!(help.contains(&format!("\n  {form}\n")), "{form}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_parsed_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn arbitrary_text_behind_a_kind_is_parsed_or_refused(
        at in 0..FORMS.len(),
        text in r"[:,=\[\]\\a-z0-9/ '\x{0}é.]*",
    ) {
        let _ = parse(&format!("{}{text}", FORMS[at].0));
    }

    /// Whatever a path is made of, it can be written.
    #[test]
    fn any_path_can_be_written(path in "/[^\0]{1,40}") {
        let written: String = path.chars().flat_map(|c| ['\\', c]).collect();
        let LinkKind::Vde(options) = kind(&format!("vde:{written}")) else {
            panic!("no VDE")
        };
        prop_assert_eq!(options.switch, Some(path.into()));
    }

    #[test]
    fn nothing_is_lost_by_splitting(text in r"[\\,a]*") {
        prop_assert_eq!(split(&text, ',').join(","), text.clone());
        let parts = split(&text, ',').len();
        prop_assert_eq!(significant(&text).filter(|(_, c)| *c == ',').count() + 1, parts);
        if let Some(text) = plain(&text) {
            let again: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(plain(&again), Some(text));
        }
    }
}
