//! What a device-hour costs its owner.
//!
//! In: a pool of a cluster, a server's price, the figures of `[own]`. Out: [`OwnPrice`]: dollars a device-hour, by part.
//!
//! With C the capital a device (server, network, storage, racks), n years of life, i interest, s the residual share, u the share
//! of hours in which devices are used and P the power a device at its limit with its host, kW:
//!
//! - capital recovery with residual value, a year (Grant, Ireson & Leavenworth, Principles of Engineering Economy; recalled): C · ((1 − s) · i / (1 − (1 + i)^−n) + s · i); without interest C · (1 − s) / n, which is what the parts of
//!   capital show, and the rest is the part `interest`;
//! - space, staff, maintenance and taxes are paid a kW of P, whether devices are used or not;
//! - electricity of a used hour: P · mean over peak power · PUE · $/kWh (Cottier et al. 2024, arXiv 2405.21015);
//! - what is paid whether devices are used or not is spread over 8,760 · u hours a year.
//!
//! Invariant: parts sum to the price; what a figure is not known for has no price.

use meshwright_hardware::profile::Machine;
use serde::{Deserialize, Serialize};

use super::{CostFact, PriceKind};

/// Hours of a year.
const HOURS: f64 = 8760.0;

/// The price of a system's share of one device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The profile's name of the system.
    pub system: String,
    /// With host and network cards, US dollars; in a file with a currency, that.
    #[serde(alias = "per_device")]
    pub usd_per_device: f64,
    /// When it was so.
    pub date: String,
    /// Who says so.
    #[serde(default = "PriceKind::given")]
    pub kind: PriceKind,
    /// Where it is written.
    #[serde(default)]
    pub source: String,
}

/// The figures of `[own]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owning {
    /// Network outside servers, over servers.
    pub network_share: CostFact,
    /// Storage over servers.
    pub storage_share: CostFact,
    /// Racks over servers.
    pub rack_share: CostFact,
    /// Years until it is sold.
    pub life_years: CostFact,
    /// What it is sold for, over what it cost.
    pub residual_share: CostFact,
    /// A year.
    pub interest_rate: CostFact,
    /// Share of hours in which devices are used.
    pub utilisation: CostFact,
    /// Mean over peak power of used hours.
    pub power_share: CostFact,
    /// Power of the building over that of servers.
    pub pue: CostFact,
    /// Electricity.
    pub usd_per_kwh: CostFact,
    /// Space with power and cooling plant, of peak power.
    pub space_usd_per_kw_month: CostFact,
    /// Staff, of peak power.
    pub staff_usd_per_kw_year: CostFact,
    /// Maintenance, of peak power.
    pub maintenance_usd_per_kw_year: CostFact,
    /// Taxes on property, of peak power.
    pub taxes_usd_per_kw_year: CostFact,
}

impl Owning {
    /// All figures by name.
    pub fn facts(&self) -> [(&'static str, &CostFact); 14] {
        [
            ("network_share", &self.network_share),
            ("storage_share", &self.storage_share),
            ("rack_share", &self.rack_share),
            ("life_years", &self.life_years),
            ("residual_share", &self.residual_share),
            ("interest_rate", &self.interest_rate),
            ("utilisation", &self.utilisation),
            ("power_share", &self.power_share),
            ("pue", &self.pue),
            ("usd_per_kwh", &self.usd_per_kwh),
            ("space_usd_per_kw_month", &self.space_usd_per_kw_month),
            ("staff_usd_per_kw_year", &self.staff_usd_per_kw_year),
            ("maintenance_usd_per_kw_year", &self.maintenance_usd_per_kw_year),
            ("taxes_usd_per_kw_year", &self.taxes_usd_per_kw_year),
        ]
    }

    /// The first figure that cannot be, and what it must be.
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        self.facts().into_iter().find_map(|(name, fact)| {
            let (fine, must) = match name {
                "residual_share" => (share(fact.value), "at least 0 and below 1"),
                "utilisation" | "power_share" => (fact.value > 0.0 && fact.value <= 1.0, "above 0 and at most 1"),
                "pue" => (fact.value >= 1.0, "at least 1"),
                "life_years" => (fact.value > 0.0, "above 0"),
                _ => (fact.value >= 0.0, "at least 0"),
            };
            (!(fine && fact.value.is_finite())).then_some((name, must))
        })
    }
}

/// Parts of an owner's cost, in the order of [`OwnPrice::parts`].
pub const PARTS: [&str; 9] =
    ["servers", "network", "storage", "racks", "interest", "electricity", "space", "staff", "maintenance and taxes"];

/// What a device-hour costs its owner.
#[derive(Clone, Debug)]
pub struct OwnPrice {
    /// Dollars a used device-hour, as [`PARTS`] names them.
    pub parts: [f64; PARTS.len()],
}

impl OwnPrice {
    /// Of a pool's devices; none where a device's power is unknown.
    pub fn of(pool: &Machine, server: &Server, own: &Owning) -> Option<OwnPrice> {
        let host = pool.system.host_power.as_ref().map_or(0.0, |host| host.value.0);
        let kilowatts = (pool.device.power.as_ref()?.value.0 + host) / 1e3;
        let used = HOURS * own.utilisation.value;
        let straight = server.usd_per_device * (1.0 - own.residual_share.value) / own.life_years.value / used;
        let capital =
            server.usd_per_device * (1.0 + own.network_share.value + own.storage_share.value + own.rack_share.value);
        let shares = [1.0, own.network_share.value, own.storage_share.value, own.rack_share.value];
        let [servers, network, storage, racks] = shares.map(|share| straight * share);
        let a_year = |dollars: f64| dollars * kilowatts / used;
        let parts = [
            servers,
            network,
            storage,
            racks,
            capital * recovery(own) / used - (servers + network + storage + racks),
            kilowatts * own.power_share.value * own.pue.value * own.usd_per_kwh.value,
            a_year(12.0 * own.space_usd_per_kw_month.value),
            a_year(own.staff_usd_per_kw_year.value),
            a_year(own.maintenance_usd_per_kw_year.value + own.taxes_usd_per_kw_year.value),
        ];
        Some(OwnPrice { parts })
    }

    /// Dollars a used device-hour.
    pub fn total(&self) -> f64 {
        self.parts.iter().sum()
    }
}

/// What is paid a year for each dollar of capital.
fn recovery(own: &Owning) -> f64 {
    let (i, n, s) = (own.interest_rate.value, own.life_years.value, own.residual_share.value);
    if i == 0.0 {
        return (1.0 - s) / n;
    }
    (1.0 - s) * i / (1.0 - (1.0 + i).powf(-n)) + s * i
}

#[cfg(test)]
mod tests {
    use meshwright_hardware::profile::Cluster;

    use super::super::PriceBook;
    use super::*;

    fn price(change: impl Fn(&mut Owning)) -> OwnPrice {
        let mut book = PriceBook::shipped().unwrap();
        change(&mut book.own);
        let pool = Cluster::parse("1x dgx-h100").unwrap().pools.remove(0);
        OwnPrice::of(&pool, book.server("dgx-h100").unwrap(), &book.own).unwrap()
    }

    #[test]
    fn payments_repay_capital_and_interest() {
        let mut own = PriceBook::shipped().unwrap().own;
        (own.interest_rate.value, own.life_years.value, own.residual_share.value) = (0.1, 5.0, 0.1);
        let (a_year, mut owed) = (recovery(&own), 1.0);
        (0..5).for_each(|_| owed = owed * 1.1 - a_year);
        assert!((owed - 0.1).abs() < 1e-12, "after five payments what is owed is what it is sold for: {owed}");
        own.interest_rate.value = 0.0;
        assert_eq!(recovery(&own), 0.9 / 5.0);
    }

    #[test]
    fn parts_follow_from_what_they_are_of() {
        let base = price(|_| ());
        let by = |name: &str, price: &OwnPrice| price.parts[PARTS.iter().position(|part| *part == name).unwrap()];
        let idle = price(|own| own.utilisation.value /= 2.0);
        for name in PARTS {
            let expected = if name == "electricity" { 1.0 } else { 2.0 };
            assert!((by(name, &idle) / by(name, &base) - expected).abs() < 1e-9, "{name}");
        }
        let hot = price(|own| own.pue.value *= 2.0);
        assert!((hot.total() - base.total() - by("electricity", &base)).abs() < 1e-12);
        assert!(by("interest", &price(|own| own.interest_rate.value = 0.0)).abs() < 1e-12);
        assert!((1.0..6.0).contains(&base.total()), "an owner's H100-hour is near rents: {}", base.total());
    }
}
