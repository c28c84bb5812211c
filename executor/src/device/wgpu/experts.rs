//! Ops of mixtures of experts as calls of kernels.
//!
//! In: an op and its regions, checked. Out: recorded calls.

use meshwright_hardware::op::Layout;

use super::dispatch::KernelCall;
use super::memory::Slice;
use super::ops::{WIDTH, call, each};
use super::pipeline as kernels;
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

    pub(super) fn route(&mut self, [rows, experts, top_k, capacity]: [usize; 4], x: &[Slice]) -> Result<(), String> {
        let chosen = self.scratch(rows * top_k)?;
        let dims = [rows, experts, top_k];
        self.record(each(kernels::ROUTE, &[&x[0], &x[1], &x[2]], &dims))?;
        self.record(each(kernels::CHOICES, &[&chosen, &x[1]], &dims))?;
        let dims = [rows * top_k, experts, capacity];
        self.record(call(kernels::TAKE_SLOTS, &[&chosen, &x[3]], &dims, experts.div_ceil(WIDTH)))
    }

    pub(super) fn route_grad(
        &mut self,
        [rows, experts, top_k]: [usize; 3],
        balance: f32,
        x: &[Slice],
    ) -> Result<(), String> {
        // Parts begin on cache lines, as bindings must.
        let choices = (rows * top_k).next_multiple_of(64);
        let slopes = (choices + experts).next_multiple_of(64);
        let all = self.scratch(slopes + rows * experts)?;
        let (chosen, pull) = (all.part(0, rows * top_k), all.part(choices, experts));
        // The kernel adds to them where they stand.
        let dlogits = all.part(slopes, rows * experts);
        let dims = [rows, experts, top_k];
        self.record(each(kernels::CHOICES, &[&chosen, &x[0]], &dims))?;
        let scale = balance * experts as f32 / (rows * top_k) as f32;
        let groups = experts.div_ceil(WIDTH);
        let pulls = call(kernels::PULLS, &[&chosen, &pull], &[rows * top_k, experts], groups);
        self.record(KernelCall { numbers: vec![scale], ..pulls })?;
        self.record(each(kernels::ROUTE_GRAD, &[&chosen, &x[0], &x[1], &dlogits, &pull], &dims))?;
        self.record(each(kernels::COPY, &[&dlogits, &x[2]], &[rows * experts]))
    }

    pub(super) fn dispatch(&mut self, [rows, cols, top_k, slots]: [usize; 4], x: &[Slice]) -> Result<(), String> {
        self.record(each(kernels::ZERO, &[&x[2]], &[slots * cols]))?;
        let dims = [rows * top_k * cols, cols, top_k];
        self.record(each(kernels::DISPATCH, &[&x[1], &x[0], &x[2]], &dims))
    }

    pub(super) fn combine_grad(&mut self, [rows, cols, top_k, slots]: [usize; 4], x: &[Slice]) -> Result<(), String> {
        self.record(each(kernels::ZERO, &[&x[4]], &[slots * cols]))?;
        let dims = [rows * top_k * cols, cols, top_k];
        self.record(each(kernels::COMBINE_GRAD, &[&x[1], &x[2], &x[3], &x[4]], &dims))?;
        let dims = [rows * top_k, cols, top_k];
        self.record(call(kernels::SHARES_GRAD, &[&x[1], &x[0], &x[3], &x[5]], &dims, rows * top_k))
    }
}
