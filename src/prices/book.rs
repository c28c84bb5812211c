//! All prices that are known: those that ship with Meshwright, and over them a user's.
//!
//! In: `rent.toml` and `own.toml`; a user's `prices.toml`; `[own]` of a scenario file. Out: [`PriceBook`].
//!
//! A user's file may hold `[[rent]]`, `[[server]]` and `[own]`, whose figures may be plain numbers, and
//! `[currency]` with `name` and `usd`, what one unit of it is worth: then all its money is in that currency.
//!
//! Invariant: a user's rent stands for all that ship of the same device, cloud and term, and another figure of theirs for that of
//! the same name.

use meshwright_hardware::files::read_text;
use meshwright_hardware::input::InputError;
use meshwright_hardware::profile::catalog;
use serde::Deserialize;
use toml::{Table, Value};

use super::PriceKind;
use super::dates::first_day;
use super::owning::{Owning, Server};
use super::rent::Rent;
use crate::failure::Failure;

/// All prices.
#[derive(Clone, Debug)]
pub struct PriceBook {
    /// Of devices by the hour.
    pub rents: Vec<Rent>,
    /// Of servers.
    pub servers: Vec<Server>,
    /// What owning takes beside servers.
    pub own: Owning,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    currency: Option<Currency>,
    #[serde(default)]
    rent: Vec<Rent>,
    #[serde(default)]
    server: Vec<Server>,
    #[serde(default)]
    own: Table,
}

/// What money in a file is counted in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Currency {
    name: String,
    usd: f64,
}

impl PriceFile {
    fn read(file: &str, text: &str) -> Result<PriceFile, Failure> {
        let mut read = toml::from_str::<PriceFile>(text).map_err(|error| InputError::of_toml(file, text, &error))?;
        read.settle(file)?;
        let says = |what: &str| Failure::input(format!("{file}: {what}; leave out what is not known"));
        for rent in &read.rent {
            let (device, cloud) = (&rent.device, &rent.cloud);
            if !is_price(rent.usd_per_device_hour) || first_day(&rent.date).is_none() {
                return Err(says(&format!(
                    "rent of {device} at {cloud}: `usd_per_device_hour` is {}: it must be above zero, and `date` as 2026-07-20, \
                     not `{}`",
                    rent.usd_per_device_hour, rent.date
                )));
            }
            if !catalog().devices.iter().any(|known| known.name == *device) {
                return Err(says(&format!("rent at {cloud}: unknown device `{device}` (`meshwright hardware list`)")));
            }
        }
        for Server { system, usd_per_device, date, .. } in &read.server {
            if !is_price(*usd_per_device) || first_day(date).is_none() {
                return Err(says(&format!(
                    "server {system}: `usd_per_device` is {usd_per_device}: it must be above zero, and `date` as 2026-07-20, not \
                     `{date}`"
                )));
            }
            if !catalog().systems.iter().any(|known| known.name == *system) {
                return Err(says(&format!("server: unknown system `{system}` (`meshwright hardware list`)")));
            }
        }
        Ok(read)
    }

    /// Money in dollars, plain numbers as whole figures, sources said.
    fn settle(&mut self, file: &str) -> Result<(), Failure> {
        let (rate, source) = match &self.currency {
            None => (1.0, file.to_owned()),
            Some(Currency { name, usd }) if is_price(*usd) => (*usd, format!("{file}, at ${usd} for 1 {name}")),
            Some(Currency { name, .. }) => {
                return Err(Failure::input(format!("{file}: [currency] {name}: `usd` must be above zero")));
            }
        };
        for rent in &mut self.rent {
            rent.usd_per_device_hour *= rate;
            said(&mut rent.source, &source);
        }
        for server in &mut self.server {
            server.usd_per_device *= rate;
            said(&mut server.source, &source);
        }
        for (name, value) in &mut self.own {
            let rate = if name.contains("usd") { rate } else { 1.0 };
            let number = |value: &Value| value.as_float().or(value.as_integer().map(|whole| whole as f64));
            if let Some(number) = number(value) {
                *value = Table::from_iter([
                    ("value".to_owned(), Value::Float(number * rate)),
                    ("kind".to_owned(), Value::String(PriceKind::Given.name().to_owned())),
                    ("source".to_owned(), Value::String(source.clone())),
                ])
                .into();
            } else if !value.is_table() {
                return Err(Failure::input(format!("{file}: [own] `{name}` is {value}: it must be a number")));
            } else if let Some(number) = value.get("value").and_then(number) {
                value.as_table_mut().and_then(|table| table.insert("value".to_owned(), Value::Float(number * rate)));
            }
        }
        Ok(())
    }
}

fn is_price(dollars: f64) -> bool {
    dollars.is_finite() && dollars > 0.0
}

fn said(source: &mut String, file: &str) {
    if source.is_empty() {
        file.clone_into(source);
    }
}

const RENT: &str = include_str!("../../hardware/profiles/prices/rent.toml");
const OWN: &str = include_str!("../../hardware/profiles/prices/own.toml");

impl PriceBook {
    /// The prices that ship with Meshwright.
    ///
    /// # Errors
    /// As [`PriceBook::over`].
    pub fn shipped() -> Result<PriceBook, Failure> {
        let PriceFile { rent, .. } = PriceFile::read("rent.toml", RENT)?;
        let PriceFile { server, own, .. } = PriceFile::read("own.toml", OWN)?;
        Ok(PriceBook { rents: rent, servers: server, own: owning("own.toml", own)? })
    }

    /// These, and over them a user's file, if one is named.
    ///
    /// # Errors
    /// Code 1 if it cannot be read; unknown keys and values, with line and column; a price that is not above zero or has no date.
    pub fn read(file: Option<&str>) -> Result<PriceBook, Failure> {
        let book = PriceBook::shipped()?;
        match file {
            Some(file) => book.over(file, &read_text(file)?),
            None => Ok(book),
        }
    }

    /// These, and over them those of a text.
    ///
    /// # Errors
    /// As [`PriceBook::read`].
    pub fn over(mut self, file: &str, text: &str) -> Result<PriceBook, Failure> {
        let PriceFile { rent, server, own, .. } = PriceFile::read(file, text)?;
        let same = |a: &Rent, b: &Rent| a.device == b.device && a.cloud == b.cloud && a.term == b.term;
        self.rents.retain(|old| !rent.iter().any(|new| same(old, new)));
        self.rents.extend(rent);
        self.servers.retain(|old| !server.iter().any(|new| new.system == old.system));
        self.servers.extend(server);
        self.owning_over(file, own)
    }

    /// These, and over them the figures of a table `[own]`.
    ///
    /// # Errors
    /// A figure that is unknown or cannot be, by name.
    pub fn owning_over(mut self, file: &str, own: Table) -> Result<PriceBook, Failure> {
        let mut read = PriceFile { currency: None, rent: Vec::new(), server: Vec::new(), own };
        read.settle(file)?;
        let mut all = Table::try_from(&self.own).expect("figures are numbers and text");
        all.extend(read.own);
        self.own = owning(file, all)?;
        Ok(self)
    }

    /// The price of a system.
    pub fn server(&self, system: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.system == system)
    }
}

fn owning(file: &str, table: Table) -> Result<Owning, Failure> {
    let own: Owning = Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| Failure::input(format!("{file}: [own]: {}", error.message())))?;
    match own.wrong() {
        Some((name, must)) => {
            let value = own.facts().into_iter().find(|(own, _)| *own == name).map_or(f64::NAN, |(_, fact)| fact.value);
            Err(Failure::input(format!("{file}: [own] `{name}` is {value}: it must be {must}")))
        }
        None => Ok(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_that_cannot_be_is_refused() {
        let book = || PriceBook::shipped().unwrap();
        let rent =
            "[[rent]]\ndevice = \"h100\"\ncloud = \"x\"\nterm = \"1y\"\nusd_per_device_hour = 0.0\ndate = \"2026\"\n";
        for (text, says) in [
            (rent.to_owned(), "above zero"),
            (rent.replace("0.0", "1.0").replace("2026", "soon"), "`date`"),
            (rent.replace("0.0", "1.0").replace("h100", "h1000"), "h1000"),
            (rent.replace("1y", "monthly"), "monthly"),
            ("[own]\npue = 0.9\n".to_owned(), "`pue` is 0.9: it must be at least 1"),
            ("[own]\npeu = 1.1\n".to_owned(), "peu"),
            ("[currency]\nname = \"EUR\"\nusd = 0\n".to_owned(), "EUR"),
            ("[[server]]\nsystem = \"dgx\"\nusd_per_device = 1.0\ndate = \"2026\"\n".to_owned(), "`dgx`"),
        ] {
            let message = book().over("mine.toml", &text).unwrap_err().message;
            assert!(message.contains(says) && message.contains("mine.toml"), "{message}");
        }
    }

    #[test]
    fn a_users_prices_stand_before_those_that_ship() {
        let text = "[currency]\nname = \"EUR\"\nusd = 1.1\n[[rent]]\ndevice = \"h100\"\ncloud = \"Google Cloud\"\nterm = \"3y\"\n\
                    usd_per_device_hour = 2.0\ndate = \"2026-11-01\"\n[own]\npue = 1.1\nusd_per_kwh = 0.2\n";
        let (before, book) =
            (PriceBook::shipped().unwrap(), PriceBook::shipped().unwrap().over("mine.toml", text).unwrap());
        let of = |book: &PriceBook| -> Vec<Rent> {
            let same = |rent: &&Rent| rent.device == "h100" && rent.cloud == "Google Cloud" && rent.term.name() == "3y";
            book.rents.iter().filter(same).cloned().collect()
        };
        assert!(!of(&before).is_empty());
        let [rent] = &of(&book)[..] else { panic!("theirs alone") };
        assert!((rent.usd_per_device_hour - 2.2).abs() < 1e-12 && rent.kind == PriceKind::Given);
        assert!(rent.source.contains("mine.toml") && rent.source.contains("EUR"), "{}", rent.source);
        assert_eq!((book.own.pue.value, book.own.pue.kind), (1.1, PriceKind::Given), "a share is in no currency");
        assert!((book.own.usd_per_kwh.value - 0.22).abs() < 1e-12);
        assert_eq!(book.own.life_years, before.own.life_years);
    }
}
