//! `prices`: the rents that are known and what owning takes, with dates and sources; a user's own checked.
//!
//! In: a [`PriceBook`]. Out: lines, or JSON.

use std::collections::BTreeSet;

use clap::Subcommand;
use meshwright_hardware::files::read_text;
use meshwright_hardware::profile::{Cluster, catalog};
use meshwright_hardware::units::Seconds;
use serde_json::json;

use crate::answer;
use crate::failure::Failure;
use crate::prices::dates::is_older;
use crate::prices::owning::{OwnPrice, PARTS};
use crate::prices::{PriceBook, Rent};

/// Subcommands of `prices`.
#[derive(Subcommand)]
pub enum PricesCommand {
    /// Rents by device, cloud, region and term
    List {
        /// A file of prices over those that ship
        #[arg(long, value_name = "FILE")]
        prices: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// One device's rents, each with where it is written; or what owning it takes
    Show {
        /// As `hardware list` names it
        device: String,
        /// What a device-hour costs its owner, by part, and the figures that it rests on
        #[arg(long)]
        own: bool,
        /// A file of prices over those that ship
        #[arg(long, value_name = "FILE")]
        prices: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a file of prices, and say which of its prices are doubtful
    Check {
        /// A file of prices (TOML)
        file: String,
        /// Prices older than this are old, as `180d`
        #[arg(long)]
        max_age: Option<Seconds>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl PricesCommand {
    /// Prints.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            PricesCommand::List { prices, json } => {
                list(&PriceBook::read(prices.as_deref())?.rents, json, false);
                Ok(())
            }
            PricesCommand::Show { device, own: true, prices, json } => {
                show_own(&device, &PriceBook::read(prices.as_deref())?, json)
            }
            PricesCommand::Show { device, own: false, prices, json } => {
                let mut all = PriceBook::read(prices.as_deref())?.rents;
                if all.iter().all(|rent| rent.device != device) {
                    return Err(unknown(&device, &all));
                }
                all.retain(|rent| rent.device == device);
                list(&all, json, true);
                Ok(())
            }
            PricesCommand::Check { file, max_age, json } => check(&file, max_age, json),
        }
    }
}

fn list(all: &[Rent], json: bool, sources: bool) {
    if json {
        return answer::print("prices", json!(all));
    }
    println!("{:<10} {:<20} {:<10} {:>9}  {:<10}  {}", "device", "cloud", "term", "$/hour", "date", "who says so");
    for rent in all {
        let Rent { device, cloud, term, usd_per_device_hour, date, kind, region, source } = rent;
        let price = format!("{usd_per_device_hour:.2}");
        println!("{device:<10} {cloud:<20} {:<10} {price:>9}  {date:<10}  {}", term.name(), kind.name());
        if sources {
            let region = region.as_ref().map_or_else(String::new, |region| format!("{region}; "));
            println!("   {region}{source}");
        }
    }
}

/// What a device-hour costs its owner.
fn show_own(device: &str, book: &PriceBook, json: bool) -> Result<(), Failure> {
    let pool = Cluster::parse(&format!("1x {device}"))?.pools.remove(0);
    let system = &pool.system.name;
    let Some(server) = book.server(system) else {
        let known = book.servers.iter().map(|server| server.system.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::input(format!(
            "no price of the server `{system}` is known, hence none of owning it; known: {known}; a file with [[server]] \
             gives yours by --prices"
        )));
    };
    let price = OwnPrice::of(&pool, server, &book.own)
        .ok_or_else(|| Failure::input(format!("the power of {device} is not known, hence no price of owning it")))?;
    if json {
        let parts: serde_json::Map<_, _> =
            PARTS.iter().zip(price.parts).map(|(name, dollars)| ((*name).to_owned(), json!(dollars))).collect();
        let figures = serde_json::to_value(&book.own).expect("figures are numbers and text");
        answer::print(
            "price",
            json!({ "usd_per_device_hour": price.total(), "parts": parts, "server": server, "own": figures }),
        );
        return Ok(());
    }
    println!("an hour of {device} in {system} costs its owner ${:.3}, in the hours in which it is used", price.total());
    for (name, dollars) in PARTS.iter().zip(price.parts) {
        println!("   {name:<22} {dollars:>8.3}  {:>4.0} %", 100.0 * dollars / price.total());
    }
    println!("\n   {:<28} {:>10}  {:<10}  {:<9}  from", "figure", "", "date", "who says");
    let line = |name: &str, value: f64, date: &str, kind: &str, source: &str| {
        println!("   {name:<28} {value:>10}  {date:<10}  {kind:<9}  {source}");
    };
    line("server, $ a device", server.usd_per_device, &server.date, server.kind.name(), &server.source);
    for (name, fact) in book.own.facts() {
        line(name, fact.value, &fact.date, fact.kind.name(), &fact.source);
    }
    Ok(())
}

/// Says what of a file is doubtful.
fn check(file: &str, max_age: Option<Seconds>, json: bool) -> Result<(), Failure> {
    let text = read_text(file)?;
    let book = PriceBook::shipped()?.over(file, &text)?;
    let read = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    let count = |key: &str| read.get(key).and_then(toml::Value::as_array).map_or(0, Vec::len);
    let own = read.get("own").and_then(toml::Value::as_table).map_or(0, toml::Table::len);
    let (rents, servers) = (count("rent"), count("server"));
    let old = |date: &str| max_age.is_some_and(|age| is_older(date, age.0 / 86400.0));
    let known = book.rents[book.rents.len() - rents..].iter().map(|rent| {
        let what = format!("rent of {} at {}, {}", rent.device, rent.cloud, rent.term.name());
        (what, rent.kind, &rent.date)
    });
    let machines = book.servers[book.servers.len() - servers..].iter();
    let machines = machines.map(|server| (format!("server {}", server.system), server.kind, &server.date));
    let doubts = known.chain(machines).flat_map(|(what, kind, date)| {
        let doubtful = kind.is_doubtful().then(|| format!("{what}: {}", kind.name()));
        [doubtful, old(date).then(|| format!("{what}: old, of {date}"))]
    });
    let doubts: Vec<String> = doubts.flatten().collect();
    if json {
        answer::print("check", json!({ "rents": rents, "servers": servers, "own": own, "doubtful": doubts }));
        return Ok(());
    }
    println!("{file}: {rents} rents, {servers} servers and {own} figures of owning, as they must be");
    doubts.iter().for_each(|doubt| println!("   {doubt}"));
    Ok(())
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
