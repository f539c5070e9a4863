//! Figures as people read them.

use serde_json::Value;

/// Milliseconds, with as many digits as tell something.
pub(super) fn millis(millis: f64) -> String {
    match millis {
        short if short < 1.0 => format!("{short:.3} ms"),
        middle if middle < 100.0 => format!("{middle:.2} ms"),
        long => format!("{long:.0} ms"),
    }
}

/// The rate at `key`; 0 if there is none.
pub(super) fn rate(value: &Value, key: &str) -> String {
    grouped(value.get(key).and_then(Value::as_f64).unwrap_or_default())
}

/// A number in groups of three digits, with one digit behind the point where that is not nothing.
pub(super) fn grouped(number: f64) -> String {
    let text = if number < 10_000.0 { format!("{number:.1}") } else { format!("{number:.0}") };
    let text = text.strip_suffix(".0").unwrap_or(&text);
    let (whole, rest) = text.find('.').map_or((text, ""), |point| text.split_at(point));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_times_have_the_digits_that_matter() {
        let shown = [0.0, 12.34, 1234.5, 1_234_567.8].map(grouped);
        assert_eq!(shown, ["0", "12.3", "1,234.5", "1,234,568"]);
        assert_eq!([0.0123, 1.5, 250.4].map(millis), ["0.012 ms", "1.50 ms", "250 ms"]);
    }
}
