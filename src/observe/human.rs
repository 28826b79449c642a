//! Figures and texts as people read them.

use std::fmt::Write as _;

/// Bytes with a decimal unit: `1.05 MB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    if count < 1000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    scaled(count as f64, "B")
}

/// Bits per second: `1.05 Gbit/s`.
#[must_use]
pub fn bit_rate(bits_per_second: f64) -> String {
    scaled(bits_per_second, "bit/s")
}

fn scaled(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut value = value;
    let mut prefix = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    format!("{} {}{unit}", three_digits(value), PREFIXES[prefix])
}

/// A time: `12.3 ms`, `4.56 s`, `1 h 2 min`.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    if seconds >= 3600.0 {
        let minutes = (seconds / 60.0).round();
        return format!(
            "{:.0} h {:.0} min",
            (minutes / 60.0).floor(),
            minutes % 60.0
        );
    }
    if seconds >= 59.95 {
        let rounded = seconds.round();
        return format!(
            "{:.0} min {:.0} s",
            (rounded / 60.0).floor(),
            rounded % 60.0
        );
    }
    if seconds == 0.0 {
        return "0 s".to_owned();
    }
    if seconds < 0.000_999_5 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 0.999_5 {
        return format!("{} ms", three_digits(seconds * 1e3));
    }
    format!("{} s", three_digits(seconds))
}

fn three_digits(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A number with its thousands apart: `12 345`, by narrow spaces that do not break.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Text of a guest's or a server's, with nothing in it that moves a terminal's
/// cursor or turns a line around.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same, `max` characters long at most.
#[must_use]
pub fn shortened(text: &str, max: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(max) {
        None => text,
        Some(_) => {
            let end = text.char_indices().nth(max.saturating_sub(1));
            format!("{}…", &text[..end.map_or(0, |(at, _)| at)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_048_576, "1.05 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [
            (0.0, "0 s"),
            (0.000_02, "20 µs"),
            (0.012_34, "12.3 ms"),
            (0.9996, "1.00 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min 0 s"),
            (3599.0, "59 min 59 s"),
            (3720.0, "1 h 2 min"),
        ] {
            assert_eq!(seconds(s), text);
        }
        assert_eq!(bit_rate(2_500_000.0), "2.50 Mbit/s");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn texts_stay_where_they_are() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(shortened("häuser", 6), "häuser");
        assert_eq!(shortened("häuser", 5), "häus…");
        assert_eq!(shortened("", 5), "");
    }

    proptest! {
        #[test]
        fn any_figure_and_text(n: u64, s in 0.0..1e12f64, text: String, max in 1usize..50) {
            let _ = bytes(n);
            let _ = seconds(s);
            prop_assert!(!printable(&text).chars().any(char::is_control));
            prop_assert!(shortened(&text, max).chars().count() <= max);
        }
    }
}
