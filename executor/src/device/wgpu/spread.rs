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
    pub(super) fn record_routing(&mut self, op: &Op, x: &[Slice]) -> Result<(), String> {
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
                let both = self.scratch(choices + experts)?;
                let (chosen, pull) = (both.part(0, rows * top_k), both.part(choices, experts));
                let dims = [rows, experts, top_k];
                self.record(each(kernels::CHOICES, &[&chosen, &x[0]], &dims))?;
                let scale = balance * experts as f32 / (rows * top_k) as f32;
                let groups = experts.div_ceil(WIDTH);
                let pulls = call(kernels::PULLS, &[&chosen, &pull], &[rows * top_k, experts], groups);
                self.record(Call { numbers: vec![scale], ..pulls })?;
                self.record(each(kernels::ROUTE_GRAD, &[&chosen, &x[0], &x[1], &x[2], &pull], &dims))
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

    pub(super) fn context_grad(&mut self, d: &ContextDims, at: Coord, x: &[Slice]) -> Result<(), String> {
        let lines = d.rows() * d.heads;
        let deltas = self.scratch(lines)?;
        let groups = lines.div_ceil(FEW);
        self.record(call(kernels::CONTEXT_DELTAS, &[&x[2], &x[4], &deltas], &[lines, d.head_dim], groups))?;
        if d.hop == 0 {
            self.record(each(kernels::ZERO, &[&x[5]], &[d.rows() * d.stride]))?;
        }
        self.record(each(kernels::ZERO, &[&x[6]], &[d.kv_elems()]))?;
        self.context(kernels::CONTEXT_DQ, &[&x[0], &x[1], &x[3], &x[4], &deltas, &x[5]], d, at, groups)?;
        let keys = (d.blocks * d.batch * d.keys * d.kv_heads).div_ceil(FEW);
        self.context(kernels::CONTEXT_DKV, &[&x[0], &x[1], &x[3], &x[4], &deltas, &x[6]], d, at, keys)
    }
}
