//! Numbers as text.

/// A value with three significant digits, and thousands separated.
pub(crate) fn value(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    match value.abs() {
        magnitude if magnitude >= 999.5 => thousands(value),
        magnitude if magnitude >= 99.95 => format!("{value:.0}"),
        magnitude if magnitude >= 9.995 => format!("{value:.1}"),
        magnitude if magnitude >= 0.0095 => format!("{value:.2}"),
        _ if value == 0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// A ratio: `12.3x`.
pub(crate) fn ratio(ratio: f64) -> String {
    match ratio.abs() {
        magnitude if magnitude >= 99.5 => format!("{ratio:.0}x"),
        magnitude if magnitude >= 9.95 => format!("{ratio:.1}x"),
        magnitude if magnitude >= 0.095 => format!("{ratio:.2}x"),
        _ => format!("{ratio:.3}x"),
    }
}

/// A whole number with a comma before each three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
