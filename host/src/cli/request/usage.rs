//! What runs have used, as people read it.

use super::super::output::size;
use crate::requests::{TreeUsage, Usage};

/// A length of time given in microseconds, in the unit that suits it.
pub fn time(microseconds: i64) -> String {
    let seconds = microseconds / 1_000_000;
    match microseconds {
        ..1_000 => format!("{microseconds} µs"),
        1_000..10_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", microseconds / 1_000),
        1_000_000..60_000_000 => format!("{:.1} s", microseconds as f64 / 1e6),
        60_000_000..3_600_000_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// A count with its thousands set apart.
pub fn count(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digit.is_ascii_digit() && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text.replace("-,", "-")
}

/// How many of something there are, in words.
pub fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Dollars: cents where they say enough, and never more than millionths.
pub fn dollars(cost: f64) -> String {
    match cost {
        cost if cost >= 0.1 || cost == 0.0 => format!("${cost:.2}"),
        cost if cost < 1e-6 => "less than $0.000001".to_owned(),
        cost => format!("${cost:.6}").trim_end_matches('0').to_owned(),
    }
}

/// What runs have used, as far as there is something to say.
pub fn spent(usage: &Usage) -> Vec<String> {
    let mut parts = Vec::new();
    if usage.runs > 0 {
        parts.push(time(usage.duration_us));
        parts.push(format!("CPU {}", time(usage.cpu_us)));
    }
    parts.extend(usage.tokens_used.map(|tokens| counted(tokens, "token", "tokens")));
    parts.extend(usage.cost.map(dollars));
    parts
}

/// What a whole tree has used.
pub fn total(total: &TreeUsage) -> String {
    let usage = &total.usage;
    let mut parts =
        vec![counted(total.requests, "request", "requests"), counted(usage.runs, "run", "runs")];
    parts.extend(spent(usage));
    if let Some(peak) = u64::try_from(usage.memory_peak_bytes).ok().filter(|&peak| peak > 0) {
        parts.push(format!("memory {}", size(peak)));
    }
    if total.truncated {
        parts.push("and more that is not counted".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        let times = [0, 900, 1_500, 45_000, 1_230_000, 62_000_000, 7_260_000_000];
        assert_eq!(
            times.map(time).join("; "),
            "0 µs; 900 µs; 1.5 ms; 45 ms; 1.2 s; 1 min 2 s; 2 h 1 min"
        );
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let numbers = [0, 12, 999, 1_000, 1_234_567, -100, i64::MIN];
        assert_eq!(
            numbers.map(count).join("; "),
            "0; 12; 999; 1,000; 1,234,567; -100; -9,223,372,036,854,775,808"
        );
        assert_eq!(counted(1, "run", "runs"), "1 run");
        let costs = [0.0, 12.5, 0.1, 0.02, 0.0042, 0.01 + 0.005 + 0.0000001].map(dollars);
        assert_eq!(costs.join(" "), "$0.00 $12.50 $0.10 $0.02 $0.0042 $0.015");
    }
}
