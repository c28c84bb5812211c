//! What scenarios would be charged, in the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification), so that tools which
//! read bills read plans.
//!
//! In: [`ScenarioRow`]s. Out: a CSV file: a line a rent, a line a part of an owner's cost.
//!
//! What a plan has no value for stays empty: it has no dates. `EffectiveCost` is amortised, as an owner's parts are; nothing is
//! billed to an owner.
//!
//! Invariant: a scenario's effective costs sum to its `usd`.

use std::path::Path;

use serde_json::json;

use super::rows::ScenarioRow;
use crate::failure::Failure;
use crate::out::write_csv;

/// FOCUS 1.2's names.
pub const FOCUS: [&str; 20] = [
    "ProviderName",
    "RegionName",
    "ChargeCategory",
    "ChargeFrequency",
    "ChargeDescription",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ServiceCategory",
    "SkuId",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ListUnitPrice",
    "ListCost",
    "ContractedUnitPrice",
    "ContractedCost",
    "EffectiveCost",
    "BilledCost",
    "BillingCurrency",
    "Tags",
];

/// An owner's parts: column, description, service.
const OWNED: [(&str, &str, &str); 6] = [
    ("usd_hardware", "servers, network, storage and racks, depreciated", "Compute"),
    ("usd_interest", "interest on capital", "Other"),
    ("usd_electricity", "electricity", "Other"),
    ("usd_space", "space, power and cooling plant", "Other"),
    ("usd_staff", "staff", "Other"),
    ("usd_maintenance", "maintenance and taxes", "Other"),
];

/// Writes them.
///
/// # Errors
/// Code 1 if the file cannot be written.
pub fn write_line_items(path: &Path, all: &[ScenarioRow]) -> Result<(), Failure> {
    write_csv(path, &FOCUS, all.iter().flat_map(lines))
}

fn lines(row: &ScenarioRow) -> Vec<Vec<String>> {
    let rent = row.number("usd_rent").map(|usd| rented(row, usd));
    let owned = OWNED.iter().filter_map(|(column, about, service)| {
        let usd = row.number(column)?;
        Some(line(
            row,
            &[
                ("ChargeDescription", (*about).to_owned()),
                ("ServiceCategory", (*service).to_owned()),
                ("PricingCategory", "Other".to_owned()),
                ("EffectiveCost", usd.to_string()),
                ("BilledCost", "0".to_owned()),
            ],
        ))
    });
    rent.into_iter().chain(owned).collect()
}

fn rented(row: &ScenarioRow, usd: f64) -> Vec<String> {
    let pricing = row.text("pricing");
    let category = match pricing.rsplit(' ').next().unwrap_or_default() {
        "1y" | "3y" => "Committed",
        "spot" => "Dynamic",
        "given" => "Other",
        _ => "Standard",
    };
    let price = row.text("usd_per_device_hour");
    let listed = matches!(row.text("price_kind").as_str(), "list" | "profile") && category == "Standard";
    let list = |value: &str| if listed { value.to_owned() } else { String::new() };
    line(
        row,
        &[
            ("ProviderName", row.text("price_cloud")),
            ("RegionName", row.text("price_region")),
            ("ChargeDescription", format!("{} devices of {}", row.text("devices_paid"), row.text("cluster"))),
            ("ServiceCategory", "Compute".to_owned()),
            ("PricingCategory", category.to_owned()),
            ("PricingQuantity", row.text("device_hours")),
            ("PricingUnit", "device-hours".to_owned()),
            ("ListUnitPrice", list(&price)),
            ("ListCost", list(&usd.to_string())),
            ("ContractedUnitPrice", price.clone()),
            ("ContractedCost", usd.to_string()),
            ("EffectiveCost", usd.to_string()),
            ("BilledCost", usd.to_string()),
        ],
    )
}

/// A line with these values, and those that all lines have.
fn line(row: &ScenarioRow, values: &[(&str, String)]) -> Vec<String> {
    let tags = json!({ "scenario": row.text("scenario"), "model": row.text("model"), "plan": row.text("plan") });
    let value = |name: &&str| match *name {
        "ChargeCategory" => "Usage".to_owned(),
        "ChargeFrequency" => "Usage-Based".to_owned(),
        "SkuId" => row.text("cluster"),
        "BillingCurrency" => "USD".to_owned(),
        "Tags" => tags.to_string(),
        name => values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).unwrap_or_default(),
    };
    FOCUS.iter().map(value).collect()
}
