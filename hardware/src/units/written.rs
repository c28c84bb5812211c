//! How numbers and quantities are written.
//!
//! In: a value, its units. Out: text that reads back, or three digits for people.

use super::NamedUnit;

/// The shortest number and unit that read back as `value`.
pub(super) fn exact(value: f64, units: &[&[NamedUnit]]) -> String {
    let tables = units.iter().flat_map(|table| table.iter());
    let written = tables.filter_map(|&(name, scale)| {
        let number = value / scale;
        (number * scale == value).then(|| format!("{} {name}", digits(number)))
    });
    written.min_by_key(String::len).unwrap_or_else(|| format!("{} {}", digits(value), units[0][0].0))
}

/// A number that reads back, in a form that can be read: rows of zeros are counted.
pub(super) fn digits(number: f64) -> String {
    let plain = number.to_string();
    if plain.len() > 20 { format!("{number:e}") } else { plain }
}

/// Three significant digits in the largest unit that leaves at least one before the point.
pub(super) fn rounded(value: f64, units: &[NamedUnit]) -> String {
    let shown = if value == 0.0 { 1.0 } else { value };
    let &(name, scale) = units.iter().rev().find(|unit| shown >= unit.1 * 0.9995).unwrap_or(&units[0]);
    format!("{} {name}", three_digits(value / scale))
}

pub(super) fn three_digits(number: f64) -> String {
    let size = number.abs();
    let places = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 2 + (-size.log10()).ceil() as usize,
    };
    let text = format!("{number:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
