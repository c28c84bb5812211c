//! A floor of a mixture of experts in a layer: its products, and what brings tokens to experts and back on a rank.
//!
//! In: a job, a shape, prices. Out: [`Times`] of a microbatch's passes through the experts of a layer.
//!
//! Invariant: no more than the priced passes, of which these ops are a part.

use meshwright_hardware::op::{Layout, Op};
use meshwright_hardware::price::PriceError;

use super::super::cached_prices::CachedPrices;
use super::super::space::KernelShape;
use super::super::times::Times;
use crate::job::{Experts, Job};
use crate::lower::Formats;

/// The experts to which a router sends `rows` tokens of a rank; gradients of weights are added up in a format.
pub(super) fn routed(
    job: &Job,
    shape: &KernelShape,
    (experts, rows, formats): (&Experts, usize, Formats),
    links: &mut CachedPrices,
) -> Result<Times, PriceError> {
    let (h, parts) = (job.model.hidden, if shape.whole_experts { 1 } else { shape.tp });
    let rows = if shape.whole_experts { rows / shape.tp } else { rows };
    let (width, kind) = (experts.ffn / parts, job.model.activation());
    let capacity = crate::model::capacity(experts, rows);
    let mut times = Times::default();
    for (n, k) in [(width * kind.width(), h), (h, width)] {
        times.plus(&products([experts.count / shape.ep, shape.ep, capacity, n, k], formats, links)?);
    }
    let elem = formats.inputs();
    let mut sum = |ops: [Op; 3]| ops.iter().map(|op| links.op(op, elem)).sum::<Result<f64, PriceError>>();
    let [forward, backward] = crate::model::ops_of_routed(&job.model, experts, rows, width);
    times.forward += sum(forward)?;
    times.backward += sum(backward)?;
    Ok(times)
}

/// An expert's linear layer, three products a source.
fn products(
    [experts, sources, m, n, k]: [usize; 5],
    formats: Formats,
    links: &mut CachedPrices,
) -> Result<Times, PriceError> {
    let model = links.prices.elem();
    let mut of = |layout, m, n, k, accumulate| -> Result<f64, PriceError> {
        let result = if accumulate { formats.gradients } else { model };
        let op = Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate };
        Ok(links.prices.op(&op, [formats.inputs(), formats.inputs(), result])?.0)
    };
    Ok(Times {
        forward: of(Layout::Nt, m, n, k, false)?,
        backward: of(Layout::Nn, m, k, n, false)?,
        weights: of(Layout::Tn, n, k, m, true)?,
        ..Times::default()
    })
}
