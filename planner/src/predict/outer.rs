//! What the meetings of several sites cost, whose links between are slow.
//!
//! In: a plan with [`Sites`], a cluster of several sites, the time of a step in a site. Out: [`Outer`].
//!
//! Invariant: the simulation of a period never undercuts its steps, nor what the link takes for its bytes.

use std::collections::VecDeque;

use meshwright_hardware::price::{Prices, collective, stream};
use meshwright_hardware::profile::{Cluster, Wan};
use meshwright_hardware::program::Collective;
use meshwright_hardware::topology::{GroupLinks, Path};
use meshwright_hardware::units::{ByteRate, Bytes, Seconds};
use serde::Serialize;

use crate::error::PlanError;
use crate::lower::{Blocks, Pieces, StageLayout};
use crate::plan::{Plan, Sites};

/// What is assumed of quality, and how far it was seen to hold.
const CAVEAT: &str = "assumed: the same loss after as many tokens as without sites; seen for 8 sites that meet every 500 \
                          steps on C4 (Douillard et al. 2023), and by scaling laws to grow no worse with the model (Charles \
                          et al. 2025); far from there, try it small first";

/// What meetings cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outer {
    /// A step inside a site.
    pub inner_step_s: f64,
    /// A step with its share of the meetings.
    pub step_s: f64,
    /// Over the link of a site, each way, in a period of `every` steps.
    pub exchanged_bytes: u64,
    /// Exchange of one fragment, were the link free.
    pub exchange_s: f64,
    /// What ranks compute for one fragment, and give to each other inside their site.
    pub update_s: f64,
    /// Time of a period in which training waits for the link.
    pub waiting_s: f64,
    /// Share of the time in which the link is in use.
    pub link_busy: f64,
    /// What is assumed of quality.
    pub assumption: &'static str,
}

/// What the meetings of a plan's sites cost on a cluster at `inner` a step; none if there is one site.
pub fn outer(plan: &Plan, cluster: &Cluster, inner: Seconds) -> Result<Option<Outer>, PlanError> {
    let (sites, wan) = match (plan.sites, cluster.wan) {
        (None, None) => return Ok(None),
        (Some(sites), _) if sites.count == 1 => return Ok(None),
        (Some(sites), Some(wan)) if sites.count <= wan.sites => (sites, wan),
        (Some(sites), wan) => {
            return Err(PlanError::Sites { plan: sites.count, cluster: wan.map_or(1, |wan| wan.sites) });
        }
        (None, Some(wan)) => return Err(PlanError::Sites { plan: 1, cluster: wan.sites }),
    };
    let bytes = (plan.job.trained_parameters() as f64 * f64::from(sites.bits) / 8.0).ceil();
    let exchange = exchange(&sites, &wan, cluster, Bytes((bytes / sites.fragments as f64).ceil() as u64))?;
    let update = update(plan, cluster)? / sites.fragments as f64;
    let Period { seconds, waiting } = period(&sites, inner, exchange, update);
    Ok(Some(Outer {
        inner_step_s: inner.0,
        step_s: seconds.0 / sites.every as f64,
        // Of an all-reduce's bytes a site sends 2(n − 1)/n.
        exchanged_bytes: (bytes * 2.0 * (sites.count - 1) as f64 / sites.count as f64) as u64,
        exchange_s: exchange.0,
        update_s: update.0,
        waiting_s: waiting.0,
        link_busy: exchange.0 * sites.fragments as f64 / seconds.0,
        assumption: CAVEAT,
    }))
}

/// An all-reduce over the sites' links, as a ring or two trees: every parameter once, for its ranks' shards share the link.
fn exchange(sites: &Sites, wan: &Wan, cluster: &Cluster, bytes: Bytes) -> Result<Seconds, PlanError> {
    // A site's devices bring no more to its link than their own links do.
    let own = |pool: &meshwright_hardware::profile::Machine| {
        let out = pool.system.scale_out.as_ref();
        out.map_or(f64::INFINITY, |out| out.bandwidth.value.0 * out.efficiency.value * pool.devices() as f64)
    };
    let bandwidth = cluster.pools.iter().map(own).sum::<f64>().min(wan.bandwidth.0);
    let path = Path { latency: wan.latency, bandwidth: ByteRate(bandwidth) };
    let span = GroupLinks {
        ranks: sites.count,
        nodes: sites.count,
        per_node: 1,
        rails: 1,
        up: path,
        rings: Vec::new(),
        out: Some(path),
    };
    Ok(collective::time(Collective::AllReduce, bytes, &span))
}

/// Bytes of fp32 that a rank moves for an element: before the exchange reads weights and those of the last meeting, and
/// writes the difference; after it reads difference, momentum and old weights, and writes momentum and both weights.
const MOVED: f64 = (3 + 6) as f64 * 4.0;

/// What a rank of the slowest stage computes for all its parameters, and the weights that it gathers from its site after.
fn update(plan: &Plan, cluster: &Cluster) -> Result<Seconds, PlanError> {
    let pieces = Pieces::of(plan, &mut Blocks::default());
    let mut prices = Prices::new(cluster, plan.mesh, plan.job.precision)?;
    let mut most = Seconds(0.0);
    for (stage, actions) in plan.orders().iter().enumerate() {
        let layout = StageLayout::of(plan, &pieces, stage, actions);
        let mut own = Seconds(0.0);
        for bank in layout.banks.iter().filter(|bank| bank.state.is_some()) {
            own += stream(&cluster.pools[0].device, (bank.elems / bank.shards) as f64 * MOVED);
            if bank.shards > 1 && bank.zero < 3 {
                let weights = Bytes(bank.elems as u64 * prices.elem().bytes());
                own += prices.collective(Collective::AllGather, bank.axis, weights)?;
            }
        }
        most = most.max(own);
    }
    Ok(most)
}

/// A period in its steady state.
struct Period {
    seconds: Seconds,
    waiting: Seconds,
}

/// Steps played at most.
const MOST_STEPS: usize = 5_000_000;

/// Plays steps, exchanges in a queue on the link, and updates, period by period, until the queue grows no more; the last
/// period counts. Sites are equal, so one stands for all.
fn period(sites: &Sites, inner: Seconds, exchange: Seconds, update: Seconds) -> Period {
    let mut site = Site::default();
    let (mut step, mut behind) = (0, 0.0);
    loop {
        let begun = (site.now, site.waited);
        for at in 1..=sites.every {
            step += 1;
            site.now += inner.0;
            // Fragment f is due after (f + 1)/fragments of the period.
            let due = |at: usize| at * sites.fragments / sites.every;
            for _ in due(at - 1)..due(at) {
                site.send(step + sites.overlap, exchange.0);
            }
            site.apply(step, update.0);
        }
        let (seconds, waiting) = (site.now - begun.0, site.waited - begun.1);
        let now_behind = (site.link - site.now).max(0.0);
        let settled = step > 2 * sites.every && now_behind - behind <= 1e-6 * seconds;
        if settled || step >= MOST_STEPS {
            return Period { seconds: Seconds(seconds), waiting: Seconds(waiting) };
        }
        behind = now_behind;
    }
}

/// A site's clocks.
#[derive(Default)]
struct Site {
    now: f64,
    /// When the link has sent all that it was given.
    link: f64,
    waited: f64,
    /// Step before whose end each exchange is needed, and its end.
    under_way: VecDeque<(usize, f64)>,
}

impl Site {
    fn send(&mut self, needed: usize, exchange: f64) {
        self.link = self.now.max(self.link) + exchange;
        self.under_way.push_back((needed, self.link));
    }

    /// Waits for what this step needs, and applies it.
    fn apply(&mut self, step: usize, update: f64) {
        while let Some(&(_, arrives)) = self.under_way.front().filter(|(needed, _)| *needed <= step) {
            self.under_way.pop_front();
            self.waited += (arrives - self.now).max(0.0);
            self.now = self.now.max(arrives) + update;
        }
    }
}

#[cfg(test)]
mod tests;
