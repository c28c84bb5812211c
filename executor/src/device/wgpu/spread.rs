//! Ops of models and sequences that are spread over ranks: experts, and attention to others' keys and values.
//!
//! In: an op and its regions, checked. Out: recorded calls.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{ContextDims, Layout, Op};

use super::memory::Slice;
use super::ops::{WIDTH, call, each};
use super::parts::FEW;
use super::pipeline::{self as kernels, Call, Kernel};
use super::{Region, Wgpu};

impl Wgpu {
    /// A matmul for every expert and source, one after another.
    pub(super) fn expert_matmul(
        &mut self,
        layout: Layout,
        [experts, sources]: [usize; 2],
        [m, n, k]: [usize; 3],
        accumulate: bool,
        regions: &[Region],
    ) -> Result<(), String> {
        let part =
            |region: Region, at: usize, elems: usize| Region { start: region.start + at * elems, elems, ..region };
        for (source, expert) in (0..sources).flat_map(|source| (0..experts).map(move |expert| (source, expert))) {
            let at = source * experts + expert;
            // Gradients of an expert's weights add up over sources.
            let (b, c, adds) = match layout {
                Layout::Tn => (at, expert, accumulate || source > 0),
                Layout::Nt | Layout::Nn => (expert, at, accumulate),
            };
            let a = self.slice(part(regions[0], at, m * k))?;
            let b = self.slice(part(regions[1], b, n * k))?;
            let c = self.slice(part(regions[2], c, m * n))?;
            self.matmul(layout, [m, n, k], &a, &b, None, adds, &c)?;
        }
        Ok(())
    }

    /// Routing, dispatch and combination.
    pub(super) fn record_routing(&mut self, op: &Op, loss_scale: f32, x: &[Slice]) -> Result<(), String> {
        match *op {
            Op::Route { rows, experts, top_k, room } => {
                let chosen = self.scratch(rows * top_k)?;
                let dims = [rows, experts, top_k];
                self.record(each(kernels::ROUTE, &[&x[0], &x[1], &x[2]], &dims))?;
                self.record(each(kernels::CHOICES, &[&chosen, &x[1]], &dims))?;
                let dims = [rows * top_k, experts, room];
                self.record(call(kernels::TAKE_PLACES, &[&chosen, &x[3]], &dims, experts.div_ceil(WIDTH)))
            }
            Op::RouteGrad { rows, experts, top_k, balance, .. } => {
                // Places begin on cache lines, as bindings must.
                let choices = (rows * top_k).next_multiple_of(64);
                let slopes = (choices + experts).next_multiple_of(64);
                let all = self.scratch(slopes + rows * experts)?;
                let (chosen, pull) = (all.part(0, rows * top_k), all.part(choices, experts));
                // The kernel adds to them where they stand.
                let dlogits = all.part(slopes, rows * experts);
                let dims = [rows, experts, top_k];
                self.record(each(kernels::CHOICES, &[&chosen, &x[0]], &dims))?;
                let scale = balance * loss_scale * experts as f32 / (rows * top_k) as f32;
                let groups = experts.div_ceil(WIDTH);
                let pulls = call(kernels::PULLS, &[&chosen, &pull], &[rows * top_k, experts], groups);
                self.record(Call { numbers: vec![scale], ..pulls })?;
                self.record(each(kernels::ROUTE_GRAD, &[&chosen, &x[0], &x[1], &dlogits, &pull], &dims))?;
                self.record(each(kernels::COPY, &[&dlogits, &x[2]], &[rows * experts]))
            }
            Op::Dispatch { rows, cols, top_k, places } => {
                self.record(each(kernels::ZERO, &[&x[2]], &[places * cols]))?;
                let dims = [rows * top_k * cols, cols, top_k];
                self.record(each(kernels::DISPATCH, &[&x[1], &x[0], &x[2]], &dims))
            }
            Op::DispatchGrad { rows, cols, top_k, accumulate, .. } => {
                let dims = [rows * cols, cols, top_k, usize::from(accumulate)];
                self.record(each(kernels::DISPATCH_GRAD, &[&x[0], &x[1], &x[2]], &dims))
            }
            Op::Combine { rows, cols, top_k, .. } => {
                self.record(each(kernels::COMBINE, &[&x[1], &x[0], &x[2], &x[3]], &[rows * cols, cols, top_k]))
            }
            Op::CombineGrad { rows, cols, top_k, places } => {
                self.record(each(kernels::ZERO, &[&x[4]], &[places * cols]))?;
                let dims = [rows * top_k * cols, cols, top_k];
                self.record(each(kernels::COMBINE_GRAD, &[&x[1], &x[2], &x[3], &x[4]], &dims))?;
                let dims = [rows * top_k, cols, top_k];
                self.record(call(kernels::SHARES_GRAD, &[&x[1], &x[0], &x[3], &x[5]], &dims, rows * top_k))
            }
            ref other => unreachable!("{other:?} routes nothing"),
        }
    }

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
        self.record(Call { numbers, ..call(kernel, args, &[&own[..], &shared].concat(), groups) })
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
