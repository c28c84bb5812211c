//! Periods against their closed forms; memory; what is refused; a hundred thousand devices.

use super::*;
use crate::job::Architecture;
use crate::lower::lower;
use crate::models;
use crate::plan::Stage;
use crate::predict::predict;
use crate::testing::{tiny_job, tiny_model};
use meshwright_hardware::mesh::Mesh;
use proptest::prelude::*;

const LINK: &str = "2x(1x dgx-h100) @ 1 Gbit/s 20 ms";

fn tiny(sites: Option<Sites>, mesh: Mesh, zero: u8) -> Plan {
    let job = tiny_job(tiny_model(Architecture::Llama));
    Plan { sites, mesh, zero, ..Plan::single(job, 1) }
}

proptest! {
    #[test]
    fn a_period_lies_between_its_bounds(
        every in 1usize..60, fragments in 1usize..8, overlap in 0usize..40,
        exchange in 0.0f64..30.0, update in 0.0f64..0.5,
    ) {
        let sites = Sites { every, fragments: fragments.min(every), overlap: overlap.min(every - 1), ..Sites::usual(4) };
        let (inner, parts) = (1.0, sites.fragments as f64);
        let Period { seconds, waiting } = period(&sites, Seconds(inner), Seconds(exchange), Seconds(update));
        let work = inner * every as f64 + parts * update;
        prop_assert!((seconds.0 - work - waiting.0).abs() < 1e-6, "{} is work and waiting", seconds.0);
        prop_assert!(seconds.0 >= work.max(parts * exchange) * (1.0 - 2e-6), "{}", seconds.0);
        prop_assert!(seconds.0 <= work + parts * exchange + 1e-6);
        if sites.overlap == 0 {
            prop_assert!((waiting.0 - parts * exchange).abs() < 1e-6);
        }
        if exchange <= inner * sites.overlap as f64 && parts == 1.0 {
            prop_assert!(waiting.0 < 1e-6, "hidden: {}", waiting.0);
        }
    }
}

#[test]
fn rarer_meetings_fewer_bits_and_overlap_cost_less_and_all_sites_count() {
    let cluster = Cluster::parse(LINK).unwrap();
    let mesh = Mesh { dp: 2, ..Mesh::ONE };
    let step = |sites: Sites| predict(&tiny(Some(sites), mesh, 1), &cluster).unwrap().figures;
    let often = step(Sites { every: 1, ..Sites::usual(2) });
    let seldom = step(Sites { every: 100, ..Sites::usual(2) });
    let short = step(Sites { every: 1, bits: 4, ..Sites::usual(2) });
    let hidden = step(Sites { every: 100, overlap: 50, ..Sites::usual(2) });
    assert!(seldom.step_time_s < often.step_time_s && short.step_time_s < often.step_time_s);
    assert!(hidden.step_time_s < seldom.step_time_s);
    let tokens = tiny(None, mesh, 1).job.tokens_per_step() as f64;
    assert!((often.tokens_per_s * often.step_time_s / tokens - 1.0).abs() < 1e-9);
    assert!((often.tokens_per_s_per_device * 4.0 / often.tokens_per_s - 1.0).abs() < 1e-9);
}

/// Two sites that meet after every step pay at least 2(n − 1)/n of the bytes over the link, and two messages.
#[test]
fn a_meeting_takes_what_the_link_takes() {
    let cluster = Cluster::parse(LINK).unwrap();
    let plan = tiny(Some(Sites { every: 1, ..Sites::usual(2) }), Mesh::ONE, 0);
    let outer = outer(&plan, &cluster, Seconds(0.001)).unwrap().unwrap();
    let bytes = plan.job.model.parameters(plan.job.positions()) as f64 * 4.0;
    let least = 2.0 * 0.02 + bytes / 125e6;
    assert!((outer.exchange_s / least - 1.0).abs() < 1e-3, "{} for {least}", outer.exchange_s);
    assert_eq!(outer.exchanged_bytes, bytes as u64);
}

#[test]
fn the_outer_state_is_declared_as_the_optimizers_is() {
    let mesh = Mesh { dp: 2, ..Mesh::ONE };
    for zero in [0, 1, 2, 3] {
        let bytes = |sites| lower(&tiny(sites, mesh, zero)).unwrap().program.roles[0].bytes();
        // The batch is halved by two sites, but one microbatch is in flight either way.
        let more = bytes(Some(Sites::usual(2))) - bytes(None);
        let program = lower(&tiny(None, mesh, zero)).unwrap().program;
        let moments = program.roles[0].buffers.iter().filter(|b| b.name.starts_with("m.") || b.name.starts_with("v."));
        assert_eq!(more, moments.map(|b| b.bytes()).sum::<u64>(), "ZeRO-{zero}");
    }
}

#[test]
fn what_sites_cannot_do_is_refused() {
    let refused = |sites: Sites, says: &str| {
        let plan = tiny(Some(sites), Mesh::ONE, 0);
        let message = Plan::from_toml("p.toml", &plan.to_toml()).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refused(Sites::usual(0), "`sites.count` is 0");
    refused(Sites::usual(3), "sites.count · dp · microbatch = 3 · 1");
    refused(Sites { bits: 33, ..Sites::usual(2) }, "`sites.bits` is 33");
    refused(Sites { overlap: 500, ..Sites::usual(2) }, "`sites.overlap` is 500");
    refused(Sites { every: 4, fragments: 5, ..Sites::usual(2) }, "`sites.fragments` is 5");
    let plan = tiny(Some(Sites::usual(2)), Mesh::ONE, 0);
    assert_eq!(Plan::from_toml("p.toml", &plan.to_toml()).unwrap(), plan);
    let one = Cluster::parse("1x dgx-h100").unwrap();
    let message = predict(&plan, &one).unwrap_err().to_string();
    assert!(message.contains("2 sites") && message.contains("@"), "{message}");
    let message = predict(&tiny(None, Mesh::ONE, 0), &Cluster::parse(LINK).unwrap()).unwrap_err().to_string();
    assert!(message.contains("[sites]"), "{message}");
}

#[test]
fn a_hundred_thousand_devices_on_a_hundred_sites_are_simulated() {
    let cluster = Cluster::parse("100x(125x dgx-h100) @ 10 Gbit/s 50 ms").unwrap();
    let model = models::load("gpt3-175b").unwrap();
    let mut job = crate::job::Job { global_batch: 100 * 125, seq: 2048, ..tiny_job(model) };
    job.precision = meshwright_hardware::units::Precision::Bf16;
    let mesh = Mesh { dp: 125, pp: 1, tp: 8, ..Mesh::ONE };
    let stages = vec![Stage { layers: 96, full: 0, selective: 0, offload: 0 }];
    let diloco = Plan { mesh, zero: 3, stages, sites: Some(Sites::usual(100)), ..Plan::single(job, 1) };
    diloco.check().unwrap();
    let step = |every| {
        let plan = Plan { sites: Some(Sites { every, ..Sites::usual(100) }), ..diloco.clone() };
        predict(&plan, &cluster).unwrap().figures.step_time_s
    };
    let (always, seldom) = (step(1), step(500));
    assert!(always > 20.0 * seldom, "{always} {seldom}");
}
