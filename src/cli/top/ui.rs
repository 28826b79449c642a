//! What is on the screen, and what keys do to it. Draws nothing and asks nobody.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::input::{Line, Typed};
use super::model::{Look, Model};
use super::names;
use super::order::{Direction, Order, arrange};
use crate::control::proto::FlowId;
use crate::impair::{Rule, RuleError};

/// Between rules of impairment where they are typed.
const BETWEEN_RULES: char = ';';

/// What keys are for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// The flows.
    Flows,
    /// The help, from this line on.
    Help(usize),
    /// Typing what flows contain; what it was before is kept for who gives up.
    Filter(Line, String),
    /// Typing rules of impairment.
    Impair(Line),
    /// Asked whether this flow is to be reset.
    Kill(FlowId, String),
}

/// What the gateway is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    /// Reset this flow, which is called so.
    Close(FlowId, String),
    /// Impair by these rules and no others; without any: not at all.
    Impair(Vec<Rule>),
}

/// What a key asks for beyond the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing.
    None,
    /// To end.
    Quit,
    /// To be stopped, as by a shell's Ctrl-Z.
    Suspend,
    /// A screen without what others wrote on it.
    Redraw,
    /// That the gateway does something.
    Tell(Errand),
}

/// The state of the screen.
#[derive(Debug, Clone)]
pub(super) struct Ui {
    model: Model,
    /// What is shown instead of `model` while it is paused.
    frozen: Option<Box<Model>>,
    /// The flows that are shown, as places in the rows of the model.
    places: Vec<usize>,
    /// By what they are sorted.
    pub(super) order: Order,
    direction: Direction,
    /// What they contain.
    pub(super) filter: String,
    selected: Option<FlowId>,
    /// Where the selected flow is among `places`, or was.
    cursor: usize,
    /// The first of `places` on the screen.
    top: usize,
    /// How many of them there is room for.
    page: usize,
    /// What keys are for.
    pub(super) mode: Mode,
    /// What was said last, until the next key.
    pub(super) message: Option<String>,
    /// Rules that were typed and make no sense yet.
    draft: Option<String>,
}

impl Ui {
    /// Shows `model`.
    pub(super) fn new(model: Model) -> Self {
        Self {
            model,
            frozen: None,
            places: Vec::new(),
            order: Order::default(),
            direction: Direction::default(),
            filter: String::new(),
            selected: None,
            cursor: 0,
            top: 0,
            page: 1,
            mode: Mode::Flows,
            message: None,
            draft: None,
        }
    }

    /// What is to be shown.
    pub(super) fn shown(&self) -> &Model {
        self.frozen.as_deref().unwrap_or(&self.model)
    }

    /// When the gateway was last heard of, on the clock of the looks.
    pub(super) const fn heard_at(&self) -> Duration {
        self.model.at
    }

    /// True while what is shown stays as it is.
    pub(super) const fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// True when the last comes first.
    pub(super) fn is_backward(&self) -> bool {
        self.direction == Direction::Backward
    }

    /// The flows that are shown, as places in the rows of [`Ui::shown`].
    pub(super) fn places(&self) -> &[usize] {
        &self.places
    }

    /// Those of them that there is room for, and which of these is selected.
    pub(super) fn on_screen(&self) -> (&[usize], Option<usize>) {
        let end = (self.top + self.page).min(self.places.len());
        let visible = self.places.get(self.top..end).unwrap_or_default();
        let selected = self
            .selected
            .and_then(|_| self.cursor.checked_sub(self.top));
        (visible, selected.filter(|at| *at < visible.len()))
    }

    /// Takes in what was seen of the gateway.
    pub(super) fn take(&mut self, look: Look) {
        self.model.take(look);
        if self.frozen.is_none() {
            self.arrange();
        }
    }

    /// Another gateway has taken the place of the one before.
    pub(super) fn start_again(&mut self, model: Model) {
        *self = Self {
            order: self.order,
            direction: self.direction,
            filter: std::mem::take(&mut self.filter),
            message: Some("connected again, to another gateway".to_owned()),
            ..Self::new(model)
        };
    }

    /// Says something until the next key.
    pub(super) fn say(&mut self, text: String) {
        self.message = Some(text);
    }

    /// There is room for `page` flows.
    pub(super) fn fit(&mut self, page: usize) {
        self.page = page.max(1);
        self.keep_in_sight();
    }

    /// Does what `key` says.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        self.message = None;
        match std::mem::replace(&mut self.mode, Mode::Flows) {
            Mode::Flows => self.key_among_flows(key),
            Mode::Help(from) => self.key_in_help(key, from),
            Mode::Filter(line, before) => self.key_in_filter(key, line, before),
            Mode::Impair(line) => self.key_in_impair(key, line),
            Mode::Kill(id, what) => self.key_in_kill(key, id, what),
        }
    }

    fn key_among_flows(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Wish::Quit,
                KeyCode::Char('z') => Wish::Suspend,
                KeyCode::Char('l') => Wish::Redraw,
                _ => Wish::None,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help(0),
            KeyCode::Char('/') => {
                self.mode = Mode::Filter(Line::new(&self.filter), self.filter.clone());
            }
            KeyCode::Char('s') => self.sort(self.order.next()),
            KeyCode::Char('r') => {
                self.direction = self.direction.turned();
                self.arrange();
            }
            KeyCode::Char('p') => self.pause(),
            KeyCode::Char('k') | KeyCode::Delete => self.ask_to_kill(),
            KeyCode::Char('i') => self.ask_for_rules(),
            KeyCode::Char('c') => return Wish::Tell(Errand::Impair(Vec::new())),
            KeyCode::Esc => self.selected = None,
            _ => self.select(key.code),
        }
        Wish::None
    }

    fn select(&mut self, key: KeyCode) {
        let at = if self.selected.is_some() {
            match key {
                KeyCode::Up => self.cursor.saturating_sub(1),
                KeyCode::Down => self.cursor + 1,
                KeyCode::PageUp => self.cursor.saturating_sub(self.page),
                KeyCode::PageDown => self.cursor + self.page,
                KeyCode::Home => 0,
                KeyCode::End => usize::MAX,
                _ => return,
            }
        } else {
            match key {
                KeyCode::Up | KeyCode::Down | KeyCode::Home => self.top,
                KeyCode::PageUp => self.top.saturating_sub(self.page),
                KeyCode::PageDown => self.top + self.page,
                KeyCode::End => usize::MAX,
                _ => return,
            }
        };
        self.cursor = at.min(self.places.len().saturating_sub(1));
        let place = self.places.get(self.cursor);
        self.selected = place.map(|&at| self.shown().rows[at].flow.id);
        self.keep_in_sight();
    }

    fn sort(&mut self, order: Order) {
        self.order = order;
        self.direction = Direction::default();
        self.arrange();
    }

    fn pause(&mut self) {
        self.frozen = match self.frozen {
            None => Some(Box::new(self.model.clone())),
            Some(_) => None,
        };
        self.arrange();
    }

    fn ask_to_kill(&mut self) {
        let selected = self.selected.and_then(|id| {
            let mut rows = self.shown().rows.iter();
            rows.find(|row| row.flow.id == id)
        });
        match selected {
            Some(row) => self.mode = Mode::Kill(row.flow.id, names::whole(&row.flow)),
            None => self.say("select a flow first, with the arrow keys".to_owned()),
        }
    }

    fn ask_for_rules(&mut self) {
        let in_place = || {
            let rules = self.model.rules.iter().map(|rule| rule.rule.as_str());
            rules.collect::<Vec<_>>().join(&format!("{BETWEEN_RULES} "))
        };
        let text = self.draft.take().unwrap_or_else(in_place);
        self.mode = Mode::Impair(Line::new(&text));
    }

    fn key_in_help(&mut self, key: KeyEvent, from: usize) -> Wish {
        self.mode = match key.code {
            KeyCode::Up => Mode::Help(from.saturating_sub(1)),
            KeyCode::Down => Mode::Help(from.saturating_add(1)),
            KeyCode::PageUp => Mode::Help(from.saturating_sub(10)),
            KeyCode::PageDown => Mode::Help(from.saturating_add(10)),
            KeyCode::Home => Mode::Help(0),
            _ => Mode::Flows,
        };
        if is_control_c(key) {
            return Wish::Quit;
        }
        Wish::None
    }

    fn key_in_filter(&mut self, key: KeyEvent, mut line: Line, before: String) -> Wish {
        match line.key(key) {
            Typed::Edited => {
                self.filter = line.text();
                self.mode = Mode::Filter(line, before);
            }
            Typed::Entered => {}
            Typed::Abandoned => self.filter = before,
        }
        self.arrange();
        Wish::None
    }

    fn key_in_impair(&mut self, key: KeyEvent, mut line: Line) -> Wish {
        match line.key(key) {
            Typed::Edited => self.mode = Mode::Impair(line),
            Typed::Entered => match rules(&line.text()) {
                Ok(rules) => return Wish::Tell(Errand::Impair(rules)),
                Err(error) => {
                    self.say(error.to_string());
                    self.draft = Some(line.text());
                }
            },
            Typed::Abandoned => {}
        }
        Wish::None
    }

    fn key_in_kill(&mut self, key: KeyEvent, id: FlowId, what: String) -> Wish {
        match key.code {
            KeyCode::Char('y' | 'Y') => Wish::Tell(Errand::Close(id, what)),
            _ => {
                self.say("not killed".to_owned());
                Wish::None
            }
        }
    }

    /// Sorts and filters anew. The selected flow stays so wherever it comes to be.
    /// When it has gone none is: what a key does should not befall another.
    fn arrange(&mut self) {
        let rows = &self.shown().rows;
        let places = arrange(rows, &self.filter, self.order, self.direction);
        let at = self.selected.and_then(|id| {
            let mut ids = places.iter().map(|&at| rows[at].flow.id);
            ids.position(|other| other == id)
        });
        self.places = places;
        match at {
            Some(at) => self.cursor = at,
            None => self.selected = None,
        }
        self.keep_in_sight();
    }

    fn keep_in_sight(&mut self) {
        let last = self.places.len().saturating_sub(1);
        self.cursor = self.cursor.min(last);
        if self.selected.is_some() {
            let lowest = (self.cursor + 1).saturating_sub(self.page);
            self.top = self.top.clamp(lowest, self.cursor);
        } else {
            // Nobody follows a flow: from the first on.
            self.top = 0;
        }
        self.top = self.top.min(self.places.len().saturating_sub(self.page));
    }
}

fn rules(text: &str) -> Result<Vec<Rule>, RuleError> {
    let rules = text.split(BETWEEN_RULES).map(str::trim);
    let rules = rules.filter(|rule| !rule.is_empty());
    rules.map(str::parse).collect()
}

fn is_control_c(key: KeyEvent) -> bool {
    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}

#[cfg(test)]
#[path = "ui_tests.rs"]
mod tests;
