//! Rents, and which of them a scenario asks for.
//!
//! In: rents in a file's order; `aws on-demand`. Out: [`Pricing`], and of a device the rent that it means.
//!
//! Invariant: of a cloud's rents the latest is meant, of several as late the least; of all clouds' the least that a seller lists,
//! if one does.

use serde::{Deserialize, Serialize};

use super::PriceKind;
use super::dates::first_day;
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
    /// US dollars a device-hour; in a file with a currency, that.
    #[serde(alias = "per_device_hour")]
    pub usd_per_device_hour: f64,
    /// When it was so: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub date: String,
    /// Who says so.
    #[serde(default = "PriceKind::given")]
    pub kind: PriceKind,
    /// Where it is written.
    #[serde(default)]
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

impl Term {
    const ALL: [Term; 4] = [Term::OnDemand, Term::Year, Term::ThreeYears, Term::Spot];

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

/// Short names of clouds.
const SHORT: [(&str, &str); 4] =
    [("aws", "Amazon Web Services"), ("gcp", "Google Cloud"), ("azure", "Microsoft Azure"), ("lambda", "Lambda Labs")];

/// Days by which a cloud's rent may be older than the newest of all clouds' to count among them.
const AS_NEW: i64 = 365;

/// Whose price a scenario asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Pricing {
    /// The profile's.
    List,
    /// What owning takes.
    Own,
    /// A cloud's, or where none is named the least of all clouds', for a term.
    Rent {
        /// Its whole name.
        cloud: Option<String>,
        /// For how long.
        term: Term,
    },
}

impl Pricing {
    /// As `list`, `own`, `aws on-demand`, `Google Cloud 3y` or `any 1y`.
    ///
    /// # Errors
    /// The user's: a term or a cloud that no rent has.
    pub fn read(text: &str, all: &[Rent]) -> Result<Pricing, Failure> {
        match text.trim() {
            "list" => return Ok(Pricing::List),
            "own" => return Ok(Pricing::Own),
            _ => {}
        }
        let (cloud, term) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
        let Some(term) = Term::ALL.into_iter().find(|known| known.name() == term) else {
            let known = Term::ALL.map(Term::name).join(", ");
            return Err(Failure::input(format!(
                "pricing `{text}`: must be `list`, `own`, or a cloud or `any` and one of {known}, as `aws on-demand`"
            )));
        };
        if cloud == "any" {
            return Ok(Pricing::Rent { cloud: None, term });
        }
        let short = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(cloud));
        let cloud = short.map_or(cloud, |(_, whole)| whole);
        let Some(known) = all.iter().find(|rent| rent.cloud.eq_ignore_ascii_case(cloud)) else {
            let known: std::collections::BTreeSet<&str> = all.iter().map(|rent| rent.cloud.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::input(format!("pricing `{text}`: no rent of `{cloud}` is known; known: {known}")));
        };
        Ok(Pricing::Rent { cloud: Some(known.cloud.clone()), term })
    }
}

/// The rent of a device that a cloud and a term mean, in a region where one is named.
pub fn rent_of<'a>(
    all: &'a [Rent],
    device: &str,
    cloud: Option<&str>,
    term: Term,
    region: Option<&str>,
) -> Option<&'a Rent> {
    let lies_in = |rent: &Rent| match (&rent.region, region) {
        (Some(own), Some(asked)) => own.to_lowercase().contains(&asked.to_lowercase()),
        _ => true,
    };
    let fits = |rent: &&Rent| rent.device == device && rent.term == term && lies_in(rent);
    let fitting: Vec<&Rent> = all.iter().filter(fits).collect();
    if let Some(cloud) = cloud {
        return latest(fitting.into_iter().filter(|rent| rent.cloud == cloud));
    }
    let mut clouds: Vec<&str> = fitting.iter().map(|rent| rent.cloud.as_str()).collect();
    clouds.sort_unstable();
    clouds.dedup();
    let mut own: Vec<&Rent> =
        clouds.iter().filter_map(|cloud| latest(fitting.iter().copied().filter(|rent| rent.cloud == *cloud))).collect();
    let newest = own.iter().filter_map(|rent| first_day(&rent.date)).max()?;
    own.retain(|rent| first_day(&rent.date).is_some_and(|date| (newest - date).whole_days() <= AS_NEW));
    let least = |a: &&Rent, b: &&Rent| {
        let doubt = a.kind.is_doubtful().cmp(&b.kind.is_doubtful());
        doubt.then(a.usd_per_device_hour.total_cmp(&b.usd_per_device_hour))
    };
    own.into_iter().min_by(least)
}

/// The latest; of several as late the least.
fn latest<'a>(rents: impl Iterator<Item = &'a Rent>) -> Option<&'a Rent> {
    rents.max_by(|a, b| {
        let least = b.usd_per_device_hour.total_cmp(&a.usd_per_device_hour);
        first_day(&a.date).cmp(&first_day(&b.date)).then(least)
    })
}

#[cfg(test)]
mod tests {
    use super::super::PriceBook;
    use super::*;

    #[test]
    fn the_latest_rent_of_a_cloud_and_a_term_is_found() {
        let all = PriceBook::shipped().unwrap().rents;
        let aws = Pricing::read("aws on-demand", &all).unwrap();
        assert_eq!(aws, Pricing::read("Amazon Web Services on-demand", &all).unwrap());
        let Pricing::Rent { cloud: Some(cloud), term } = aws else { panic!("{aws:?}") };
        for device in ["a100-80gb", "h100"] {
            let found = rent_of(&all, device, Some(&cloud), term, None).unwrap();
            let others = all.iter().filter(|r| r.device == device && r.cloud == cloud && r.term == term);
            assert!(others.clone().count() > 0 && others.into_iter().all(|rent| rent.date <= found.date), "{found:?}");
        }
        assert!(rent_of(&all, "no such device", Some(&cloud), term, None).is_none());
        assert!(rent_of(&all, "h100", Some(&cloud), term, Some("mars")).is_none());
        assert!(Pricing::read("aws monthly", &all).unwrap_err().message.contains("3y"));
        assert!(Pricing::read("awz spot", &all).unwrap_err().message.contains("Amazon"));
    }

    #[test]
    fn of_all_clouds_the_least_that_a_seller_lists_is_meant() {
        let rent = |cloud: &str, usd: f64, date: &str, kind: PriceKind| Rent {
            device: "d".to_owned(),
            cloud: cloud.to_owned(),
            region: None,
            term: Term::Year,
            usd_per_device_hour: usd,
            date: date.to_owned(),
            kind,
            source: String::new(),
        };
        let of = |all: &[Rent]| rent_of(all, "d", None, Term::Year, None).map(|rent| rent.cloud.clone());
        let (old, new) = ("2022-01-01", "2026-01-01");
        let mut all = vec![rent("a", 1.0, old, PriceKind::List), rent("b", 3.0, new, PriceKind::Secondary)];
        assert_eq!(of(&all).as_deref(), Some("b"), "what is years older does not count");
        all.push(rent("c", 5.0, new, PriceKind::List));
        assert_eq!(of(&all).as_deref(), Some("c"), "a list price before what others collected");
        all.push(rent("d", 4.0, new, PriceKind::Given));
        assert_eq!(of(&all).as_deref(), Some("d"), "the user's own counts as much");
    }
}
