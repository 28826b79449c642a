//! What the keys do, and what is on the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::{put, split_below};

/// Below 80 columns its lines are broken; it can be scrolled.
const HELP: &str = "\
 Up Down PgUp PgDn Home End  select a flow; Esc selects none
 k, Delete   kill the selected flow: reset it on both sides, after a question
 /           show only flows that contain all words typed: names, addresses,
             ports, processes, tcp, udp, open, connecting, half closed
 s, r        sort by rate, total, age, name; reverse
 p           pause: what is shown stays, the gateway does not
 i           impair: type rules as for --impair, with ; between; they replace
             those in force, none ends all, like:
             delay=80ms loss=1%; to 192.0.2.0/24 rate=2mbit
 c           clear: no impairment any more
 Ctrl-L      draw everything anew;  Ctrl-Z stop, as in a shell
 q, Ctrl-C   quit; the gateway goes on

 down, up    frames to and from the guest, in bytes a second; the plot's height
             is the highest rate on it, the peak is since gw top was started
 drops       packets dropped since the gateway was started, by reason, and a
             second where it goes on
 Remote      with > the guest began the flow, with < a client of a forward
 Down, Up    payload to and from the guest, bytes a second; - not known yet
 State       conn: not answered yet, open, half: one direction has closed
";

/// Where the second column of [`HELP`] begins.
const INDENT: usize = 13;

/// Draws the help from the line `from` on, or from the last page; returns from
/// which.
pub(super) fn draw(from: usize, area: Rect, buffer: &mut Buffer) -> usize {
    let columns = usize::from(area.width);
    let lines: Vec<String> = HELP
        .lines()
        .flat_map(|line| broken(line, columns))
        .collect();
    let from = from.min(lines.len().saturating_sub(usize::from(area.height)));
    let mut rest = area;
    for line in &lines[from..] {
        let (at, below) = split_below(rest, 1);
        put(buffer, at, line, Style::new());
        rest = below;
    }
    from
}

/// A line in as many as it takes, broken between words.
fn broken(line: &str, columns: usize) -> Vec<String> {
    if line.len() <= columns {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let last = lines.last().map_or(0, String::len);
        if last + word.trim_end().len() > columns && last > INDENT {
            lines.push(" ".repeat(INDENT));
        }
        if let Some(last) = lines.last_mut() {
            last.push_str(word);
        }
    }
    lines
}
