#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

use super::*;
use crate::cli::top::samples::{at_millis, flow, hello, impaired, look, ui};
use crate::control::proto::{Flow, FlowDirection, FlowProtocol, FlowState};

const PLAIN: Theme = Theme {
    colour: Colour::Off,
    charset: Charset::Ascii,
};

const RICH: Theme = Theme {
    colour: Colour::On,
    charset: Charset::Unicode,
};

/// A frame, and where its cursor is.
fn drawn_at(
    ui: &mut Ui,
    theme: Theme,
    size: (u16, u16),
    now: Duration,
) -> (Buffer, Option<Position>) {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let view = View {
        theme,
        interval: Duration::from_secs(1),
        now,
    };
    let mut cursor = None;
    terminal
        .draw(|frame| cursor = view.draw(ui, frame.buffer_mut()))
        .unwrap();
    (terminal.backend().buffer().clone(), cursor)
}

fn drawn(ui: &mut Ui, theme: Theme, size: (u16, u16)) -> String {
    lines(&drawn_at(ui, theme, size, ui.heard_at()).0)
}

fn crowd(count: u64) -> Vec<Flow> {
    (0..count).map(|id| flow(id, 10_000 - id, 0)).collect()
}

/// A gateway with something of everything.
fn busy() -> Ui {
    let mut inbound = flow(2, 4_000, 70);
    inbound.direction = FlowDirection::Inbound;
    inbound.remote = "[2001:db8:1234:5678:9abc:def0:1234:5678]:50000"
        .parse()
        .unwrap();
    inbound.state = FlowState::HalfClosed;
    let mut datagrams = flow(3, 90, 60);
    datagrams.protocol = FlowProtocol::Udp;
    datagrams.remote.set_port(53);
    datagrams.state = FlowState::Connecting;
    let mut ui = ui(vec![flow(1, 0, 0), inbound.clone(), datagrams.clone()]);
    let mut second = look(1000, vec![flow(1, 12_345_678, 4321), inbound, datagrams]);
    second.statistics.to_guest.bytes = 12_400_000;
    second.statistics.from_guest.bytes = 9_000;
    second.statistics.dropped = [("no_route".to_owned(), 12), ("malformed".to_owned(), 3)].into();
    second.rules = vec![impaired("down delay=80ms"), impaired("at 1h up loss=1%")];
    second.rules[1].in_force = false;
    ui.take(second);
    ui
}

#[test]
fn everything_is_there_at_80_by_24() {
    let mut ui = busy();
    ui.key(KeyCode::Down.into());
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    let expected = "\
gw tap0   3 TCP, 0 UDP   up 1 h 5 min   memory 12 of 256 MiB   every 1 s
down                                             #   12 MB/s   peak  12 MB/s
up                                               #  9.0 kB/s   peak 9.0 kB/s
drops no route 12 (+12/s), malformed 3 (+3/s)
impair down delay=80ms; at 1h up loss=1% (not now)
  Pr  Guest   Remote                         State   Down     Up Total  Age Idle
* TCP 40001 > 192.0.2.1:443                  open     12M   4.3k   12M   1s   0s
  TCP 40002 < ~78:9abc:def0:1234:5678]:50000 half       0      0  4.0k   1s   0s
  UDP 40003 > 192.0.2.1:53                   conn       0      0   150   1s   0s
";
    let mut expected: Vec<&str> = expected.lines().collect();
    let mut shown: Vec<&str> = shown.lines().collect();
    assert_eq!(
        shown.pop(),
        Some("s sort: rate  ? help  q quit  k kill  i impair  / filter  p pause")
    );
    while shown.last() == Some(&"") {
        shown.pop();
    }
    // The width of the plots is not what is tested.
    for line in [1, 2] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(shown[line]), words(expected[line]));
    }
    shown.drain(1..3);
    expected.drain(1..3);
    assert_eq!(shown, expected);
}

#[test]
fn little_room_shows_what_matters() {
    let shown = drawn(&mut busy(), PLAIN, (40, 10));
    for part in [
        "gw tap0",
        "down",
        "12 MB/s",
        "drops",
        "192.0.2.1:443",
        "12M",
        "s sort: rate",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(shown.lines().count() <= 10);
}

#[test]
fn much_room_shows_more() {
    let shown = drawn(&mut busy(), RICH, (200, 50));
    for part in [
        "10.0.2.100:40001",
        "[2001:db8:1234:5678:9abc:def0:1234:5678]:50000",
        "Recvd",
        "Idle",
        "gw 0.1.0",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}

#[test]
fn less_than_little_is_said_to_be_too_little() {
    let shown = drawn(&mut busy(), PLAIN, (39, 24)).replace('\n', " ");
    assert!(shown.contains("needs 40x10, this is 39x24"), "{shown}");
    for size in [(1, 1), (0, 0), (80, 9), (3, 200), (500, 1)] {
        drawn(&mut busy(), RICH, size);
    }
}

/// Colours are never the only sign, and not there when they are not wanted.
#[test]
fn without_colour_there_is_none() {
    let mut ui = busy();
    ui.key(KeyCode::Down.into());
    let of = |ui: &mut Ui, theme: Theme| drawn_at(ui, theme, (80, 24), ui.heard_at()).0;
    let plain = Theme {
        colour: Colour::Off,
        ..RICH
    };
    let without = of(&mut ui, plain);
    for cell in without.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
    }
    let with = of(&mut ui, RICH);
    assert!(with.content().iter().any(|cell| cell.fg == Color::Green));
    assert_eq!(lines(&with), lines(&without));
}

#[test]
fn ascii_is_enough() {
    for key in [KeyCode::Null, KeyCode::Char('?'), KeyCode::Char('i')] {
        let mut ui = busy();
        ui.key(key.into());
        assert!(drawn(&mut ui, PLAIN, (80, 24)).is_ascii());
    }
    assert!(drawn(&mut busy(), RICH, (80, 24)).contains('█'));
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let mut ui = ui(vec![]);
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    assert!(shown.contains("no flows"), "{shown}");
    assert!(shown.contains("drops none"), "{shown}");
    let mut ui = Ui::new(Model::new(hello()));
    assert!(drawn(&mut ui, PLAIN, (80, 24)).contains("waiting for the gateway"));
    let mut ui = busy();
    ui.key(KeyCode::Char('/').into());
    ui.key(KeyCode::Char('x').into());
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    assert!(shown.contains("no flow matches the filter"), "{shown}");
    assert!(shown.contains("filter: x"), "{shown}");
}

#[test]
fn flows_that_do_not_fit_are_counted() {
    let mut ui = ui(vec![]);
    let mut many = look(1000, crowd(4096));
    many.statistics.flows.tcp = 5000;
    ui.take(many);
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    // Header, plots, drops, titles, this remark, keys.
    let said = "17 of 4096 flows, and 904 more that were not looked at";
    assert!(shown.contains(said), "{shown}");
    ui.key(KeyCode::End.into());
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    let selected: Vec<&str> = shown.lines().filter(|l| l.starts_with('*')).collect();
    assert_eq!(selected.len(), 1, "{shown}");
    let last = selected[0];
    assert!(last.contains(&(40_000 + 4095).to_string()), "{shown}");
}

#[test]
fn all_reasons_that_fit_are_told() {
    let mut ui = ui(vec![]);
    let mut bad = look(1000, vec![]);
    let reasons = (0..40).map(|n| (format!("a_reason_to_drop_{n}"), 1000 + n));
    bad.statistics.dropped = reasons.collect();
    ui.take(bad);
    for (size, least) in [((40, 10), 0), ((80, 24), 4), ((200, 60), 25)] {
        let shown = drawn(&mut ui, PLAIN, size);
        let told = shown.matches("a reason to drop").count();
        assert!(told >= least, "{shown}");
        let rest = format!("and {} more", 40 - told);
        assert!(shown.contains(&rest), "{rest} in\n{shown}");
    }
}

#[test]
fn silence_and_pauses_are_said() {
    let mut ui = busy();
    let later = lines(&drawn_at(&mut ui, PLAIN, (80, 24), at_millis(20_000)).0);
    assert!(later.contains("NO ANSWER for 19 s"), "{later}");
    assert!(later.starts_with("gw tap0"), "{later}");
    ui.key(KeyCode::Char('p').into());
    assert!(drawn(&mut ui, PLAIN, (40, 10)).contains("PAUSED"));
}

#[test]
fn what_is_typed_is_shown_with_the_cursor() {
    let mut ui = busy();
    ui.key(KeyCode::Char('i').into());
    let (frame, cursor) = drawn_at(&mut ui, PLAIN, (80, 24), Duration::ZERO);
    assert!(lines(&frame).contains("impair: down delay=80ms; at 1h up loss=1%"));
    assert_eq!(cursor, Some(Position::new(8 + 33, 23)));
    for _ in 0..100 {
        ui.key(KeyCode::Char('y').into());
    }
    let (frame, cursor) = drawn_at(&mut ui, PLAIN, (80, 24), Duration::ZERO);
    assert!(lines(&frame).contains("impair: ~yyy"), "{}", lines(&frame));
    assert_eq!(cursor, Some(Position::new(79, 23)));
}

#[test]
fn the_help_fits_and_scrolls() {
    let mut ui = busy();
    ui.key(KeyCode::Char('?').into());
    let shown = drawn(&mut ui, PLAIN, (80, 24));
    assert!(shown.contains("kill the selected flow"), "{shown}");
    assert!(shown.contains("half: one direction has closed"), "{shown}");
    ui.key(KeyCode::PageDown.into());
    assert_eq!(drawn(&mut ui, PLAIN, (80, 24)), shown, "it is all there");
    for _ in 0..100 {
        ui.key(KeyCode::PageDown.into());
    }
    let narrow = drawn(&mut ui, PLAIN, (40, 10));
    assert!(narrow.contains("has closed"), "{narrow}");
    ui.key(KeyCode::Up.into());
    assert_ne!(drawn(&mut ui, PLAIN, (40, 10)), narrow);
}

#[test]
fn strangers_words_are_harmless() {
    let mut ui = busy();
    let mut second = look(2000, vec![flow(1, 0, 0)]);
    second.rules = vec![impaired("x\x1b[2J\u{202e}")];
    second
        .statistics
        .dropped
        .insert("\x1b]0;a\x07".to_owned(), 1);
    ui.take(second);
    ui.say("no\x1b[31m\r\n".to_owned());
    let shown = drawn(&mut ui, RICH, (80, 24));
    let odd = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!shown.contains(odd), "{shown:?}");
    assert!(shown.contains("no?[31m??"), "{shown}");
}

#[test]
fn plain_frames_have_no_keys() {
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
    let view = View {
        theme: PLAIN,
        interval: Duration::from_secs(1),
        now: Duration::from_secs(1),
    };
    view.draw_plain(&mut busy(), &mut buffer);
    let text = lines(&buffer);
    assert!(text.ends_with("0s\n"), "{text}");
    assert!(!text.contains("quit"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_size_can_be_drawn(
        width in 0..260_u16, height in 0..80_u16, count in 0..40_u64,
        keys in prop::sample::select(vec!["", "?", "i", "/ab", "p", "j", "\u{1}k"]), rich: bool,
    ) {
        let mut ui = busy();
        ui.take(look(2000, crowd(count)));
        for c in keys.chars() {
            let code = if c == '\u{1}' { KeyCode::Down } else { KeyCode::Char(c) };
            ui.key(code.into());
        }
        let theme = if rich { RICH } else { PLAIN };
        let (frame, cursor) = drawn_at(&mut ui, theme, (width, height), at_millis(2000));
        prop_assert!(cursor.is_none_or(|at| at.x < width && at.y < height));
        prop_assert!(lines(&frame).lines().count() <= usize::from(height).max(1));
    }
}
