//! Lowering: a plan to the program that simulation prices and the executor runs.
//!
//! In: a [`Plan`]. Out: [`Lowered`]: the verified program and where each named parameter lives in it.
//!
//! Passes: pieces (tapes to blocks and collectives, `code`); for each class of replicas layout (buffers, `layout`) and step
//! (the instruction list of each stage, `step`), cross-stream waits and verification (both `meshwright_hardware`'s).
//!
//! Invariant: equal plans give equal programs.

mod at;
mod bank;
mod blocks;
mod code;
mod flat;
mod footprint;
mod format;
mod layout;
mod offload;
mod pass;
mod runs;
mod saved_beside;
mod share;
mod slots;
mod step;
mod turns;
mod unread;
mod update;
mod workspace;

use meshwright_hardware::params::Params;
use meshwright_hardware::program::Program;
use meshwright_hardware::verify::{Verified, verify_with_waits};

pub use bank::has_replicas;
pub use blocks::Blocks;
pub use code::{Code, Piece, Pieces, Segment, Tapes, kept, kept_elems};
pub use footprint::{BankSize, Frames, InFlight, Once, PieceSize, PieceSizes};
pub use format::{ByClass, Class, Formats, ValueFormats};
pub use layout::StageLayout;
pub use runs::{after_saves, waits_for};
pub use turns::{OFFLOAD_SLOTS, offload_slots};
pub use update::{BankRule, Updated};

use crate::error::PlanError;
use crate::plan::Plan;

/// A plan made executable.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What each rank does in a step.
    pub program: Verified,
    /// Where each named parameter lives.
    pub params: Params,
}

/// Lowers a plan that satisfies [`Plan::check`].
pub fn lower(plan: &Plan) -> Result<Lowered, PlanError> {
    let mut blocks = Blocks::default();
    let pieces = Pieces::of(plan, &mut blocks);
    let classes = plan.classes();
    let (mut roles, mut params) = (Vec::new(), Params::default());
    for class in 0..classes.count() {
        // Pieces are the same for all: the loss counts the tokens of the whole batch.
        let own = plan.of_class(class);
        for (stage, list) in own.orders().iter().enumerate() {
            let layout = StageLayout::of(&own, &pieces, stage, list);
            params.roles.push(layout.params());
            roles.push(step::role(&own, &pieces, layout, (stage, list), &mut blocks));
        }
    }
    let program = Program { mesh: plan.mesh, classes, blocks: blocks.into_list(), roles };
    Ok(Lowered { program: verify_with_waits(program)?, params })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Architecture, Job, Software};
    use crate::plan::Stage;
    use crate::schedule::Schedule;
    use crate::testing::{tiny_job, tiny_model};
    use meshwright_hardware::mesh::Mesh;
    use meshwright_hardware::profile::GradientSums;
    use meshwright_hardware::program::{Input, Kind, Lifetime};
    use meshwright_hardware::units::Precision;
    use meshwright_hardware::verify::verify;
    use proptest::prelude::*;

    fn plans() -> Vec<Plan> {
        let mut all = Vec::new();
        for architecture in [Architecture::Gpt2, Architecture::Llama] {
            for (dp, pp, tp) in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2), (1, 4, 1), (2, 1, 4)] {
                let forms = Schedule::forms(1).enumerate();
                for (schedule, zero, precision) in
                    forms.map(|(i, (schedule, _))| (schedule, (i % 2) as u8, [Precision::Fp32, Precision::Bf16][i % 2]))
                {
                    let stages = match pp {
                        1 => vec![Stage { layers: 4, full: 1, selective: 2, offload: 0 }],
                        2 => {
                            vec![
                                Stage { layers: 3, full: 1, selective: 1, offload: 0 },
                                Stage { layers: 1, full: 0, selective: 0, offload: 0 },
                            ]
                        }
                        _ => vec![Stage { layers: 1, full: 0, selective: 1, offload: 0 }; 4],
                    };
                    let job = crate::job::Job { precision, ..tiny_job(tiny_model(architecture)) };
                    let plan =
                        Plan { schedule, zero, mesh: Mesh { dp, pp, tp, ..Mesh::ONE }, stages, ..Plan::single(job, 1) };
                    plan.check().unwrap();
                    all.push(plan);
                }
            }
            all.extend([(1, 1), (2, 2), (3, 1)].map(|(zero, pp)| {
                let mesh = Mesh { dp: 4, pp, shard: Some(2), ..Mesh::ONE };
                let stages = vec![Stage { layers: 4 / pp, full: 0, selective: 0, offload: 0 }; pp];
                Plan { zero, mesh, stages, ..Plan::single(tiny_job(tiny_model(architecture)), 1) }
            }));
            all.extend(Schedule::forms(2).flat_map(|form| [0, 3].map(|zero| without_layers(architecture, form, zero))));
        }
        all.retain(|plan| plan.check().is_ok());
        all
    }

    /// The embedding, or the head, alone on the first and the last virtual stage.
    fn without_layers(architecture: Architecture, (schedule, chunks): (Schedule, usize), zero: u8) -> Plan {
        let of = |layers| Stage { layers, full: 0, selective: 0, offload: 0 };
        let mesh = Mesh { dp: 2, pp: 4 / chunks, ..Mesh::ONE };
        let stages = [0, 2, 2, 0].map(of).to_vec();
        Plan { schedule, chunks, zero, mesh, stages, ..Plan::single(tiny_job(tiny_model(architecture)), 1) }
    }

    /// Four replicas in two groups: by hand, each rank has half of 16 bytes for each of 41,248 parameters, which no padding adds to.
    #[test]
    fn hybrid_sharding_keeps_a_groups_share_of_parameters() {
        let layer = 32 * (32 + 32 + 32) + 3 * 32 * 64 + 2 * 32;
        let parameters = 4 * layer + 2 * 64 * 32 + 32;
        // Weights, gradients and two moments in fp32, of which ZeRO leaves so many whole.
        for (zero, whole) in [(1, 2), (2, 1), (3, 0)] {
            let mesh = Mesh { dp: 4, shard: Some(2), ..Mesh::ONE };
            let plan = Plan { zero, mesh, ..Plan::single(tiny_job(tiny_model(Architecture::Llama)), 1) };
            plan.check().unwrap();
            let lowered = lower(&plan).unwrap();
            let buffers = lowered.program.roles[0].buffers.iter();
            let state: u64 = buffers.filter(|b| b.lifetime == Lifetime::Persistent).map(|b| b.bytes()).sum();
            assert_eq!(state, 4 * parameters * whole + 4 * parameters * (4 - whole) / 2, "ZeRO-{zero}");
        }
    }

    #[test]
    fn every_plan_lowers_to_a_sound_program_of_the_bytes_foretold() {
        plans().iter().for_each(foretold);
    }

    /// The plan lowers to a program that is sound, waits and all, of the bytes that its sizes say.
    fn foretold(plan: &Plan) {
        let lowered = lower(plan).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()));
        verify(Program::clone(&lowered.program)).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()));
        let pieces = Pieces::of(plan, &mut Blocks::default());
        let (sizes, flights) = (PieceSizes::of(plan, &Frames::of(&pieces)), InFlight::all(&plan.pipeline()));
        for (stage, role) in lowered.program.roles.iter().enumerate() {
            let bytes = sizes.stage(plan, &flights[stage], stage);
            assert_eq!(bytes, role.bytes(), "{} stage {stage}", plan.summary());
        }
    }

    /// How software may keep what training adds up and updates.
    fn ways() -> [(Software, bool); 5] {
        let of = |gradients, casts, pure| Software { gradients, casts, pure, ..Software::default() };
        [
            (of(GradientSums::Narrow, false, false), false),
            (of(GradientSums::FullBesideNarrow, false, false), false),
            (of(GradientSums::Full, true, false), false),
            (of(GradientSums::Narrow, false, true), false),
            (of(GradientSums::Full, false, false), true),
        ]
    }

    #[test]
    fn software_keeps_other_formats_in_programs_as_sound() {
        for (software, pure) in ways() {
            for zero in 0..4 {
                let job =
                    Job { precision: Precision::Bf16, software, pure, ..tiny_job(tiny_model(Architecture::Llama)) };
                let plan = Plan { zero, mesh: Mesh { dp: 2, ..Mesh::ONE }, ..Plan::single(job, 1) };
                foretold(&plan);
            }
        }
    }

    /// Bytes a parameter, as far as they do not depend on the microbatch (Rajbhandari et al. 2020, §3.1): mixed precision keeps 2
    /// of weights, 4 of gradients, 12 of masters and moments, training in 16 bits alone 2, 2 and 4.
    #[test]
    fn states_are_of_the_formats_that_software_keeps() {
        let states = |software, pure, zero| {
            let job = Job { precision: Precision::Bf16, software, pure, ..tiny_job(tiny_model(Architecture::Llama)) };
            let plan = Plan { zero, mesh: Mesh { dp: 2, ..Mesh::ONE }, ..Plan::single(job, 1) };
            let layout = &lower(&plan).unwrap().program.roles[0];
            let elems = |what: &str| layout.buffers.iter().filter(|b| b.name == what).map(|b| b.elems).sum::<usize>();
            let persistent = layout.buffers.iter().filter(|b| b.lifetime == Lifetime::Persistent);
            persistent.filter(|b| b.name.ends_with("layers.0")).map(|b| b.bytes()).sum::<u64>() as f64
                / elems("m.layers.0") as f64
        };
        let usual = states(Software::default(), false, 0);
        assert_eq!(usual, 18.0);
        let [narrow, beside, casts, pure, own] = ways().map(|(software, pure)| states(software, pure, 0));
        assert_eq!([narrow, beside, casts, pure, own], [16.0, 20.0, 18.0, 8.0, 8.0]);
        // What is sharded stands as fp32 weights alone, beside gradients and moments.
        let (casts, usual) = (states(ways()[2].0, false, 3), states(Software::default(), false, 3));
        assert_eq!([casts, usual], [16.0, 18.0]);
    }

    #[test]
    fn activations_move_to_the_host_whatever_the_sequence() {
        let model = || crate::models::load("llama3-8b").unwrap();
        let mut moves = Vec::new();
        for seq in [2048, 500, 2047, 65_534] {
            let job = crate::job::Job { seq, precision: Precision::Bf16, ..tiny_job(model()) };
            let stages = vec![Stage { layers: 32, full: 0, selective: 0, offload: 8 }];
            let plan = Plan { stages, zero: 3, mesh: Mesh { dp: 8, ..Mesh::ONE }, ..Plan::single(job, 1) };
            let lowered = lower(&plan).unwrap_or_else(|error| panic!("{seq}: {error}"));
            let of = lowered.program.roles[0].instrs.iter().filter(|instr| matches!(instr.kind, Kind::Move { .. }));
            moves.push(of.count());
        }
        // There and back, activations and statistics each at once where nothing lies between.
        assert_eq!(moves[0], 8 * 2 * 2);
        assert!(moves[1..].iter().all(|&count| count > moves[0]), "{moves:?}");
    }

    /// Of families whose papers count alike: every bias, gain and table.
    #[test]
    fn every_embedded_model_lowers_to_its_parameters() {
        for name in crate::models::names() {
            let model = crate::models::load(name).unwrap();
            let plan = Plan::single(crate::job::Job { seq: 64, ..tiny_job(model) }, 1);
            plan.check().unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
            let lowered = lower(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
            let total: usize = lowered.params.roles[0].iter().map(|spec| spec.elems()).sum();
            // Norms of queries' and keys' latents are the only parameters that sizes leave out.
            let (total, wanted) = (total as f64, plan.job.model.parameters(64) as f64);
            assert!((total - wanted).abs() <= 1e-5 * wanted, "{name}: {total} for {wanted}");
        }
    }

    /// A vision tower, and a table of more positions than sequences have tokens: kept under every stage of ZeRO.
    #[test]
    fn what_no_op_reads_is_kept_and_updated_all_the_same() {
        let family = crate::job::Family { positions: Some(512), unpriced: 12_345, ..Default::default() };
        let model = crate::job::Model { family: Some(family), ..tiny_model(Architecture::Gpt2) };
        for zero in 0..4 {
            let mesh = Mesh { dp: 2, tp: 2, ..Mesh::ONE };
            let job = crate::job::Job { global_batch: 8, ..tiny_job(model.clone()) };
            let plan = Plan { zero, mesh, sequence_parallel: zero % 2 == 1, ..Plan::single(job, 1) };
            let lowered = lower(&plan).unwrap_or_else(|error| panic!("ZeRO-{zero}: {error}"));
            let total: usize = lowered.params.roles[0].iter().map(|spec| spec.elems()).sum();
            assert!(total as u64 >= model.parameters(64), "ZeRO-{zero}: {total}");
            foretold(&plan);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        #[test]
        fn unlike_shares_lower_to_a_role_a_class_and_stage_under_every_schedule(
            which in 0..Schedule::forms(2).count(), llama in any::<bool>(), zero in 0u8..2, deep in any::<bool>(), rounds in (1usize..5, 1usize..5),
        ) {
            let (schedule, chunks) = Schedule::forms(2).nth(which).unwrap();
            let pp = if deep { 4 } else { 2 };
            let unit = schedule.order().round(pp, chunks);
            let (most, least) = (unit * (rounds.0 + rounds.1), unit * rounds.1);
            let architecture = if llama { Architecture::Llama } else { Architecture::Gpt2 };
            let model = crate::job::Model { layers: 8, ..tiny_model(architecture) };
            let stages = vec![Stage { layers: 8 / (pp * chunks), full: 0, selective: 0, offload: 0 }; pp * chunks];
            let mesh = Mesh { dp: 3, pp, ..Mesh::ONE };
            let job = crate::job::Job { global_batch: most + 2 * least, ..tiny_job(model) };
            let shares = vec![most, least, least];
            let plan = Plan { schedule, zero, chunks, shares, mesh, stages, ..Plan::single(job, 1) };
            let checked = plan.check();
            // Of several chunks a stage may end another first for some shares, which is refused.
            prop_assert!(checked.is_ok() || chunks > 1, "{:?}", checked);
            prop_assume!(checked.is_ok());
            let Lowered { program, params } = lower(&plan).unwrap_or_else(|e| panic!("{}: {e}", plan.summary()));
            prop_assert_eq!((program.classes.sizes(), program.roles.len()), (&[1, 2][..], 2 * pp));
            let loads = |role: usize| {
                let kinds = program.roles[role].instrs.iter().map(|instr| &instr.kind);
                kinds.filter(|kind| matches!(kind, Kind::Load { input: Input::Tokens, .. })).count()
            };
            prop_assert_eq!([loads(0), loads(1), loads(pp)], [most, 0, least]);
            // Banks stand first, so that parameters lie in the same buffers of all classes.
            prop_assert_eq!(&params.roles[..pp], &params.roles[pp..]);
        }
    }

    #[test]
    fn parameters_of_all_stages_are_the_models() {
        for plan in plans() {
            let lowered = lower(&plan).unwrap();
            let mut named: Vec<(String, usize)> =
                lowered.params.roles.iter().flatten().map(|spec| (spec.name.clone(), spec.elems())).collect();
            named.sort();
            named.dedup(); // a tied embedding stands on two stages
            let total: usize = named.iter().map(|(_, elems)| elems).sum();
            assert_eq!(total as u64, plan.job.model.parameters(plan.job.positions()), "{}", plan.summary());
        }
    }
}
