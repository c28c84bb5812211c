//! Costs of what ranks that share parameters do for each other: sums and gathers, and the optimizer.
//!
//! In: a piece's banks, prices, a mesh. Out: [`ShareTimes`] in seconds.
//!
//! Invariant: only sums of the prices that the simulator uses.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::price::PriceError;
use meshwright_hardware::program::{Collective, Elem};

use super::cached_prices::CachedPrices;
use super::times::{ShareIssue, ShareTimes};
use crate::lower::{BankSize, Formats, Updated, has_replicas};
use crate::plan::Plan;

/// Summing a bank's gradients over those that hold the same, up to ZeRO-1.
pub(super) fn reduce(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    let op = if bank.zero > 0 { Collective::ReduceScatter } else { Collective::AllReduce };
    let bytes = gradients(plan, bank.elems);
    let reduced = parts(plan, bank, links)? + links.collective(&plan.mesh, op, bank.axis, bytes)?;
    Ok(reduced + replicate(plan, bank, links)?)
}

/// In hybrid sharding: summing a shard of gradients over those that hold the same.
fn replicate(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    if !has_replicas(bank.axis) {
        return Ok(0.0);
    }
    let bytes = gradients(plan, bank.elems / bank.shards);
    links.collective(&plan.mesh, Collective::AllReduce, Axis::Replica, bytes)
}

/// Summing gradients of which ranks of tensor parallelism have parts.
fn parts(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    summed(plan, &bank.parts, links)
}

fn summed(plan: &Plan, parts: &[usize], links: &mut CachedPrices) -> Result<f64, PriceError> {
    let each = |&elems: &usize| links.collective(&plan.mesh, Collective::AllReduce, Axis::Tp, gradients(plan, elems));
    parts.iter().map(each).sum()
}

/// Bytes of gradients of so many parameters.
fn gradients(plan: &Plan, elems: usize) -> u64 {
    elems as u64 * Formats::of(&plan.job).gradients.bytes()
}

/// What ranks with the same parameters do for each other, of a piece with these banks.
pub(super) fn share(plan: &Plan, banks: &[BankSize], links: &mut CachedPrices) -> Result<ShareTimes, PriceError> {
    let mut share = ShareTimes::default();
    let (mesh, width) = (&plan.mesh, Formats::of(&plan.job));
    let mut bucket = 0;
    for bank in banks.iter().filter(|bank| bank.elems > 0) {
        let BankSize { elems, shards, zero, axis, .. } = *bank;
        let weights = elems as u64 * bank.elem(width).bytes();
        if zero >= 3 {
            let (n, weights) = (elems / shards, bank.elem(width));
            share.copy += links.vector("copy", n, [weights; 2], || Op::Copy { n })?;
        }
        share.issue.add(bank, mesh, links.prices.issue_once().0);
        let mut gathered = || links.collective(mesh, Collective::AllGather, axis, weights);
        if !bank.trains() {
            share.gather += if zero >= 3 { gathered()? } else { 0.0 };
            continue;
        }
        let gathered = if zero > 0 { gathered()? } else { 0.0 };
        let own = elems / shards;
        let held = if zero >= 2 { own } else { elems };
        share.clear += links.vector("zero", held, [width.gradients; 2], || Op::Zero { n: held })?;
        if zero >= 2 {
            bucket += elems;
            share.last_settle = links.vector("accumulate", own, [width.gradients; 2], || Op::Accumulate { n: own })?;
            share.settle += share.last_settle;
            let scattered = links.collective(mesh, Collective::ReduceScatter, axis, gradients(plan, elems))?;
            share.scatter += parts(plan, bank, links)? + scattered;
            share.copies += summed(plan, &bank.parts[..bank.copies], links)?;
            share.replicate += replicate(plan, bank, links)?;
        } else {
            share.reduce += reduce(plan, bank, links)?;
            share.parts += parts(plan, bank, links)?;
            share.copies += summed(plan, &bank.parts[..bank.copies], links)?;
        }
        let norm = Op::SquaredNorm { n: own, whole: elems, copies: mesh.tp, replicas: 1, shards, axis };
        share.last_norm = links.vector("norm", own, [width.gradients, Elem::F32], || norm)?;
        share.norm += share.last_norm;
        share.update += update(bank, width, links)?;
        match zero {
            0 => {}
            1 | 2 => share.renew += gathered,
            _ => share.gather += gathered,
        }
        if zero >= 3 && matches!(axis, Axis::Edp | Axis::Eshard) {
            share.gather_experts += gathered;
        }
    }
    share.empty += links.vector("zero", bucket, [width.gradients; 2], || Op::Zero { n: bucket })?;
    share.issue.empty = if bucket > 0 { links.prices.issue_once().0 } else { 0.0 };
    Ok(share)
}

impl ShareIssue {
    /// Adds what a bank needs, each instruction issued in the same time.
    fn add(&mut self, bank: &BankSize, mesh: &Mesh, once: f64) {
        if bank.zero >= 3 {
            self.gather += 2.0 * once;
        }
        if !bank.trains() {
            return;
        }
        let over = |axis: Axis| f64::from(u8::from(mesh.size(axis) > 1));
        let parts = if mesh.tp > 1 { bank.parts.len() as f64 } else { 0.0 };
        self.clear += once;
        self.sums += (parts + over(bank.axis)) * once;
        self.settle += if bank.zero >= 2 { once } else { 0.0 };
        self.norm += once;
        self.update += if bank.shards > 1 && bank.zero < 3 { 2.0 * once } else { once };
    }
}

/// A bank's update.
fn update(bank: &BankSize, width: Formats, links: &mut CachedPrices) -> Result<f64, PriceError> {
    let BankSize { elems, shards, zero, axis, .. } = *bank;
    let of = Updated { elems, decayed: elems, shards, axis, master: width.master(zero) };
    let mut seconds = 0.0;
    for op in bank.rule.before(&of) {
        seconds += links.prices.op(&op, [width.gradients])?.0;
    }
    let op = bank.rule.update(&of);
    let states = bank.rule.states(elems, shards, width);
    let elems = [Elem::F32, width.gradients, width.weights(zero)].into_iter().chain(states.iter().map(|state| state.2));
    let elems: Vec<Elem> = elems.chain(of.master.then_some(width.state)).collect();
    Ok(seconds + if bank.hosted { links.prices.on_host(&op, elems) } else { links.prices.op(&op, elems)? }.0)
}
