//! Abilities of engines: the nearest plan loses nothing more, and what can be expressed is left as it is.

use meshwright_engines::engine::ENGINES;
use meshwright_hardware::mesh::Order;
use meshwright_planner::ability::Losses;
use meshwright_planner::job::{Job, OptimizerName};
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::schedule::Schedule;

fn plan(layers: &[usize]) -> Plan {
    let mut model = models::load("llama3-8b").unwrap();
    model.layers = layers.iter().sum();
    let mut plan = Plan::single(Job::of(model, 4096, 64), 1);
    (plan.mesh.pp, plan.mesh.dp) = (layers.len(), 4);
    plan.stages = layers.iter().map(|&layers| Stage { layers, full: 0, selective: 0, offload: 0 }).collect();
    plan
}

#[test]
fn what_cannot_be_expressed_is_named_and_the_nearest_plan_loses_nothing_more() {
    let mut odd = plan(&[8, 8, 8, 8]);
    (odd.stages[0].full, odd.stages[1].selective) = (3, 2);
    (odd.zero, odd.mesh.order, odd.job.optimizer.name) = (1, Order::PpDataTp, OptimizerName::Adafactor);
    let mut hosted = odd.clone();
    hosted.stages[2].offload = 1;
    let mut delayed = odd;
    delayed.schedule = Schedule::ZeroBubble2p;
    for (odd, words) in [(hosted, ["on the host", "adafactor"]), (delayed, ["zb-h2", "pp-data-tp"])] {
        odd.check().unwrap();
        for engine in ENGINES {
            let (mut near, mut losses) = (odd.clone(), Losses::default());
            engine.about().ability.fit(&mut near, &mut losses);
            let all: Vec<&str> = losses.0.iter().map(|loss| loss.what.as_str()).collect();
            for word in words {
                assert!(all.iter().any(|what| what.contains(word) || what.contains("pipeline stages")), "{all:?}");
            }
            assert!(losses.have_a_way(), "{all:?}");
            near.check().unwrap_or_else(|fault| panic!("{}: {fault}", engine.about().name));
            let mut again = Losses::default();
            let before = near.clone();
            engine.about().ability.fit(&mut near, &mut again);
            assert_eq!((again.0, near), (vec![], before), "{}", engine.about().name);
        }
    }
}

#[test]
fn what_can_be_expressed_is_left_as_it_is() {
    let mut plain = plan(&[32]);
    (plain.zero, plain.stages[0].full) = (3, 32);
    for engine in ENGINES {
        let (mut near, mut losses) = (plain.clone(), Losses::default());
        engine.about().ability.fit(&mut near, &mut losses);
        assert_eq!((near, losses.0), (plain.clone(), vec![]), "{}", engine.about().name);
    }
}

#[test]
fn a_model_that_an_engine_has_not_has_no_nearest_plan() {
    let t5 = Plan::single(Job::of(models::load("t5-11b").unwrap(), 512, 64), 1);
    let without = ENGINES.iter().filter(|engine| !engine.about().ability.models.encoder_decoder);
    for engine in without {
        let mut losses = Losses::default();
        engine.about().ability.fit(&mut t5.clone(), &mut losses);
        assert!(!losses.have_a_way() && losses.0.iter().any(|loss| loss.what.contains("encoder-decoder")));
    }
}
