//! Dates of prices, and how old they are.
//!
//! In: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`; a day. Out: days between.
//!
//! Invariant: what a date leaves open is taken as its first: a price is never made younger than it may be.

use time::{Date, Month, OffsetDateTime};

/// The first day that a date may mean.
pub fn first_day(date: &str) -> Option<Date> {
    let mut parts = date.split('-');
    let year: i32 = parts.next().filter(|year| year.len() == 4)?.parse().ok()?;
    let mut next = || parts.next().map_or(Some(1), |part| part.parse::<u8>().ok());
    let (month, day) = (next()?, next()?);
    if parts.next().is_some() {
        return None;
    }
    Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()
}

/// Whether a date lies more than so many days before today; one that is no date does.
pub fn is_older(date: &str, days: f64) -> bool {
    first_day(date).is_none_or(|first| (OffsetDateTime::now_utc().date() - first).whole_days() as f64 > days)
}

/// The last date that stands in a source's words.
pub fn date_in(words: &str) -> Option<&str> {
    let mut parts = words.split(|c: char| !c.is_ascii_digit() && c != '-').map(|part| part.trim_matches('-'));
    parts.rfind(|part| part.len() >= 7 && first_day(part).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_to_their_first_day() {
        for (date, expected) in [("2026", "2026-01-01"), ("2024-08", "2024-08-01"), ("2026-07-20", "2026-07-20")] {
            assert_eq!(first_day(date).unwrap().to_string(), expected);
        }
        for wrong in ["", "26-07", "2026-13", "2026-02-30", "2026-01-01-01", "soon"] {
            assert!(first_day(wrong).is_none(), "{wrong}");
        }
        assert!(is_older("2020-01-01", 365.0) && is_older("", 1e9) && !is_older("2020-01-01", 1e6));
    }

    #[test]
    fn a_source_tells_its_date() {
        assert_eq!(date_in("AWS p5.48xlarge on demand, us-east-1, 2026-07-20"), Some("2026-07-20"));
        assert_eq!(date_in("Google Cloud TPU v5p on demand, 2025-02"), Some("2025-02"));
        assert_eq!(date_in("p4de.24xlarge, recalled"), None);
    }
}
