//! Manual pages, one for the program and one for each of its subcommands.
//!
//! `clap_mangen` makes the sections that follow from the definitions. The text that
//! `--help` shows after the options is cut into sections here: a paragraph that
//! begins with a title and a colon is one.

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};

use crate::Error;

/// A manual page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its file's name.
    pub(crate) file: String,
    /// In troff's language.
    pub(crate) text: String,
}

/// The date from `SOURCE_DATE_EPOCH` as `YYYY-MM-DD`; empty without.
pub(crate) fn date() -> Result<String, Error> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.parse() {
            Ok(seconds) => Ok(day(seconds)),
            Err(_) => Err(Error::Epoch(text)),
        },
        Err(_) => Ok(String::new()),
    }
}

/// The day that is `seconds` after the beginning of 1970, by the Gregorian calendar
/// of 400 years with 146097 days, counted from the first of March.
fn day(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    // January and February end the year that began in March.
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + carry)
}

/// The pages of `program` and its visible subcommands.
pub(crate) fn pages(program: Command, date: &str) -> Vec<Page> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let name = program.get_name().to_owned();
    let commands: Vec<Command> = program
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned()
        .collect();
    let names: Vec<String> = commands
        .iter()
        .map(|command| format!("{name}-{}", command.get_name()))
        .collect();
    let mut pages = vec![page(program, &name, &names, date)];
    for (command, sub) in commands.into_iter().zip(&names) {
        let others: Vec<String> = [&name]
            .into_iter()
            .chain(names.iter().filter(|other| *other != sub))
            .cloned()
            .collect();
        pages.push(page(command, sub, &others, date));
    }
    pages
}

fn page(command: Command, name: &str, see_also: &[String], date: &str) -> Page {
    let help = command
        .get_after_long_help()
        .or_else(|| command.get_after_help())
        .map(ToString::to_string);
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section("1")
        .date(date)
        .source(concat!("gw ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut made = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = man.render_title(&mut made);
    let _ = man.render_name_section(&mut made);
    let _ = man.render_synopsis_section(&mut made);
    let _ = man.render_description_section(&mut made);
    let _ = man.render_options_section(&mut made);
    let mut text = String::from_utf8_lossy(&made).into_owned();
    for paragraph in help.iter().flat_map(|text| text.trim().split("\n\n")) {
        text.push_str(&section(paragraph));
    }
    text.push_str(&references(see_also));
    Page {
        file: format!("{name}.1"),
        text: tidy(&text),
    }
}

/// A paragraph as a section of its own if it has a title.
fn section(paragraph: &str) -> String {
    let mut roff = Roff::new();
    let body = match paragraph.split_once(':') {
        Some((title, body)) if title.lines().count() == 1 && !title.starts_with(' ') => {
            roff.control("SH", [title.to_uppercase().as_str()]);
            body.trim_matches('\n')
        }
        _ => {
            roff.control("PP", []);
            paragraph
        }
    };
    let laid_out = body.lines().any(|line| line.starts_with("  "));
    if laid_out {
        roff.control("nf", []);
    }
    for line in body.lines() {
        roff.text([roman(if laid_out { line } else { line.trim() })]);
    }
    if laid_out {
        roff.control("fi", []);
    }
    roff.to_roff()
}

fn references(pages: &[String]) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    for (i, page) in pages.iter().enumerate() {
        let end = if i + 1 == pages.len() { "" } else { "," };
        roff.control("BR", [page.as_str(), &format!("(1){end}")]);
    }
    roff.to_roff()
}

/// Removes what clap_mangen leaves behind: the preamble in front of each section but
/// the first, line breaks beside empty lines, and blanks at ends of lines.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let is_space = |i: usize| {
        lines
            .get(i)
            .is_some_and(|line| line.is_empty() || *line == ".sp")
    };
    let mut tidied = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate() {
        let preamble = line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
        let beside_space = is_space(i + 1) || i.checked_sub(1).is_some_and(is_space);
        if (preamble && i > 1) || (*line == ".br" && beside_space) {
            continue;
        }
        tidied.push_str(line);
        tidied.push('\n');
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_709_251_199), "2024-02-29");
        assert_eq!(day(1_709_251_200), "2024-03-01");
        assert_eq!(day(1_798_675_199), "2026-12-30");
    }

    #[test]
    fn paragraphs_become_sections() {
        assert_eq!(
            section("Examples:\n  gw run   a shell\n  gw -h    help"),
            ".SH EXAMPLES\n.nf\n  gw run   a shell\n  gw \\-h    help\n.fi\n"
        );
        assert_eq!(
            section("Exit status: 0 when well;\n1 when not."),
            ".SH \"EXIT STATUS\"\n0 when well;\n1 when not.\n"
        );
        assert_eq!(section("No title"), ".PP\nNo title\n");
    }
}
