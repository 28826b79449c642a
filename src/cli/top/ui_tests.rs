#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::cli::top::samples::{flow, hello, impaired, look, ui};

fn press(ui: &mut Ui, code: KeyCode) -> Wish {
    ui.key(code.into())
}

fn type_text(ui: &mut Ui, text: &str) {
    for c in text.chars() {
        assert_eq!(press(ui, KeyCode::Char(c)), Wish::None);
    }
}

fn control(c: char) -> KeyEvent {
    KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)
}

/// The ids on the screen.
fn shown(ui: &Ui) -> Vec<u64> {
    let (places, _) = ui.on_screen();
    let rows = &ui.shown().rows;
    places.iter().map(|&at| rows[at].flow.id.0).collect()
}

fn selected(ui: &Ui) -> Option<u64> {
    let (places, selected) = ui.on_screen();
    selected.map(|at| ui.shown().rows[places[at]].flow.id.0)
}

#[test]
fn flows_are_sorted() {
    let aged = |id, to, age| {
        let mut flow = flow(id, to, 0);
        flow.age_seconds = age;
        flow.remote.set_port(500 - u16::try_from(id).unwrap());
        flow
    };
    let mut ui = ui(vec![aged(1, 900, 7), aged(2, 100, 9), aged(3, 500, 8)]);
    ui.take(look(
        1000,
        vec![aged(1, 900, 8), aged(2, 400, 10), aged(3, 600, 9)],
    ));
    ui.fit(10);
    assert_eq!(shown(&ui), [2, 3, 1], "by rate");
    press(&mut ui, KeyCode::Char('s'));
    assert_eq!(shown(&ui), [1, 3, 2], "by total");
    press(&mut ui, KeyCode::Char('r'));
    assert_eq!(shown(&ui), [2, 3, 1], "reversed");
    press(&mut ui, KeyCode::Char('s'));
    assert_eq!(shown(&ui), [1, 3, 2], "by age");
    press(&mut ui, KeyCode::Char('s'));
    assert_eq!(shown(&ui), [3, 2, 1], "by name");
    press(&mut ui, KeyCode::Char('s'));
    assert_eq!(ui.order, Order::Rate);
}

#[test]
fn the_selection_stays_with_its_flow() {
    let mut ui = ui((0..10).map(|id| flow(id, 1000 - id, 0)).collect());
    ui.fit(4);
    assert_eq!((shown(&ui), selected(&ui)), (vec![0, 1, 2, 3], None));
    press(&mut ui, KeyCode::Down);
    assert_eq!(selected(&ui), Some(0));
    press(&mut ui, KeyCode::PageDown);
    assert_eq!((shown(&ui), selected(&ui)), (vec![1, 2, 3, 4], Some(4)));
    press(&mut ui, KeyCode::End);
    assert_eq!((shown(&ui), selected(&ui)), (vec![6, 7, 8, 9], Some(9)));
    press(&mut ui, KeyCode::Down);
    assert_eq!(selected(&ui), Some(9));
    // It becomes the fastest.
    let flows = (0..10).map(|id| flow(id, if id == 9 { 5000 } else { 1000 - id }, 0));
    ui.take(look(1000, flows.collect()));
    assert_eq!((shown(&ui), selected(&ui)), (vec![9, 0, 1, 2], Some(9)));
    // It ends.
    ui.take(look(2000, vec![flow(0, 0, 0), flow(1, 0, 0)]));
    assert_eq!((shown(&ui).len(), selected(&ui)), (2, None));
    assert_eq!(press(&mut ui, KeyCode::Char('k')), Wish::None);
    assert_eq!(ui.mode, Mode::Flows);
    assert!(ui.message.as_deref().unwrap().contains("select a flow"));
}

#[test]
fn a_flow_is_killed_after_a_question() {
    let mut ui = ui(vec![flow(7, 0, 0)]);
    ui.fit(4);
    for no in [KeyCode::Char('n'), KeyCode::Esc, KeyCode::Enter] {
        press(&mut ui, KeyCode::Down);
        press(&mut ui, KeyCode::Char('k'));
        assert!(matches!(ui.mode, Mode::Kill(FlowId(7), _)));
        assert_eq!(press(&mut ui, no), Wish::None);
        assert_eq!(ui.mode, Mode::Flows);
    }
    press(&mut ui, KeyCode::Char('k'));
    // Meanwhile it ends, and another comes: the answer is still about this one.
    ui.take(look(1000, vec![flow(8, 0, 0)]));
    let Wish::Tell(Errand::Close(FlowId(7), what)) = press(&mut ui, KeyCode::Char('y')) else {
        panic!("not killed");
    };
    assert_eq!(what, "TCP 10.0.2.100:40007 > 192.0.2.1:443");
}

#[test]
fn a_filter_acts_while_it_is_typed() {
    let mut other = flow(2, 0, 0);
    other.remote.set_port(80);
    let mut ui = ui(vec![flow(1, 0, 0), other]);
    ui.fit(4);
    press(&mut ui, KeyCode::Char('/'));
    type_text(&mut ui, "tcp :80");
    assert_eq!(shown(&ui), [2]);
    press(&mut ui, KeyCode::Enter);
    assert_eq!((shown(&ui), ui.filter.as_str()), (vec![2], "tcp :80"));
    press(&mut ui, KeyCode::Char('/'));
    type_text(&mut ui, "x");
    assert!(shown(&ui).is_empty());
    // Giving up leaves what was before.
    press(&mut ui, KeyCode::Esc);
    assert_eq!(shown(&ui), [2]);
    press(&mut ui, KeyCode::Char('/'));
    ui.key(control('u'));
    press(&mut ui, KeyCode::Enter);
    assert_eq!(shown(&ui).len(), 2);
}

#[test]
fn a_pause_holds_what_is_shown() {
    let mut ui = ui(vec![flow(1, 0, 0)]);
    ui.fit(4);
    press(&mut ui, KeyCode::Char('p'));
    ui.take(look(1000, vec![flow(2, 0, 0), flow(3, 0, 0)]));
    assert!(ui.is_paused());
    assert_eq!(shown(&ui), [1]);
    assert_eq!(ui.heard_at().as_millis(), 1000, "it goes on behind");
    press(&mut ui, KeyCode::Char('p'));
    assert_eq!(shown(&ui), [2, 3]);
}

#[test]
fn rules_are_typed_and_cleared() {
    let mut ui = ui(vec![]);
    let mut with_rules = look(1000, vec![]);
    with_rules.rules = vec![impaired("loss=1%"), impaired("up delay=5ms")];
    ui.take(with_rules);
    press(&mut ui, KeyCode::Char('i'));
    let Mode::Impair(line) = &ui.mode else {
        panic!("no line to type in");
    };
    assert_eq!(line.text(), "loss=1%; up delay=5ms");
    type_text(&mut ui, ";; dead ;");
    let rules = ["loss=1%", "up delay=5ms", "dead"].map(|rule| rule.parse().unwrap());
    assert_eq!(
        press(&mut ui, KeyCode::Enter),
        Wish::Tell(Errand::Impair(rules.to_vec()))
    );
    // What makes no sense is kept, to be made sense of.
    press(&mut ui, KeyCode::Char('i'));
    type_text(&mut ui, "; nonsense");
    assert_eq!(press(&mut ui, KeyCode::Enter), Wish::None);
    assert!(ui.message.as_deref().unwrap().contains("nonsense"));
    press(&mut ui, KeyCode::Char('i'));
    let Mode::Impair(line) = &ui.mode else {
        panic!("no line to type in");
    };
    assert!(line.text().ends_with("; nonsense"));
    assert_eq!(press(&mut ui, KeyCode::Esc), Wish::None);
    assert_eq!(
        press(&mut ui, KeyCode::Char('c')),
        Wish::Tell(Errand::Impair(vec![]))
    );
}

#[test]
fn there_is_a_way_out() {
    let mut ui = ui(vec![]);
    assert_eq!(press(&mut ui, KeyCode::Char('q')), Wish::Quit);
    assert_eq!(ui.key(control('c')), Wish::Quit);
    assert_eq!(ui.key(control('z')), Wish::Suspend);
    assert_eq!(ui.key(control('l')), Wish::Redraw);
    press(&mut ui, KeyCode::Char('?'));
    assert_eq!(ui.key(control('c')), Wish::Quit);
    press(&mut ui, KeyCode::Char('?'));
    press(&mut ui, KeyCode::Down);
    assert_eq!(ui.mode, Mode::Help(1));
    // In the help q goes back, as any key.
    assert_eq!(press(&mut ui, KeyCode::Char('q')), Wish::None);
    assert_eq!(ui.mode, Mode::Flows);
}

#[test]
fn another_gateway_starts_from_nothing() {
    let mut ui = ui(vec![flow(1, 0, 0)]);
    press(&mut ui, KeyCode::Char('s'));
    press(&mut ui, KeyCode::Down);
    ui.start_again(Model::new(hello()));
    ui.fit(4);
    assert_eq!((shown(&ui), selected(&ui)), (vec![], None));
    assert_eq!(ui.order, Order::Total);
}

proptest! {
    #[test]
    fn no_keys_break_it(
        steps in prop::collection::vec((0..24_u8, any::<char>(), 0..30_usize, any::<bool>()), 0..120)
    ) {
        let mut ui = ui((0..12).map(|id| flow(id, id, 0)).collect());
        for (n, (which, c, size, ctrl)) in steps.into_iter().enumerate() {
            let code = match which {
                0 => KeyCode::Up,
                1 => KeyCode::Down,
                2 => KeyCode::PageUp,
                3 => KeyCode::PageDown,
                4 => KeyCode::Home,
                5 => KeyCode::End,
                6 => KeyCode::Enter,
                7 => KeyCode::Esc,
                8 => KeyCode::Backspace,
                9..18 => KeyCode::Char("kqs/rpi?y".chars().nth(usize::from(which) - 9).unwrap()),
                18 => {
                    let count = u64::try_from(size).unwrap();
                    let millis = 100 * u64::try_from(n).unwrap();
                    ui.take(look(millis, (0..count).map(|id| flow(id, id * millis, 0)).collect()));
                    continue;
                }
                19 => {
                    ui.fit(size);
                    continue;
                }
                _ => KeyCode::Char(c),
            };
            let modifiers = if ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
            ui.key(KeyEvent::new(code, modifiers));
            let (places, selected) = ui.on_screen();
            prop_assert!(places.len() <= ui.page);
            prop_assert!(selected.is_none_or(|at| at < places.len()));
            prop_assert_eq!(selected.is_some(), ui.selected.is_some());
        }
    }
}
