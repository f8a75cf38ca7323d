//! The retain time: an address is kept for it after its ordinal is scaled away.

use std::time::Duration;

/// A retain time of another form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time like 30m, 24h or 7d12h (units: s, m, h, d)")]
pub struct RetainError(String);

/// Parses a time like `24h`, `90s` or `1d12h`.
pub fn parse_retain(text: &str) -> Result<Duration, RetainError> {
    let wrong = || RetainError(text.to_owned());
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_units_are_parsed() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("24h", 86400), ("1d12h", 129_600), (" 5m ", 300)] {
            assert_eq!(parse_retain(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "h", "-1h", "5x", "1h 5m", "99999999999999999999s", "18446744073709551615d", "5ä"] {
            assert_eq!(parse_retain(text), Err(RetainError(text.to_owned())), "{text}");
        }
    }
}
