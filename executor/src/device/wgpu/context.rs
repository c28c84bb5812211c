//! Attention to keys and values of other ranks, or of an encoder, as calls of kernels.
//!
//! In: dims and regions, checked. Out: recorded calls.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::ContextDims;

use super::Wgpu;
use super::dispatch::KernelCall;
use super::memory::Slice;
use super::ops::{call, each};
use super::parts::FEW;
use super::pipeline::{self as kernels, Kernel};

impl Wgpu {
    /// Records one of the kernels of attention to blocks.
    pub(super) fn context(
        &mut self,
        kernel: Kernel,
        args: &[&Slice],
        d: &ContextDims,
        at: Coord,
        groups: usize,
    ) -> Result<(), String> {
        let causal = usize::from(d.causal);
        let own = [d.batch, d.seq, d.keys, d.heads, d.kv_heads, d.head_dim, d.stride, causal];
        let shared = [d.cp, at.cp, d.blocks, d.hop];
        let numbers = vec![1.0 / (d.head_dim as f32).sqrt()];
        self.record(KernelCall { numbers, ..call(kernel, args, &[&own[..], &shared].concat(), groups) })
    }

    /// Attention to blocks. Kernels add to results where they stand, so these stand in fp32 until they are whole.
    pub(super) fn context_forward(&mut self, d: &ContextDims, at: Coord, x: &[Slice]) -> Result<(), String> {
        let groups = (d.rows() * d.heads).div_ceil(FEW);
        let n = d.rows() * d.heads * d.head_dim;
        let out = self.scratch(n)?;
        if d.hop > 0 {
            self.record(each(kernels::COPY, &[&x[2], &out], &[n]))?;
        }
        self.context(kernels::CONTEXT_FORWARD, &[&x[0], &x[1], &out, &x[3]], d, at, groups)?;
        self.record(each(kernels::COPY, &[&out, &x[2]], &[n]))
    }

    pub(super) fn context_grad(&mut self, d: &ContextDims, at: Coord, x: &[Slice]) -> Result<(), String> {
        let lines = d.rows() * d.heads;
        let (queries, keys) = (d.rows() * d.stride, d.kv_elems());
        // Parts begin on cache lines, as bindings must.
        let [to_dq, to_dkv] = [lines, lines.next_multiple_of(64) + queries].map(|n| n.next_multiple_of(64));
        let all = self.scratch(to_dkv + keys)?;
        let (deltas, dq, dkv) = (all.part(0, lines), all.part(to_dq, queries), all.part(to_dkv, keys));
        let groups = lines.div_ceil(FEW);
        self.record(call(kernels::CONTEXT_DELTAS, &[&x[2], &x[4], &deltas], &[lines, d.head_dim], groups))?;
        if d.hop == 0 {
            self.record(each(kernels::ZERO, &[&dq], &[queries]))?;
        } else {
            self.record(each(kernels::COPY, &[&x[5], &dq], &[queries]))?;
        }
        self.record(each(kernels::ZERO, &[&dkv], &[keys]))?;
        self.context(kernels::CONTEXT_DQ, &[&x[0], &x[1], &x[3], &x[4], &deltas, &dq], d, at, groups)?;
        self.record(each(kernels::COPY, &[&dq, &x[5]], &[queries]))?;
        let groups = (d.blocks * d.batch * d.keys * d.kv_heads).div_ceil(FEW);
        self.context(kernels::CONTEXT_DKV, &[&x[0], &x[1], &x[3], &x[4], &deltas, &dkv], d, at, groups)?;
        self.record(each(kernels::COPY, &[&dkv, &x[6]], &[keys]))
    }
}
