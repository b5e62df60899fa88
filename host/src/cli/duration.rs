//! Lengths of time on the command line: `500ms`, `90s`, `10m`, `1h30m`, `7d`.

use std::time::Duration;

/// Reads a length of time. A number without a unit is refused: nobody remembers which it would be.
pub fn parse(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write a number and ms, s, m, h or d, such as 90s, 10m or 1h30m";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(FORM.to_owned());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: u64 = match number.parse() {
            Ok(number) => number,
            Err(_) if number.is_empty() => return Err(FORM.to_owned()),
            Err(_) => return Err(format!("{number} is too large")),
        };
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("{number} of what? {FORM}")),
            unit => return Err(format!("`{unit}` is not a unit; {FORM}")),
        };
        total = number
            .checked_mul(milliseconds)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("{text} is too large"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// The length of time as the API has it.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_sums() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_form() {
        for text in ["", "10", "m", "10 m", "10x", "-5s", "1.5h", "99999999999999999999s", "9e9d"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("10").is_err_and(|said| said.starts_with("10 of what?")));
        assert!(parse("213503982334602d").is_err(), "overflow");
        assert!(parse("18446744073709551615ms1ms").is_err(), "more than the API can be told");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
