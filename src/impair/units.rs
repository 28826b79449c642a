//! Numbers with units, as rules have them. Each has a unit: `delay=80` could mean
//! anything.

use std::time::Duration;

use super::effect::{Rate, Share};
use super::spec::RuleError;

/// Longest time that can be written: a year.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Most bytes that can be written: a tebibyte.
const MAX_BYTES: u64 = 1 << 40;

/// A time in `us`, `ms`, `s` or `m` (minutes), to the nanosecond.
pub(super) fn time(text: &str) -> Result<Duration, RuleError> {
    const UNITS: &[(&str, f64)] = &[("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9)];
    let remedy = || {
        RuleError::new(format!(
            "'{text}' is no time; write a number and its unit: 500us, 80ms, 2.5s, 10m (minutes)"
        ))
    };
    let nanos = scaled(text, UNITS).ok_or_else(remedy)?;
    let time = Duration::from_nanos(whole(nanos));
    if time > MAX_TIME {
        return Err(RuleError::new(format!(
            "'{text}' is too long a time; a year is the most"
        )));
    }
    Ok(time)
}

/// A share in percent.
pub(super) fn share(text: &str) -> Result<Share, RuleError> {
    scaled(text, &[("%", 0.01)])
        .and_then(Share::new)
        .ok_or_else(|| match scaled(text, &[("", 100.0)]) {
            Some(percent) if percent <= 100.0 => RuleError::new(format!(
                "'{text}' has no unit; write a share in percent: {percent}%"
            )),
            _ => RuleError::new(format!(
                "'{text}' is no share; write it in percent, from 0% to 100%: 0.5%"
            )),
        })
}

/// A rate in `bit`, `kbit`, `mbit`, `gbit` (powers of 1000) per second.
pub(super) fn rate(text: &str) -> Result<Rate, RuleError> {
    const UNITS: &[(&str, f64)] = &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];
    let lower = text.to_ascii_lowercase();
    let bits = scaled(&lower, UNITS).ok_or_else(|| {
        RuleError::new(format!(
            "'{text}' is no rate; write bits per second with their unit: 500kbit, 2mbit, 1.5gbit"
        ))
    })?;
    Rate::new(whole(bits)).ok_or_else(|| {
        RuleError::new(format!(
            "'{text}' is no rate that can be kept; 100bit to 1000gbit can"
        ))
    })
}

/// Bytes in `b`, `k`, `M` or `G` (powers of 1024).
pub(super) fn bytes(text: &str) -> Result<u64, RuleError> {
    size(text).ok_or_else(|| {
        RuleError::new(format!(
            "'{text}' is no number of bytes; write it with its unit: 1500b, 64k, 2M"
        ))
    })?
}

/// As [`bytes`]; `None` for what does not look like it.
pub(super) fn size(text: &str) -> Option<Result<u64, RuleError>> {
    const UNITS: &[(&str, f64)] = &[
        ("b", 1.0),
        ("B", 1.0),
        ("k", 1024.0),
        ("K", 1024.0),
        ("M", 1_048_576.0),
        ("G", 1_073_741_824.0),
    ];
    let bytes = whole(scaled(text, UNITS)?);
    Some(if bytes <= MAX_BYTES {
        Ok(bytes)
    } else {
        Err(RuleError::new(format!(
            "'{text}' is too many bytes; 1024G is the most"
        )))
    })
}

/// A decimal number times its unit.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    // What has digits and dots only is no "inf", no "nan" and not negative.
    let number: f64 = number.parse().ok()?;
    Some(number * factor)
}

/// The nearest whole number.
fn whole(number: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is not negative, and what is too much becomes the most"
    )]
    let number = number.round() as u64;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, nanos) in [
            ("500us", 500_000),
            ("80ms", 80_000_000),
            ("0.5s", 500_000_000),
            ("2m", 120_000_000_000),
            ("1.2345ms", 1_234_500),
            ("0ms", 0),
        ] {
            let time = time(text).expect(text);
            assert_eq!(time.as_nanos(), nanos, "{text}");
        }
        for bad in [
            "80", "ms", "-1ms", "1e3ms", "80 ms", "80mss", "1.2.3s", ".", "",
        ] {
            let text = time(bad).expect_err(bad).to_string();
            assert!(text.contains("80ms"), "{text}");
        }
        assert!(time("999999999m").is_err());
    }

    #[test]
    fn shares_are_in_percent() {
        assert_eq!(share("100%").expect("is one"), Share::ALL);
        assert_eq!(share("0%").expect("is one"), Share::NONE);
        assert!((share("0.1%").expect("is one").get() - 0.001).abs() < 1e-15);
        let error = share("0.01").expect_err("has no unit").to_string();
        assert!(error.ends_with("in percent: 1%"), "{error}");
        for bad in ["101%", "-1%", "5", "%", "nan%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_sizes_have_units() {
        assert_eq!(rate("2mbit").expect("is one").bits(), 2_000_000);
        assert_eq!(rate("1.5Gbit").expect("is one").bits(), 1_500_000_000);
        for bad in ["2", "2m", "2mb", "1bit", "99999gbit"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("64k"), Ok(65536));
        assert_eq!(bytes("1500b"), Ok(1500));
        assert_eq!(bytes("1.5M"), Ok(1_572_864));
        for bad in ["64", "64kb", "2m", "2000G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
