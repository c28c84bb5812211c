//! Where a pass's working values lie, and room for what kernels need beside them.
//!
//! In: a piece, the steps of a pass. Out: starts and sizes of working memory in its [`Code`].
//!
//! Invariant: two values alive at the same time never share working memory.

use std::collections::BTreeMap;

use meshwright_hardware::program::Phase;

use super::code::{Code, Piece};
use super::format::{ALIGN, ByClass, Class};
use super::saved_beside::in_elems;
use crate::model::{Step, Stores, Value};
use crate::plan::Recompute;

impl Piece {
    /// Places working values: each from its first use to its last, at the lowest free place (first fit by start).
    pub(super) fn lay_out(&self, steps: &[(Phase, &Step)], code: &mut Code) {
        let mut spans: BTreeMap<Value, (usize, usize)> = BTreeMap::new();
        for (at, (_, step)) in steps.iter().enumerate() {
            for value in step.values() {
                if self.works(value) && !self.held.contains_key(&value) {
                    spans.entry(value).or_insert((at, at)).1 = at;
                }
            }
        }
        let mut order: Vec<(Value, (usize, usize))> = spans.into_iter().collect();
        order.sort_by_key(|(value, (first, _))| (*first, std::cmp::Reverse(self.elems(*value)), *value));
        let mut placed: ByClass<Vec<WorkSpan>> = Default::default();
        for (value, (first, last)) in order {
            let class = self.class(value) as usize;
            let elems = self.elems(value).next_multiple_of(ALIGN);
            let mut busy: Vec<(usize, usize)> = placed[class]
                .iter()
                .filter(|other| other.last >= first)
                .map(|other| (other.start, other.end))
                .collect();
            busy.sort_unstable();
            let start = busy.iter().fold(0, |at, &(start, end)| if at + elems <= start { at } else { at.max(end) });
            placed[class].push(WorkSpan { first, last, start, end: start + elems });
            code.work.insert(value, start);
            code.work_elems[class] = code.work_elems[class].max(start + elems);
        }
        self.lay_out_beside(steps, &placed[Class::Model as usize], code);
    }

    /// Makes room behind working values for what kernels need beside them: of attention while it runs, where its scores are made again
    /// from there to its gradient; of a loss from logits on.
    fn lay_out_beside(&self, steps: &[(Phase, &Step)], placed: &[WorkSpan], code: &mut Code) {
        let (model, beside) = (self.formats.model(), &self.tape.beside);
        let width = model.bytes() as usize;
        let mut room = |from: usize, to: usize, bytes: usize| {
            let alive = placed.iter().filter(|value| value.first <= to && value.last >= from);
            let top = alive.map(|value| value.end).max().unwrap_or(0);
            let most = &mut code.work_elems[Class::Model as usize];
            *most = (*most).max(top + in_elems(bytes, model));
        };
        let keeps = self.mode == Recompute::None && !beside.makes_scores_again();
        let again = if keeps { 0 } else { beside.kept_scores(width) };
        let mut made = None;
        for (at, (_, step)) in steps.iter().enumerate() {
            match step.stores() {
                Some(Stores::Scores { backward }) => {
                    made = made.or(Some(at));
                    let from = if backward { made.unwrap_or(at) } else { at };
                    room(from, at, beside.attention(backward, width) + again);
                }
                Some(Stores::Logits) => room(at, steps.len(), beside.loss(width)),
                None => {}
            }
        }
    }
}

/// Where a working value lies: from its first use to its last, these elements.
#[derive(Clone, Copy, Debug)]
struct WorkSpan {
    first: usize,
    last: usize,
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use crate::job::{Architecture, Job, Software};
    use crate::lower::{Blocks, Formats, Frames, InFlight, PieceSizes, Pieces, lower};
    use crate::plan::{Plan, Recompute, RecomputeModule, Stage};
    use crate::testing::{tiny_job, tiny_model};
    use meshwright_hardware::mesh::Mesh;
    use meshwright_hardware::profile::LossKernel;
    use meshwright_hardware::units::Precision;

    /// GPT with feed-forward parts four times as wide, 64 tokens a sequence.
    fn gpt(software: Software) -> Job {
        let mut model = tiny_model(Architecture::Gpt2);
        model.ffn = 4 * model.hidden;
        Job { seq: 64, precision: Precision::Bf16, software, ..tiny_job(model) }
    }

    const ALL: Software = Software {
        stores_scores: true,
        dropout: true,
        loss: LossKernel::Eager,
        gradients: meshwright_hardware::profile::GradientSums::Full,
        casts: false,
        pure: false,
        keeps_narrow: true,
        dispatches_narrow: false,
        keeps_gate: true,
        keeps_gathered: false,
        flat: 0,
        eager_norms: false,
    };

    /// Korthikanti et al. 2022, §4.1: 34·s·b·h + 5·a·s²·b bytes of a layer with attention that stores its scores and with dropout,
    /// beside statistics, which the paper leaves out: 16 bytes a token of both norms, 4 a token and head of tiled attention.
    #[test]
    fn layers_of_gpt_keep_what_their_paper_counts() {
        let kept = |software: Software, mode: Recompute| {
            let plan = Plan::single(gpt(software), 2);
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            let kind = plan.job.model.kind(0);
            let [s, b, h, a] = [plan.job.seq, 2, plan.job.model.hidden, plan.job.model.heads].map(|n| n as u64);
            let bytes = Formats::of(&plan.job).bytes(pieces.layer(kind, mode).slot_elems).iter().sum::<u64>();
            ([bytes, s * b * h, a * s * s * b], (16 + 4 * a) * s * b)
        };
        let ([bytes, tokens, scores], statistics) = kept(ALL, Recompute::None);
        assert_eq!(bytes, 34 * tokens + 5 * scores + statistics);
        let ([bytes, ..], _) = kept(Software { dropout: false, ..ALL }, Recompute::None);
        assert_eq!(bytes, 32 * tokens + 2 * scores + statistics);
        let ([bytes, ..], _) = kept(Software { stores_scores: false, ..ALL }, Recompute::None);
        assert_eq!(bytes, 34 * tokens + statistics);
        // Neither scores nor norms' and activation's results, but masks.
        let ([bytes, ..], _) = kept(ALL, Recompute::Selective);
        assert_eq!(bytes, (34 - 4 - 8) * tokens + statistics);
        let ([bytes, ..], _) = kept(ALL, Recompute::Full);
        assert_eq!(bytes, 2 * tokens);
    }

    /// Korthikanti et al. 2022, table 2, without sharding: selective recomputation leaves 34·s·b·h. Norms' results are 4·s·b·h of it.
    #[test]
    fn modules_that_are_made_again_leave_what_their_paper_counts() {
        let kept = |modules: &[RecomputeModule]| {
            let plan = Plan { recompute_modules: modules.to_vec(), ..Plan::single(gpt(ALL), 2) };
            plan.check().unwrap();
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            let layer = pieces.layer(plan.job.model.kind(0), Recompute::None);
            let tokens = (plan.job.seq * 2) as u64;
            let statistics = (16 + if modules.contains(&RecomputeModule::CoreAttn) { 0 } else { 4 * 4 }) * tokens;
            let bytes = Formats::of(&plan.job).bytes(layer.slot_elems).iter().sum::<u64>();
            let work =
                lower(&plan).unwrap().program.roles[0].buffers.iter().find(|b| b.name == "work").unwrap().bytes();
            ((bytes - statistics) as f64 / (tokens * plan.job.model.hidden as u64) as f64, work)
        };
        let scores = 5.0 * 4.0 * 64.0 / 32.0; // 5·a·s / h
        assert_eq!(gpt(ALL).model.heads, 4);
        let ((all, less), (core, more)) = (kept(&[]), kept(&[RecomputeModule::CoreAttn]));
        assert_eq!([all, core], [34.0 + scores, 34.0]);
        assert!(more > less, "made again, scores need room: {more} for {less}");
        assert_eq!(kept(&[RecomputeModule::CoreAttn, RecomputeModule::Layernorm]).0, 30.0);
        // Input, qkv, attention's output, the middle: 2 + 6 + 2 + 2, norms 4, masks 2.
        assert_eq!(kept(&[RecomputeModule::CoreAttn, RecomputeModule::Mlp]).0, 18.0);
        let plan = Plan { recompute_modules: vec![RecomputeModule::MoeAct], ..Plan::single(gpt(ALL), 2) };
        let fault = plan.check().unwrap_err();
        assert!(fault.key == "recompute_modules" && fault.problem.contains("core_attn, layernorm, mlp"), "{fault:?}");
    }

    /// Where linear layers multiply in eight bits, norms' results are 2·s·b·h of the 34 and the activation's 4, where they were 4 and 8;
    /// attention reads its own output again, in 16 bits. With sequence parallelism norms' results are made again and gathered.
    #[test]
    fn inputs_of_linear_layers_in_eight_bits_are_half_as_large() {
        for (tp, keeps_narrow, bytes) in [(1, true, 28), (1, false, 34), (2, true, 26)] {
            let software = Software { stores_scores: false, keeps_narrow, ..ALL };
            let job = Job { precision: Precision::Fp8, ..gpt(software) };
            let mesh = Mesh { tp, ..Mesh::ONE };
            let plan = Plan { mesh, sequence_parallel: tp > 1, ..Plan::single(job, 2) };
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            let layer = pieces.layer(plan.job.model.kind(0), Recompute::None);
            let (all, tokens) = (Formats::of(&plan.job).bytes(layer.slot_elems), (plan.job.seq * 2 / tp) as u64);
            // Both norms' statistics, tiled attention's of a rank's heads.
            let statistics = (16 + 4 * 4) * tokens;
            assert_eq!(all.iter().sum::<u64>(), bytes * tokens * 32 + statistics, "tp {tp}, {keeps_narrow}");
            let sizes = PieceSizes::of(&plan, &Frames::of(&pieces));
            let flights = InFlight::all(&plan.pipeline());
            assert_eq!(sizes.stage(&plan, &flights[0], 0), lower(&plan).unwrap().program.roles[0].bytes());
        }
    }

    /// By hand, of 64 columns of a gate: two bytes for each of 128 tokens, which recomputation of what is cheap does away with.
    #[test]
    fn a_gate_that_is_a_kernel_of_its_own_is_kept_beside_its_product() {
        let kept = |keeps_gate, mode: Recompute| {
            let software = Software { keeps_gate, ..Software::default() };
            let model = tiny_model(Architecture::Llama);
            assert_eq!(model.ffn, 64);
            let job = Job { seq: 64, precision: Precision::Bf16, software, ..tiny_job(model) };
            let plan = Plan::single(job, 2);
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            Formats::of(&plan.job).bytes(pieces.layer(plan.job.model.kind(0), mode).slot_elems).iter().sum::<u64>()
        };
        assert_eq!(kept(true, Recompute::None) - kept(false, Recompute::None), 2 * 64 * 128);
        assert_eq!(kept(true, Recompute::Selective), kept(false, Recompute::Selective));
    }

    /// By hand, of a layer of 64 tokens of 2 sequences on 2 ranks: of each of two norms the second rank's 64 of 128 tokens more where
    /// what is gathered is kept, and all of a rank's own before their gains where they are eager, 2 bytes an element.
    #[test]
    fn gathered_tokens_and_norms_before_their_gains_are_kept_where_software_keeps_them() {
        let kept = |software: Software, sequence_parallel: bool, mode: Recompute| {
            let job =
                Job { seq: 64, precision: Precision::Bf16, software, ..tiny_job(tiny_model(Architecture::Llama)) };
            let mesh = Mesh { tp: 2, ..Mesh::ONE };
            let plan = Plan { mesh, sequence_parallel, ..Plan::single(job, 2) };
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            Formats::of(&plan.job).bytes(pieces.layer(plan.job.model.kind(0), mode).slot_elems).iter().sum::<u64>()
        };
        let (h, none, usual) = (tiny_model(Architecture::Llama).hidden as u64, Recompute::None, Software::default());
        let [gathered, eager] = [Software { keeps_gathered: true, ..usual }, Software { eager_norms: true, ..usual }];
        assert_eq!(kept(gathered, true, none) - kept(usual, true, none), 2 * 2 * 128 * h);
        assert_eq!(kept(gathered, false, none), kept(usual, false, none));
        assert_eq!(kept(eager, true, none) - kept(usual, true, none), 2 * 2 * 64 * h);
        assert_eq!(kept(eager, false, none) - kept(usual, false, none), 2 * 2 * 128 * h);
        assert_eq!(kept(eager, false, Recompute::Full), kept(usual, false, Recompute::Full));
    }

    /// Scores that are not kept have to stand in working memory while they are made again, and logits in fp32 beside the others.
    #[test]
    fn scores_and_logits_need_room_while_kernels_run() {
        let most = |software, stage: Stage| {
            let plan = Plan { stages: vec![stage], ..Plan::single(gpt(software), 2) };
            let program = lower(&plan).unwrap().program;
            let work = program.roles[0].buffers.iter().find(|buffer| buffer.name == "work").unwrap();
            let (seq, model) = (plan.job.seq, &plan.job.model);
            [work.bytes(), (2 * seq * model.vocab) as u64, (2 * model.heads * seq * seq) as u64]
        };
        let stage = Stage { layers: 4, full: 0, selective: 0, offload: 0 };
        let tiled = Software { stores_scores: false, ..ALL };
        let ([none, logits, _], [two, ..]) =
            (most(Software { loss: LossKernel::Fused, ..tiled }, stage), most(tiled, stage));
        assert!(two >= none.max(2 * 4 * logits), "{two} {none} {logits}");
        let ([kept, _, scores], [again, ..]) = (most(ALL, stage), most(ALL, Stage { full: 4, ..stage }));
        assert!(kept >= 2 * scores && again >= 7 * scores, "{kept} {again} {scores}");
    }

    #[test]
    fn programs_with_all_of_it_are_sound_and_of_the_bytes_foretold() {
        for (zero, full, selective) in [(0, 0, 0), (1, 1, 2), (3, 4, 0)] {
            let stages = vec![Stage { layers: 4, full, selective, offload: 0 }];
            let plan = Plan { zero, stages, mesh: Mesh { dp: 2, tp: 2, ..Mesh::ONE }, ..Plan::single(gpt(ALL), 1) };
            let pieces = Pieces::of(&plan, &mut Blocks::default());
            let (sizes, flights) = (PieceSizes::of(&plan, &Frames::of(&pieces)), InFlight::all(&plan.pipeline()));
            assert_eq!(sizes.stage(&plan, &flights[0], 0), lower(&plan).unwrap().program.roles[0].bytes());
        }
    }
}
