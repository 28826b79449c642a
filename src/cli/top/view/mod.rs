//! Draws what is to be seen into a buffer of any size.
//!
//! ```text
//!   gw tap0   15 flows (12 TCP, 3 UDP)   up 1 h 5 min   memory 12 of 256 MiB
//!   down  ......::::||||           12 MB/s   peak 34 MB/s
//!   up    ......::::||||          1.2 MB/s   peak 3.4 MB/s
//!   drops malformed 3, no route 12 (+2/s)
//!   impaired: down delay=80ms
//!     Pr  Guest   Remote ...            a line for each flow
//!   sort: rate   ? help ...             or what is typed, or was said
//! ```
//!
//! What there is no room for is left out, the least important first. Below
//! [`MIN_SIZE`] only that is said.

mod help;
mod table;

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline, Widget as _, Wrap};
use unicode_width::UnicodeWidthStr as _;

use super::input::Line;
use super::model::{Model, Series};
use super::text::{self, Charset};
use super::ui::{Mode, Ui};
use crate::cli::messages::Colour;

/// Columns and lines below which nothing useful can be shown.
pub(super) const MIN_SIZE: (u16, u16) = (40, 10);

/// Columns from which peaks are told.
const WITH_PEAKS: u16 = 60;

/// Columns of the labels on the left.
const LABEL: u16 = 6;

/// Columns of a rate: `999 MB/s`.
const RATE: usize = 8;

/// How much longer than the interval the gateway may be silent before that is said.
const SILENCE: Duration = Duration::from_secs(5);

/// Bars where only ASCII can be shown.
const ASCII_BARS: bar::Set<'static> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "|",
    five_eighths: "|",
    half: ":",
    three_eighths: ":",
    one_quarter: ".",
    one_eighth: ".",
    empty: " ",
};

/// What the terminal can and should show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) colour: Colour,
    pub(super) charset: Charset,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        match self.colour {
            Colour::On => Style::new().fg(colour),
            Colour::Off => Style::new(),
        }
    }

    fn bold(self, colour: Color) -> Style {
        self.colour(colour).add_modifier(Modifier::BOLD)
    }
}

/// What a frame depends on beside what is on the screen.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) theme: Theme,
    /// Between two looks.
    pub(super) interval: Duration,
    /// On the clock of the looks.
    pub(super) now: Duration,
}

/// Text with its style.
type Part = (String, Style);

impl View {
    /// Draws a frame; returns where the cursor belongs, if it is to be seen.
    pub(super) fn draw(&self, ui: &mut Ui, buffer: &mut Buffer) -> Option<Position> {
        let area = buffer.area;
        if area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1 {
            too_small(buffer);
            return None;
        }
        let (above, last) = split_below(area, area.height - 1);
        if let Mode::Help(from) = &mut ui.mode {
            *from = help::draw(*from, above, buffer);
        } else {
            self.draw_gateway(ui, above, buffer);
        }
        self.draw_last_line(ui, last, buffer)
    }

    /// Draws a frame of which nobody expects that it hears keys.
    pub(super) fn draw_plain(&self, ui: &mut Ui, buffer: &mut Buffer) {
        let area = buffer.area;
        if area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1 {
            too_small(buffer);
        } else {
            self.draw_gateway(ui, area, buffer);
        }
    }

    /// All but the last line.
    fn draw_gateway(&self, ui: &mut Ui, area: Rect, buffer: &mut Buffer) {
        let model = ui.shown();
        let (header, rest) = split_below(area, 1);
        self.draw_header(ui, header, buffer);
        let plot = match area.height {
            0..30 => 1,
            30..45 => 2,
            _ => 4,
        };
        let (down, rest) = split_below(rest, plot);
        let (up, mut rest) = split_below(rest, plot);
        self.draw_plot("down", &model.down, Color::Green, down, buffer);
        self.draw_plot("up", &model.up, Color::Cyan, up, buffer);
        // The more there is room for, the more of it.
        for line in self.drops(
            model,
            usize::from(area.width),
            usize::from((area.height + 1) / 8),
        ) {
            let (at, below) = split_below(rest, 1);
            put_parts(buffer, at, &line);
            rest = below;
        }
        if let Some(line) = self.rules(model, usize::from(area.width)) {
            let (at, below) = split_below(rest, 1);
            put_parts(buffer, at, &[line]);
            rest = below;
        }
        table::draw(self.theme, ui, rest, buffer);
    }

    fn draw_header(&self, ui: &Ui, area: Rect, buffer: &mut Buffer) {
        let model = ui.shown();
        let charset = self.theme.charset;
        let notice = self.notice(ui);
        let room =
            usize::from(area.width) - notice.as_ref().map_or(0, |(text, _)| text.width() + 2);
        let interface = text::plain(&model.hello.interface, charset);
        let name = text::cut_end(&interface, usize::from(area.width) / 3, charset);
        let mut parts = vec![(format!("gw {name}"), self.theme.bold(Color::Reset))];
        if let Some(statistics) = &model.statistics {
            let (flows, memory) = (statistics.flows, statistics.memory);
            let (used, budget) = (text::mebibytes(memory.used), text::mebibytes(memory.budget));
            let more = [
                format!("{} TCP, {} UDP", flows.tcp, flows.udp),
                format!("up {}", text::uptime(statistics.uptime_seconds)),
                format!("memory {used} of {budget} MiB"),
                format!("every {}", text::interval(self.interval)),
                format!("gw {}", text::plain(&model.hello.version, charset)),
            ];
            parts.extend(more.map(|part| (part, Style::new())));
        }
        put_parts(buffer, area, &joined(parts, "   ", room));
        if let Some((text, style)) = notice {
            put_right(buffer, area, &text, style);
        }
    }

    /// What should be known before the numbers are believed.
    fn notice(&self, ui: &Ui) -> Option<Part> {
        let silent = self.now.saturating_sub(ui.heard_at());
        let style = self.theme.bold(Color::Yellow);
        if silent > self.interval + SILENCE {
            let text = format!("NO ANSWER for {} s", silent.as_secs());
            Some((text, self.theme.bold(Color::Red)))
        } else if ui.is_paused() {
            Some(("PAUSED".to_owned(), style))
        } else {
            None
        }
    }

    fn draw_plot(
        &self,
        label: &str,
        series: &Series,
        colour: Color,
        area: Rect,
        buffer: &mut Buffer,
    ) {
        put(buffer, area, label, Style::new());
        let now = series.now().map_or("-".to_owned(), text::per_second);
        let mut numbers = format!("  {now:>RATE$}");
        if area.width >= WITH_PEAKS {
            numbers += &format!("   peak {:>RATE$}", text::per_second(series.peak));
        }
        let taken = LABEL + u16::try_from(numbers.len()).unwrap_or(area.width);
        put_right(buffer, area, &numbers, Style::new());
        let plot = Rect {
            x: area.x + LABEL,
            width: area.width.saturating_sub(taken),
            ..area
        };
        let bars = match self.theme.charset {
            Charset::Unicode => bar::NINE_LEVELS,
            Charset::Ascii => ASCII_BARS,
        };
        Sparkline::default()
            .data(series.newest_first().take(usize::from(plot.width)))
            .direction(RenderDirection::RightToLeft)
            .bar_set(bars)
            .style(self.theme.colour(colour))
            .render(plot, buffer);
    }

    /// What is dropped, in at most `lines` lines.
    fn drops(&self, model: &Model, columns: usize, lines: usize) -> Vec<Vec<Part>> {
        let label = (format!("{:<1$}", "drops", usize::from(LABEL)), Style::new());
        let drops = &model.drops;
        if drops.is_empty() {
            return vec![vec![label, ("none".to_owned(), Style::new())]];
        }
        let part = |at: usize| {
            let drop = &drops[at];
            let reason = text::plain(&drop.reason, self.theme.charset);
            let comma = if at + 1 < drops.len() { ", " } else { "" };
            match drop.rate {
                0 => (format!("{reason} {}{comma}", drop.total), Style::new()),
                rate => (
                    format!("{reason} {} (+{rate}/s){comma}", drop.total),
                    self.theme.bold(Color::Red),
                ),
            }
        };
        let indent = (" ".repeat(usize::from(LABEL)), Style::new());
        let mut filled: Vec<Vec<Part>> = vec![vec![label]];
        let mut used = usize::from(LABEL);
        for at in 0..drops.len() {
            let part = part(at);
            let last_line = filled.len() >= lines.max(1);
            let rest = format!("and {} more", drops.len() - at);
            // On the last line room is kept to say how many are left.
            let kept = if last_line && at + 1 < drops.len() {
                rest.len()
            } else {
                0
            };
            let fits = used + part.0.width() + kept <= columns;
            if !fits && last_line {
                if let Some(line) = filled.last_mut() {
                    line.push((rest, Style::new()));
                }
                break;
            }
            if !fits {
                filled.push(vec![indent.clone()]);
                used = usize::from(LABEL);
            }
            used += part.0.width();
            if let Some(line) = filled.last_mut() {
                line.push(part);
            }
        }
        filled
    }

    /// The impairment in force.
    fn rules(&self, model: &Model, columns: usize) -> Option<Part> {
        let charset = self.theme.charset;
        let rules = model.rules.iter().map(|rule| {
            let when = if rule.in_force { "" } else { " (not now)" };
            text::plain(&rule.rule, charset) + when
        });
        let rules: Vec<String> = rules.collect();
        let text = format!("impair {}", rules.join("; "));
        let style = self.theme.bold(Color::Yellow);
        (!model.rules.is_empty())
            .then(|| (text::cut_end(&text, columns, charset).into_owned(), style))
    }

    fn draw_last_line(&self, ui: &Ui, area: Rect, buffer: &mut Buffer) -> Option<Position> {
        let columns = usize::from(area.width);
        let charset = self.theme.charset;
        match &ui.mode {
            Mode::Filter(line, _) => return Some(self.draw_input("filter: ", line, area, buffer)),
            Mode::Impair(line) => return Some(self.draw_input("impair: ", line, area, buffer)),
            Mode::Kill(_, what) => {
                let what = text::plain(what, charset);
                let room = columns.saturating_sub("kill ? y/n".len());
                let text = format!("kill {}? y/n", text::cut_end(&what, room, charset));
                put(buffer, area, &text, self.theme.bold(Color::Red));
            }
            Mode::Help(_) => {
                let text = "arrows scroll, any other key goes back";
                put(buffer, area, text, Style::new());
            }
            Mode::Flows => match &ui.message {
                Some(message) => {
                    let message = text::plain(message, charset);
                    let text = text::cut_end(&message, columns, charset);
                    put(buffer, area, &text, self.theme.bold(Color::Yellow));
                }
                None => put_parts(buffer, area, &self.keys(ui, columns)),
            },
        }
        None
    }

    fn keys(&self, ui: &Ui, columns: usize) -> Vec<Part> {
        let backward = if ui.is_backward() { " reversed" } else { "" };
        let mut parts = vec![(
            format!("s sort: {}{backward}", ui.order.name()),
            Style::new(),
        )];
        if !ui.filter.is_empty() {
            let filter = text::plain(&ui.filter, self.theme.charset);
            let filter = text::cut_end(&filter, columns / 4, self.theme.charset);
            parts.push((format!("filter: {filter}"), self.theme.bold(Color::Yellow)));
        }
        let keys = [
            "? help", "q quit", "k kill", "i impair", "/ filter", "p pause",
        ];
        parts.extend(keys.map(|key| (key.to_owned(), Style::new())));
        joined(parts, "  ", columns)
    }

    /// A line that is typed: its end is shown, or what is around the cursor.
    fn draw_input(&self, label: &str, line: &Line, area: Rect, buffer: &mut Buffer) -> Position {
        let charset = self.theme.charset;
        let (before, behind) = line.halves();
        let (before, behind) = (text::plain(&before, charset), text::plain(&behind, charset));
        // A column stays free for the cursor.
        let room = usize::from(area.width).saturating_sub(label.len() + 1);
        let before = text::cut_start(&before, room, charset);
        let shown = format!("{label}{before}{behind}");
        put(buffer, area, &shown, self.theme.bold(Color::Reset));
        let at = u16::try_from(label.len() + before.width()).unwrap_or(area.width);
        Position::new(area.x + at.min(area.width.saturating_sub(1)), area.y)
    }
}

/// The first `height` lines of `area`, and what is below.
fn split_below(area: Rect, height: u16) -> (Rect, Rect) {
    let height = height.min(area.height);
    let above = Rect { height, ..area };
    let below = Rect {
        y: area.y + height,
        height: area.height - height,
        ..area
    };
    (above, below)
}

fn too_small(buffer: &mut Buffer) {
    let (columns, lines) = MIN_SIZE;
    let text = format!(
        "too small: gw top needs {columns}x{lines}, this is {}x{}. q quits",
        buffer.area.width, buffer.area.height
    );
    Paragraph::new(text)
        .wrap(Wrap { trim: true })
        .render(buffer.area, buffer);
}

/// Writes text at the beginning of the first line of `area`.
fn put(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    if area.height > 0 {
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    }
}

/// Writes text at the end of the first line of `area`.
fn put_right(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    let line = TextLine::styled(text, style).right_aligned();
    line.render(
        Rect {
            height: area.height.min(1),
            ..area
        },
        buffer,
    );
}

/// Writes parts one after the other.
fn put_parts(buffer: &mut Buffer, area: Rect, parts: &[Part]) {
    let mut rest = area;
    for (text, style) in parts {
        put(buffer, rest, text, *style);
        let columns = u16::try_from(text.width())
            .unwrap_or(u16::MAX)
            .min(rest.width);
        rest.x += columns;
        rest.width -= columns;
    }
}

/// Parts with `between` them, as many of the first as fit into `columns`.
fn joined(parts: Vec<Part>, between: &str, columns: usize) -> Vec<Part> {
    let mut used = 0;
    let mut line = Vec::new();
    for (text, style) in parts {
        let gap = if line.is_empty() { "" } else { between };
        used += gap.len() + text.width();
        if used > columns {
            break;
        }
        line.push((gap.to_owned(), Style::new()));
        line.push((text, style));
    }
    line
}

/// The buffer as lines of text, without what is empty at their ends.
pub(super) fn lines(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        let mut x = buffer.area.left();
        while x < buffer.area.right() {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += u16::try_from(symbol.width()).unwrap_or(1).max(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let used = text.trim_end().len();
    text.truncate(used);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
