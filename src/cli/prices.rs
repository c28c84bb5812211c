//! `prices`: the rents that are known, with their dates and sources.
//!
//! In: [`rents`]. Out: lines, or JSON.

use std::collections::BTreeSet;

use clap::Subcommand;
use meshwright_hardware::profile::catalog;
use serde_json::json;

use crate::failure::Failure;
use crate::prices::{Rent, rents};

/// Subcommands of `prices`.
#[derive(Subcommand)]
pub enum PricesCommand {
    /// Rents by device, cloud, region and term
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// One device's rents, each with where it is written
    Show {
        /// As `hardware list` names it
        device: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl PricesCommand {
    /// Prints.
    pub fn run(self) -> Result<(), Failure> {
        let mut all = rents()?;
        let json = match &self {
            PricesCommand::List { json } => *json,
            PricesCommand::Show { device, json } => {
                if all.iter().all(|rent| rent.device != *device) {
                    return Err(unknown(device, &all));
                }
                all.retain(|rent| rent.device == *device);
                *json
            }
        };
        if json {
            println!("{}", json!(all));
            return Ok(());
        }
        println!("{:<10} {:<20} {:<10} {:>9}  {:<10}  {}", "device", "cloud", "term", "$/hour", "date", "who says so");
        for rent in &all {
            let Rent { device, cloud, term, usd_per_device_hour, date, kind, region, source } = rent;
            let price = format!("{usd_per_device_hour:.2}");
            println!("{device:<10} {cloud:<20} {:<10} {price:>9}  {date:<10}  {}", term.name(), kind.name());
            if matches!(self, PricesCommand::Show { .. }) {
                let region = region.as_ref().map_or_else(String::new, |region| format!("{region}; "));
                println!("   {region}{source}");
            }
        }
        Ok(())
    }
}

/// Why there is no rent of a device among all.
fn unknown(device: &str, all: &[Rent]) -> Failure {
    if catalog().devices.iter().any(|known| known.name == device) {
        return Failure::input(format!("no rent of {device} is known; `compare` and `plan` take yours by --price"));
    }
    let known: BTreeSet<&str> = all.iter().map(|rent| rent.device.as_str()).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Failure::input(format!("unknown device `{device}`; rents are known of {known}"))
}
