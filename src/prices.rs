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
}
