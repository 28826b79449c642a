//! Text for cells: units, widths, and what strangers wrote made harmless.

use std::borrow::Cow;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Which characters the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charset {
    /// All.
    Unicode,
    /// Those of ASCII.
    Ascii,
}

impl Charset {
    /// That of the locale, as its variables say.
    pub(super) fn of_locale() -> Self {
        let variables = ["LC_ALL", "LC_CTYPE", "LANG"];
        Self::of(variables.map(|name| std::env::var(name).ok()))
    }

    /// The first that is set to something decides.
    fn of(values: [Option<String>; 3]) -> Self {
        let mut set = values.into_iter().flatten().filter(|v| !v.is_empty());
        let locale = set.next().unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self::Unicode
        } else {
            Self::Ascii
        }
    }

    /// Stands for what was cut off.
    const fn ellipsis(self) -> &'static str {
        match self {
            Self::Unicode => "…",
            Self::Ascii => "~",
        }
    }
}

/// What a stranger wrote, such as the name of a process or host: characters that
/// could steer the terminal, reorder or hide text become `?`.
pub(super) fn plain(text: &str, charset: Charset) -> String {
    let harmless = |c: char| match charset {
        _ if c.is_ascii_graphic() || c == ' ' => true,
        Charset::Unicode => c.is_alphanumeric() && c.width().unwrap_or(0) > 0,
        Charset::Ascii => false,
    };
    text.chars()
        .map(|c| if harmless(c) { c } else { '?' })
        .collect()
}

/// Cuts `text` at its end to `columns`.
pub(super) fn cut_end(text: &str, columns: usize, charset: Charset) -> Cow<'_, str> {
    if text.width() <= columns {
        return Cow::Borrowed(text);
    }
    let room = columns.saturating_sub(1);
    let kept = prefix_of(text.chars(), room);
    let kept: String = text.chars().take(kept).collect();
    let cut = if columns == 0 { "" } else { charset.ellipsis() };
    Cow::Owned(kept + cut)
}

/// Cuts `text` at its beginning to `columns`: of names and addresses, the end
/// says more.
pub(super) fn cut_start(text: &str, columns: usize, charset: Charset) -> Cow<'_, str> {
    if text.width() <= columns {
        return Cow::Borrowed(text);
    }
    let room = columns.saturating_sub(1);
    let kept = prefix_of(text.chars().rev(), room);
    let skipped = text.chars().count() - kept;
    let cut = if columns == 0 { "" } else { charset.ellipsis() };
    Cow::Owned(cut.chars().chain(text.chars().skip(skipped)).collect())
}

/// How many characters fit into `columns`.
fn prefix_of(chars: impl Iterator<Item = char>, columns: usize) -> usize {
    let mut left = columns;
    chars
        .take_while(|c| match left.checked_sub(c.width().unwrap_or(0)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
        .count()
}

/// Three digits and a decimal unit, at most five columns: `0`, `999`, `1.5k`, `12M`.
pub(super) fn short(count: u64) -> String {
    let (number, unit) = scaled(count);
    format!("{number}{unit}")
}

/// Bytes a second: `999 B/s`, `1.5 kB/s`.
pub(super) fn per_second(bytes: u64) -> String {
    let (number, unit) = scaled(bytes);
    format!("{number} {unit}B/s")
}

fn scaled(count: u64) -> (String, &'static str) {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 1000 {
        return (count.to_string(), "");
    }
    // Of `count` in thousands of the unit before: exact enough for three digits.
    let mut thousandths = u128::from(count);
    let mut at = 0;
    while thousandths >= 1_000_000 && at + 1 < UNITS.len() {
        thousandths /= 1000;
        at += 1;
    }
    let (whole, rest) = (thousandths / 1000, thousandths % 1000);
    let number = match whole {
        0..10 => format!("{whole}.{}", rest / 100),
        _ => whole.to_string(),
    };
    (number, UNITS[at])
}

/// Bytes in binary units, for memory: `12 MiB`.
pub(super) fn mebibytes(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

/// One unit, at most four columns: `59s`, `59m`, `23h`, `999d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", (seconds / 86_400).min(999)),
    }
}

/// Two units: `59 s`, `59 min 3 s`, `1 h 5 min`, `3 d 2 h`.
pub(super) fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Seconds as they were asked for: `1 s`, `0.5 s`.
pub(super) fn interval(interval: Duration) -> String {
    format!("{} s", interval.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (9_999, "9.9k"),
            (10_000, "10k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (12_345_678, "12M"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(short(count), text);
        }
        assert_eq!(per_second(0), "0 B/s");
        assert_eq!(per_second(123_456_789), "123 MB/s");
        assert_eq!(mebibytes(1), 1);
        assert_eq!(mebibytes(256 << 20), 256);
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(59, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(age(u64::MAX), "999d");
        for (seconds, text) in [
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3900, "1 h 5 min"),
            (93_600, "1 d 2 h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn the_locale_says_what_can_be_shown() {
        let of = |all: &str, ctype: &str, lang: &str| {
            Charset::of([all, ctype, lang].map(|v| Some(v.to_owned())))
        };
        assert_eq!(of("", "", "de_DE.UTF-8"), Charset::Unicode);
        assert_eq!(of("C", "", "de_DE.UTF-8"), Charset::Ascii);
        assert_eq!(of("", "C.utf8", "C"), Charset::Unicode);
        assert_eq!(Charset::of([None, None, None]), Charset::Ascii);
    }

    #[test]
    fn strangers_do_not_steer_the_terminal() {
        let hostile = "\x1b]0;x\x07a\u{9b}2J\u{202e}b\u{200b}\u{301}c\nd\u{2028}";
        assert_eq!(plain(hostile, Charset::Unicode), "?]0;x?a?2J?b??c?d?");
        assert_eq!(plain("grüße.example", Charset::Unicode), "grüße.example");
        assert_eq!(plain("grüße.example", Charset::Ascii), "gr??e.example");
    }

    #[test]
    fn what_is_long_is_cut() {
        let (u, a) = (Charset::Unicode, Charset::Ascii);
        assert_eq!(cut_end("abcdef", 6, u), "abcdef");
        assert_eq!(cut_end("abcdef", 4, u), "abc…");
        assert_eq!(cut_start("www.example.com:443", 8, a), "~com:443");
        assert_eq!(cut_end("日本語", 4, u), "日…");
        assert_eq!(cut_start("abc", 0, u), "");
    }

    proptest! {
        #[test]
        fn cells_keep_to_their_columns(text in ".*", columns in 0_usize..40, count: u64) {
            for charset in [Charset::Unicode, Charset::Ascii] {
                let text = plain(&text, charset);
                prop_assert!(!text.chars().any(char::is_control));
                prop_assert!(cut_end(&text, columns, charset).width() <= columns);
                prop_assert!(cut_start(&text, columns, charset).width() <= columns);
            }
            prop_assert!(short(count).len() <= 4);
            prop_assert!(age(count).len() <= 4);
        }
    }
}
