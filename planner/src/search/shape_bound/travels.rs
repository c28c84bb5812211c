//! A floor of what travels in a layer: sums of tensor parallelism, keys and values of context parallelism, tokens to experts.
//!
//! In: a job, a shape, prices. Out: [`Travels`] of a microbatch, which passes show or hide.
//!
//! Invariant: no more than the priced passes send.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::price::PriceError;
use meshwright_hardware::program::{Collective, Elem};

use super::super::cached_prices::CachedPrices;
use super::super::space::KernelShape;
use super::super::times::Times;
use super::activations;
use crate::job::Job;
use crate::lower::Formats;

/// Seconds of a layer's collectives, forward and backward.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Travels {
    /// As links carry them.
    sent: [f64; 2],
    /// Of these, what shows beside any kernels.
    exposed: [f64; 2],
}

impl Travels {
    /// Of a layer without experts.
    pub fn of(
        job: &Job,
        model: &crate::job::Shape,
        shape: &KernelShape,
        links: &mut CachedPrices,
    ) -> Result<Travels, PriceError> {
        let mut travels = Travels::default();
        let rows = shape.microbatch * job.seq / shape.cp;
        let mesh = Mesh { tp: shape.tp, ..Mesh::ONE };
        let bytes = activations(job, rows * job.model.hidden);
        // Cut into a scatter and a gather it may be a little quicker than whole. What comes of whole experts needs none.
        let sums = 0.9 * if model.parallel_block || shape.whole_experts { 1.0 } else { 2.0 };
        // With sequence parallelism inputs of linear layers may be gathered in fewer bits.
        let fewer = Formats::of(job).inputs().bytes() as f64 / Elem::of(job.precision).bytes() as f64;
        let sums = sums * if shape.sequence_parallel { (1.0 + fewer) / 2.0 } else { 1.0 };
        let summed = sums * links.collective(&mesh, Collective::AllReduce, Axis::Tp, bytes)?;
        travels.add([summed, summed], Axis::Tp, links);
        if !shape.ring && shape.cp > 1 {
            // Keys and values are gathered again in backward, and their gradients scattered.
            let mesh = Mesh { cp: shape.cp, ..Mesh::ONE };
            let bytes = activations(job, kv_elems(job, shape) * shape.cp);
            let gather = links.collective(&mesh, Collective::AllGather, Axis::Cp, bytes)?;
            let scatter = links.collective(&mesh, Collective::ReduceScatter, Axis::Cp, bytes)?;
            travels.add([gather, gather + scatter], Axis::Cp, links);
        }
        Ok(travels)
    }

    /// Adds what brings tokens to experts and back, if there are any.
    pub fn exchange(&mut self, job: &Job, shape: &KernelShape, links: &mut CachedPrices) -> Result<(), PriceError> {
        let family = job.model.family.as_ref();
        let Some(experts) = family.and_then(|family| family.experts.as_ref()) else { return Ok(()) };
        let rows = shape.microbatch * job.seq / shape.cp / if shape.whole_experts { shape.tp } else { 1 };
        let slots = experts.count * crate::model::capacity(experts, rows);
        let mesh = Mesh { dp: shape.ep, ep: shape.ep, ..Mesh::ONE };
        let elems = slots * job.model.hidden;
        let mut way = |bytes| links.collective(&mesh, Collective::AllToAll, Axis::Ep, bytes);
        let (there, back) = (way(elems as u64 * Formats::of(job).sent().bytes())?, way(activations(job, elems))?);
        self.add([there + back, 2.0 * back], Axis::Ep, links);
        Ok(())
    }

    fn add(&mut self, seconds: [f64; 2], axis: Axis, links: &CachedPrices) {
        for (way, seconds) in seconds.into_iter().enumerate() {
            self.sent[way] += seconds;
            self.exposed[way] += seconds * (1.0 - links.prices.hidden(axis));
        }
    }

    /// A layer's kernels and what shows beside them; gradients of weights are a pass of their own where backward is split.
    pub fn beside(&self, kernels: Times, splits: bool) -> Times {
        let weights = if splits { 0.0 } else { kernels.weights };
        let forward = (kernels.forward + self.exposed[0]).max(self.sent[0]);
        let backward = (kernels.backward + self.exposed[1]).max(self.sent[1] - weights);
        Times { forward, backward, ..kernels }
    }
}

/// Elements of a rank's own keys and values.
fn kv_elems(job: &Job, shape: &KernelShape) -> usize {
    let model = &job.model;
    let latent = model.family.as_ref().and_then(|family| family.latent.as_ref());
    let (heads, width) = match latent {
        Some(latent) => (model.heads / shape.tp, latent.nope + latent.rope),
        None => (model.kv_heads_on(shape.tp), model.head_dim()),
    };
    shape.microbatch * job.seq / shape.cp * 2 * heads * width
}

/// What a layer sends round a ring of context parallelism, forward and backward.
pub(super) fn rotations(job: &Job, shape: &KernelShape, links: &mut CachedPrices) -> Result<[f64; 2], PriceError> {
    if !shape.ring {
        return Ok([0.0; 2]);
    }
    let mesh = Mesh { cp: shape.cp, ..Mesh::ONE };
    let once = links.collective(&mesh, Collective::Rotate, Axis::Cp, activations(job, kv_elems(job, shape)))?;
    let hops = shape.cp as f64;
    Ok([(hops - 1.0) * once, (2.0 * hops - 1.0) * once])
}
