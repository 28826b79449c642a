//! The flows, a line each, in as many columns as there is room for.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row as TableRow, Table, Widget as _};

use super::{Theme, put, split_below};
use crate::cli::top::model::Row;
use crate::cli::top::names;
use crate::cli::top::text::{self, Charset};
use crate::cli::top::ui::Ui;
use crate::control::proto::FlowState;

/// Least columns of the remote's name, before others are left out for it.
const REMOTE_LEAST: u16 = 18;

/// Columns of the remote's name from which on others may grow.
const REMOTE_MUCH: u16 = 40;

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Marker,
    Protocol,
    /// The guest's port.
    Port,
    /// The guest's address and port.
    Guest,
    Remote,
    Process,
    /// With room for an id and a longer name.
    WideProcess,
    State,
    Down,
    Up,
    Total,
    Received,
    Sent,
    Age,
    Idle,
}

/// From left to right.
const PLACES: [Column; 15] = [
    Column::Marker,
    Column::Protocol,
    Column::Port,
    Column::Guest,
    Column::Remote,
    Column::Process,
    Column::WideProcess,
    Column::State,
    Column::Down,
    Column::Up,
    Column::Total,
    Column::Received,
    Column::Sent,
    Column::Age,
    Column::Idle,
];

/// Those that are left out in narrow terminals, what is missed most first.
const OPTIONAL: [Column; 6] = [
    Column::Total,
    Column::Process,
    Column::State,
    Column::Port,
    Column::Age,
    Column::Idle,
];

/// What takes the place of what where there is more than enough room.
const WIDER: [(Column, &[Column]); 3] = [
    (Column::Process, &[Column::WideProcess]),
    (Column::Port, &[Column::Guest]),
    (Column::Total, &[Column::Received, Column::Sent]),
];

impl Column {
    const fn title(self) -> &'static str {
        match self {
            Self::Marker => "",
            Self::Protocol => "Pr",
            Self::Port => "Guest",
            Self::Guest => "Guest",
            Self::Remote => "  Remote",
            Self::Process | Self::WideProcess => "Process",
            Self::State => "State",
            Self::Down => "Down",
            Self::Up => "Up",
            Self::Total => "Total",
            Self::Received => "Recvd",
            Self::Sent => "Sent",
            Self::Age => "Age",
            Self::Idle => "Idle",
        }
    }

    /// Columns of the terminal; of the remote the least.
    const fn width(self) -> u16 {
        match self {
            Self::Marker => 1,
            Self::Protocol => 3,
            Self::Port | Self::State | Self::Total | Self::Received | Self::Sent => 5,
            Self::Guest => 22,
            Self::Remote => REMOTE_LEAST,
            Self::Process => 10,
            Self::WideProcess => 22,
            Self::Down | Self::Up => 6,
            Self::Age | Self::Idle => 4,
        }
    }

    const fn is_number(self) -> bool {
        !matches!(
            self,
            Self::Marker
                | Self::Protocol
                | Self::Guest
                | Self::Remote
                | Self::Process
                | Self::WideProcess
                | Self::State
        )
    }
}

/// Columns of the terminal that these take, one between each two.
fn taken(columns: &[Column]) -> u16 {
    let widths = columns.iter().map(|column| column.width() + 1);
    widths.sum::<u16>().saturating_sub(1)
}

/// The columns for a terminal of this width.
fn columns(width: u16, processes: bool) -> Vec<Column> {
    let mut chosen = vec![
        Column::Marker,
        Column::Protocol,
        Column::Remote,
        Column::Down,
        Column::Up,
    ];
    let wanted = |column: &Column| processes || *column != Column::Process;
    for column in OPTIONAL.into_iter().filter(wanted) {
        chosen.push(column);
        if taken(&chosen) > width {
            chosen.pop();
        }
    }
    for (narrow, wide) in WIDER {
        let Some(at) = chosen.iter().position(|column| *column == narrow) else {
            continue;
        };
        let before = chosen.clone();
        chosen.splice(at..=at, wide.iter().copied());
        if taken(&chosen) + (REMOTE_MUCH - REMOTE_LEAST) > width {
            chosen = before;
        }
    }
    PLACES
        .into_iter()
        .filter(|column| chosen.contains(column))
        .collect()
}

/// Draws the flows of `ui`, as many as there is room for.
pub(super) fn draw(theme: Theme, ui: &mut Ui, area: Rect, buffer: &mut Buffer) {
    let lines = area.height.saturating_sub(1);
    let beyond = ui.shown().not_looked_at();
    let cut = ui.places().len() > usize::from(lines) || beyond > 0;
    let page = if cut { lines.saturating_sub(1) } else { lines };
    ui.fit(usize::from(page));
    let processes = {
        let rows = &ui.shown().rows;
        rows.iter().any(|row| names::process(&row.flow).is_some())
    };
    let columns = columns(area.width, processes);
    let (table, last) = split_below(area, page + 1);
    draw_rows(theme, ui, &columns, table, buffer);
    if let Some(text) = remark(ui, beyond) {
        let at = if ui.places().is_empty() {
            split_below(table, 1).1
        } else {
            last
        };
        put(buffer, at, &format!("  {text}"), Style::new());
    }
}

/// What is to be said of flows that are not on the screen.
fn remark(ui: &Ui, beyond: usize) -> Option<String> {
    let (on_screen, _) = ui.on_screen();
    let (shown, all, model) = (on_screen.len(), ui.places().len(), ui.shown());
    let beyond = match beyond {
        0 => String::new(),
        n => format!(", and {n} more that were not looked at"),
    };
    if model.statistics.is_none() {
        Some("waiting for the gateway".to_owned())
    } else if all == 0 && model.rows.is_empty() {
        Some(format!("no flows{beyond}"))
    } else if all == 0 {
        Some(format!("no flow matches the filter{beyond}"))
    } else if shown < all || !beyond.is_empty() {
        Some(format!("{shown} of {all} flows{beyond}"))
    } else {
        None
    }
}

fn draw_rows(theme: Theme, ui: &Ui, columns: &[Column], area: Rect, buffer: &mut Buffer) {
    let (places, selected) = ui.on_screen();
    let remote = area.width - taken(columns) + REMOTE_LEAST;
    let header = columns
        .iter()
        .map(|column| aligned(*column, column.title().to_owned(), Style::new()));
    let header = TableRow::new(header).style(Modifier::BOLD | Modifier::UNDERLINED);
    let rows = places.iter().enumerate().map(|(line, &at)| {
        let row = &ui.shown().rows[at];
        let is_selected = selected == Some(line);
        let cells = columns.iter().map(|&column| {
            let (text, style) = cell(theme, row, column, remote, is_selected);
            aligned(column, text, style)
        });
        let style = if is_selected {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        TableRow::new(cells).style(style)
    });
    let widths = columns.iter().map(|column| match column {
        Column::Remote => Constraint::Length(remote),
        column => Constraint::Length(column.width()),
    });
    Table::new(rows, widths)
        .header(header)
        .column_spacing(1)
        .render(area, buffer);
}

fn aligned(column: Column, text: String, style: Style) -> Cell<'static> {
    let line = Line::styled(text, style);
    let line = if column.is_number() {
        line.right_aligned()
    } else {
        line
    };
    Cell::new(Text::from(line))
}

fn cell(theme: Theme, row: &Row, column: Column, remote: u16, selected: bool) -> (String, Style) {
    let flow = &row.flow;
    let charset = theme.charset;
    let plain = |text: String| (text, Style::new());
    let rate = |rate: Option<u64>, colour| match rate {
        None => ("-".to_owned(), Style::new()),
        Some(0) => ("0".to_owned(), Style::new()),
        Some(rate) => (text::short(rate), theme.colour(colour)),
    };
    match column {
        Column::Marker => plain(if selected { "*" } else { "" }.to_owned()),
        Column::Protocol => plain(names::protocol(flow.protocol).to_owned()),
        Column::Port => plain(flow.guest.port().to_string()),
        Column::Guest => plain(fit(&flow.guest.to_string(), column.width(), charset)),
        Column::Remote => {
            let name = text::plain(&names::remote(flow), charset);
            let name = fit(&name, remote.saturating_sub(2), charset);
            plain(format!("{} {name}", names::arrow(flow.direction)))
        }
        Column::Process | Column::WideProcess => {
            let process = match column {
                Column::Process => names::process(flow).map(ToOwned::to_owned),
                _ => names::numbered_process(flow),
            };
            let process = text::plain(&process.unwrap_or_default(), charset);
            let room = usize::from(column.width());
            plain(text::cut_end(&process, room, charset).into_owned())
        }
        Column::State => {
            let style = match flow.state {
                FlowState::Open => Style::new(),
                FlowState::Connecting | FlowState::HalfClosed => theme.colour(Color::Yellow),
            };
            (names::state(flow.state).to_owned(), style)
        }
        Column::Down => rate(row.down, Color::Green),
        Column::Up => rate(row.up, Color::Cyan),
        Column::Total => plain(text::short(row.total())),
        Column::Received => plain(text::short(flow.to_guest)),
        Column::Sent => plain(text::short(flow.from_guest)),
        Column::Age => plain(text::age(flow.age_seconds)),
        Column::Idle => plain(text::age(flow.idle_seconds)),
    }
}

fn fit(text: &str, columns: u16, charset: Charset) -> String {
    text::cut_start(text, usize::from(columns), charset).into_owned()
}
