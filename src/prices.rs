//! What a device-hour costs, by device, cloud, region and term.
//!
//! In: `hardware/profiles/prices/rent.toml`. Out: [`Rent`]s in the file's order.
//!
//! Invariant: a rent is above zero and has a date and a source; what is not known is not there.

use meshwright_hardware::input::InputError;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A rent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rent {
    /// The profile's name of the device.
    pub device: String,
    /// Who lets it.
    pub cloud: String,
    /// Where, in the cloud's words; none where the price is the same everywhere, or it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// For how long it is promised.
    pub term: Term,
    /// US dollars a device-hour.
    pub usd_per_device_hour: f64,
    /// When it was so: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub date: String,
    /// Who says so.
    pub kind: Evidence,
    /// Where it is written.
    pub source: String,
}

/// For how long a device is promised, and paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Term {
    /// By the hour.
    #[serde(rename = "on-demand")]
    OnDemand,
    /// A year.
    #[serde(rename = "1y")]
    Year,
    /// Three years.
    #[serde(rename = "3y")]
    ThreeYears,
    /// Until somebody pays more.
    #[serde(rename = "spot")]
    Spot,
}

/// Who says what a device costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The seller.
    List,
    /// Others, who collected prices.
    Secondary,
    /// Nobody.
    Assumed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RentFile {
    rent: Vec<Rent>,
}

/// The rents of a price file.
///
/// # Errors
/// Unknown keys and values, with line and column; a rent that is not above zero, or has no date or source.
pub fn read_rents(file: &str, text: &str) -> Result<Vec<Rent>, Failure> {
    let rents = toml::from_str::<RentFile>(text).map_err(|error| InputError::of_toml(file, text, &error))?.rent;
    for rent in &rents {
        let price = rent.usd_per_device_hour;
        if !(price.is_finite() && price > 0.0) || rent.date.is_empty() || rent.source.is_empty() {
            let (device, cloud) = (&rent.device, &rent.cloud);
            return Err(Failure::input(format!(
                "{file}: rent of {device} at {cloud}: `usd_per_device_hour` must be above zero, and `date` and `source` said; \
                 leave out what is not known"
            )));
        }
    }
    Ok(rents)
}

/// The rents that ship with Meshwright.
///
/// # Errors
/// As [`read_rents`].
pub fn rents() -> Result<Vec<Rent>, Failure> {
    read_rents("rent.toml", include_str!("../hardware/profiles/prices/rent.toml"))
}

/// Short names of clouds.
const SHORT: [(&str, &str); 4] =
    [("aws", "Amazon Web Services"), ("gcp", "Google Cloud"), ("azure", "Microsoft Azure"), ("lambda", "Lambda Labs")];

impl Term {
    /// As price files and `pricing` say it.
    pub fn name(self) -> &'static str {
        match self {
            Term::OnDemand => "on-demand",
            Term::Year => "1y",
            Term::ThreeYears => "3y",
            Term::Spot => "spot",
        }
    }
}

impl Evidence {
    /// As price files say it.
    pub fn name(self) -> &'static str {
        match self {
            Evidence::List => "list",
            Evidence::Secondary => "secondary",
            Evidence::Assumed => "assumed",
        }
    }
}

/// The rents of a cloud and a term, as `aws on-demand` or `Google Cloud 3y`.
///
/// # Errors
/// The user's: a term or a cloud that no rent has.
pub fn rents_of<'a>(all: &'a [Rent], pricing: &str) -> Result<Vec<&'a Rent>, Failure> {
    let terms = [Term::OnDemand, Term::Year, Term::ThreeYears, Term::Spot];
    let (cloud, term) = pricing.trim().rsplit_once(' ').unwrap_or(("", pricing));
    let Some(term) = terms.into_iter().find(|known| known.name() == term) else {
        let known = terms.map(Term::name).join(", ");
        let what = format!("pricing `{pricing}`: must be `list`, or a cloud and one of {known}, as `aws on-demand`");
        return Err(Failure::input(what));
    };
    let short = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(cloud));
    let cloud = short.map_or(cloud, |(_, whole)| whole);
    if !all.iter().any(|rent| rent.cloud.eq_ignore_ascii_case(cloud)) {
        let known: std::collections::BTreeSet<&str> = all.iter().map(|rent| rent.cloud.as_str()).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Failure::input(format!("pricing `{pricing}`: no rent of `{cloud}` is known; known: {known}")));
    }
    Ok(all.iter().filter(|rent| rent.cloud.eq_ignore_ascii_case(cloud) && rent.term == term).collect())
}

/// Of these rents the latest of a device; of several regions' the least.
pub fn latest<'a>(rents: &[&'a Rent], device: &str) -> Option<&'a Rent> {
    let of_device = rents.iter().copied().filter(|rent| rent.device == device);
    of_device.max_by(|a, b| {
        let least = b.usd_per_device_hour.total_cmp(&a.usd_per_device_hour);
        a.date.cmp(&b.date).then(least)
    })
}

#[cfg(test)]
mod tests {
    use meshwright_hardware::profile::catalog;

    use super::*;

    #[test]
    fn rents_that_ship_are_of_devices_that_are_known() {
        for rent in rents().unwrap() {
            assert!(catalog().devices.iter().any(|device| device.name == rent.device), "{}", rent.device);
        }
    }

    #[test]
    fn a_rent_of_nothing_is_refused() {
        let text = include_str!("../hardware/profiles/prices/rent.toml").replacen("hour = 4.1", "hour = 0.0", 1);
        assert!(read_rents("mine.toml", &text).unwrap_err().message.contains("above zero"));
    }

    #[test]
    fn the_latest_rent_of_a_cloud_and_a_term_is_found() {
        let all = rents().unwrap();
        let aws = rents_of(&all, "aws on-demand").unwrap();
        assert_eq!(aws.len(), rents_of(&all, "Amazon Web Services on-demand").unwrap().len());
        for device in ["a100-80gb", "h100"] {
            let found = latest(&aws, device).unwrap();
            let others = aws.iter().filter(|rent| rent.device == device);
            assert!(found.term == Term::OnDemand && others.clone().count() > 0);
            assert!(others.into_iter().all(|rent| rent.date <= found.date), "{found:?}");
        }
        assert!(latest(&aws, "no such device").is_none());
        assert!(rents_of(&all, "aws monthly").unwrap_err().message.contains("3y"));
        assert!(rents_of(&all, "awz spot").unwrap_err().message.contains("Amazon"));
    }
}
