//! Numbers as logs write them: `6,789`, `1.23K`, `33.4GB`, `1.0E+01`.
//!
//! In: a text that begins with one. Out: its value, units of bytes as bytes.

/// The number that a text begins with, a letter for thousands counted.
pub fn leading(text: &str) -> Option<f64> {
    read(text).map(|(value, _)| value)
}

/// The number and its unit.
pub fn read(text: &str) -> Option<(f64, String)> {
    let text = text.trim_start_matches([' ', ':', '=', '\'', '"', '\t']);
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let c = bytes[end];
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let fits = match c {
            b'0'..=b'9' => true,
            b'.' => digit(end + 1) || end > 0,
            b'-' | b'+' => end == 0 || matches!(bytes[end - 1], b'e' | b'E'),
            // Of thousands: three digits follow.
            b',' => end > 0 && digit(end + 1) && digit(end + 2) && digit(end + 3) && !digit(end + 4),
            b'e' | b'E' => {
                end > 0 && (digit(end + 1) || (matches!(bytes.get(end + 1), Some(b'-' | b'+')) && digit(end + 2)))
            }
            _ => false,
        };
        if !fits {
            break;
        }
        end += 1;
    }
    let value: f64 = text[..end].replace(',', "").trim_end_matches('.').parse().ok()?;
    let unit: String = text[end..].trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    let attached = text[end..].starts_with(|c: char| c.is_ascii_alphabetic());
    let times = match unit.as_str() {
        "K" | "k" if attached => 1e3,
        "M" if attached => 1e6,
        "G" | "B" if attached => 1e9,
        "T" if attached => 1e12,
        _ => 1.0,
    };
    Some((value * times, unit))
}

/// Bytes, of a number with its unit, or with this one where it has none.
pub fn memory(text: &str, usual: f64) -> Option<f64> {
    let (value, unit) = read(text)?;
    Some(match unit.as_str() {
        "GiB" | "GIB" => value * 1024f64.powi(3),
        "MiB" => value * 1024f64.powi(2),
        // DeepSpeed and torch count in powers of two, whatever they call it.
        "GB" => value * 1024f64.powi(3),
        "MB" => value * 1024f64.powi(2),
        "K" | "M" | "G" => value,
        _ => value * usual,
    })
}
