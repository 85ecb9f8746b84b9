//! Quantiles and medians, and how they are written.

use std::time::Duration;

use serde::Serialize;

/// How long something took, seen often.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Latency {
    pub(crate) fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        Self { p50_us: quantile(&taken, 0.5), p99_us: quantile(&taken, 0.99) }
    }
}

/// Of sorted durations, in microseconds.
fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let index = (last as f64 * q).round() as usize;
    sorted[index.min(last)].as_secs_f64() * 1e6
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// `87 µs`, `1.24 ms`, `3.1 s`
pub(crate) fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// `12,345/s`
pub(crate) fn rate(per_second: f64) -> String {
    format!("{}/s", thousands(per_second.round() as u64))
}

/// `12.3 MB`
pub(crate) fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_seen() {
        let latency = Latency::of((1..=101).rev().map(Duration::from_micros).collect());
        assert!((latency.p50_us - 51.0).abs() < 1e-6, "{latency:?}");
        assert!((latency.p99_us - 100.0).abs() < 1e-6, "{latency:?}");
        assert!(Latency::of(vec![]).p50_us.is_nan());
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn figures_are_written_as_people_read_them() {
        assert_eq!(time(87.4), "87 µs");
        assert_eq!(time(1240.0), "1.24 ms");
        assert_eq!(time(3_100_000.0), "3.1 s");
        assert_eq!(rate(1_234_567.2), "1,234,567/s");
        assert_eq!(thousands(999), "999");
    }
}
