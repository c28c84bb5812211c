//! What an optimizer that shards states flattens, to reduce gradients and to gather weights.
//!
//! In: a plan. Out: [`FlatBuffers`] of a stage.
//!
//! DeepSpeed has one for gradients and one for weights, each as large as its settings say, whatever a stage holds
//! (`reduce_bucket_size` and `allgather_bucket_size`). Its optimizer of bf16 adds up in fp32 instead, and has none; in a pipeline it
//! reduces once, when activations have made room.
//!
//! Invariant: no instruction reads them; where ZeRO shards nothing, or gradients too are in buckets of pieces, there are none.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::program::Elem;

use super::format::Formats;
use crate::plan::Plan;

/// Buffers of so many elements each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlatBuffers {
    /// How many.
    pub(super) count: usize,
    /// Elements of each.
    pub(super) elems: usize,
}

impl FlatBuffers {
    /// Of every stage of a plan.
    pub(super) fn of(plan: &Plan) -> FlatBuffers {
        let (width, elems) = (Formats::of(&plan.job), plan.job.software.flat);
        let shares = (1..=2).contains(&plan.zero) && plan.mesh.size(Axis::Data) > 1 && plan.mesh.pp == 1;
        let count =
            if shares && elems > 0 && width.gradients == width.model && width.model != Elem::F32 { 2 } else { 0 };
        FlatBuffers { count, elems }
    }

    /// Bytes of all.
    pub(super) fn bytes(plan: &Plan) -> u64 {
        let FlatBuffers { count, elems } = FlatBuffers::of(plan);
        (count * elems) as u64 * Formats::of(&plan.job).model.bytes()
    }
}

#[cfg(test)]
mod tests {
    use meshwright_hardware::mesh::Mesh;
    use meshwright_hardware::profile::GradientSums;
    use meshwright_hardware::units::Precision;

    use crate::job::{Architecture, Job, Software};
    use crate::lower::lower;
    use crate::plan::{Plan, Stage, layers_of};
    use crate::predict::declared;
    use crate::testing::{tiny_job, tiny_model};

    /// By hand: two buffers of 1,000 elements of two bytes, in fp16 with ZeRO-1 and without a pipeline alone.
    #[test]
    fn flattened_gradients_and_weights_have_buffers_where_states_are_shared() {
        let bytes = |flat, (zero, pp): (u8, usize), precision| {
            let software = Software { flat, gradients: GradientSums::FullBesideNarrow, ..Software::default() };
            let job = Job { precision, software, ..tiny_job(tiny_model(Architecture::Gpt2)) };
            let (mesh, whole) = (Mesh { dp: 2, pp, ..Mesh::ONE }, Plan::single(job, 1));
            let stages = layers_of(whole.job.model.depth(), pp).into_iter();
            let stages = stages.map(|layers| Stage { layers, ..whole.stages[0] }).collect();
            let plan = Plan { zero, mesh, stages, ..whole };
            let declared = declared(&plan);
            assert_eq!(declared[0], lower(&plan).unwrap().program.roles[0].bytes());
            declared[0]
        };
        let more = |of, precision| bytes(1000, of, precision) - bytes(0, of, precision);
        assert_eq!(more((1, 1), Precision::Fp16), 2 * 1000 * 2);
        for (of, precision) in [((0, 1), Precision::Fp16), ((3, 1), Precision::Fp16), ((1, 2), Precision::Fp16)] {
            assert_eq!(more(of, precision), 0, "{of:?}");
        }
        assert_eq!(more((1, 1), Precision::Bf16), 0);
    }
}
