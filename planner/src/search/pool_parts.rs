//! Parts of several pools: fewer whole nodes of each, on which meshes sit that leave the others idle.
//!
//! In: a cluster of several pools; from a search, how long a step may take. Out: parts by number, their prices; combinations of a shape
//! on them.
//!
//! Part 0 is all of the cluster. A part has a node of each pool at least: fewer pools are a cluster of their own. Ranks fill a part's
//! nodes in order, so that each pool is followed by the next wherever nodes of it are idle.
//!
//! Invariant: of combinations that can end before the time on all devices of a part, none is left out.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::profile::{Cluster, Machine};

use super::SearchOptions;
use super::bound::Whole;
use super::cached_prices::CachedPrices;
use super::known_pools::{KnownParts, PoolParts, PricedPart};
use super::pool_assignment::{self, PoolAssignment, PoolUnit};
use super::pool_bound::{most_before, stages_may_end};
use super::space::{Combination, allows, divisors};
use super::state::Search;
use crate::error::PlanError;
use crate::schedule::Pipeline;

/// A cluster with so many nodes of each pool.
pub(super) fn with_nodes(cluster: &Cluster, nodes: &[usize]) -> Cluster {
    let pools = cluster.pools.iter().zip(nodes);
    let pools = pools.map(|(pool, &nodes)| Machine { nodes, ..pool.clone() }).collect();
    Cluster { pools, ..cluster.clone() }
}

impl<'a> Search<'a> {
    /// The part that has so many nodes of each pool; none if too many are known.
    fn part_of(&mut self, nodes: &[usize]) -> Result<Option<usize>, PlanError> {
        if let Some(&known) = self.parts.by_nodes.get(nodes) {
            return Ok(Some(known));
        }
        let at = self.parts.priced.len();
        let Some(place) = self.parts.places.and_then(|places| places.made.get(at)) else { return Ok(None) };
        let cluster = place.get_or_init(|| with_nodes(self.cluster, nodes));
        let prices = pool_assignment::prices(cluster, self.space.job.precision)?;
        self.parts.priced.push(PricedPart { cluster, links: prices.into_iter().map(CachedPrices::new).collect() });
        self.parts.by_nodes.insert(nodes.to_vec(), at + 1);
        Ok(Some(at + 1))
    }

    /// The same with parts of several pools to look at.
    pub(super) fn with_parts(self, places: &'a PoolParts) -> Self {
        let places = Some(places).filter(|places| !places.made.is_empty());
        Search { parts: KnownParts { places, ..KnownParts::default() }, ..self }
    }

    /// Nodes of each pool of a part; none of all.
    pub(super) fn nodes_of(&self, part: usize) -> Option<Vec<usize>> {
        (part > 0).then(|| self.cluster_of(part).pools.iter().map(|pool| pool.nodes).collect())
    }

    /// The cluster that a combination is on.
    pub(super) fn cluster_of(&self, part: usize) -> &'a Cluster {
        part.checked_sub(1).map_or(self.cluster, |at| self.parts.priced[at].cluster)
    }

    /// How many stages or replicas of a combination sit in each pool; none if one would straddle two.
    pub(super) fn assigned(&self, index: usize, of: &Combination) -> Option<(PoolUnit, Vec<usize>)> {
        let mesh = self.space.mesh(&self.shapes[index], of);
        let assignment = PoolAssignment::of(self.cluster_of(of.part), &mesh)?;
        Some((assignment.unit(), assignment.counts(self.links.len())))
    }

    /// Whether a combination with so many stages or replicas in each pool may end before the cut.
    pub(super) fn may_end_on_pools(
        &mut self,
        index: usize,
        of: &Combination,
        (unit, counts): (PoolUnit, &[usize]),
        wholes: &[Whole],
    ) -> bool {
        let before = self.cut();
        if before.is_infinite() {
            return true;
        }
        let shape = self.shapes[index];
        let pipeline = self.pipeline(&shape, of);
        if unit == PoolUnit::Stages {
            let ratio = self.ratio(&shape, of);
            return stages_may_end(&pipeline, counts, wholes, ratio, before);
        }
        let batch = self.space.job.global_batch / shape.microbatch;
        let mut done = 0;
        for (count, whole) in counts.iter().zip(wholes).filter(|(count, _)| **count > 0) {
            done += count * most_before(&pipeline, (whole, batch), before, &mut self.ratios);
        }
        done >= batch
    }

    /// Searches the part that has a round number of nodes of each pool, if not all have: what is known of it rules out most others.
    pub(super) fn search_round_part(&mut self) -> Result<(), PlanError> {
        let round = |nodes: usize| nodes - nodes % (1 << (nodes.ilog2().saturating_sub(2)));
        let nodes: Vec<usize> = self.cluster.pools.iter().map(|pool| round(pool.nodes)).collect();
        if self.cluster.pools.iter().zip(&nodes).all(|(pool, &round)| pool.nodes == round) {
            return Ok(());
        }
        let Some(part) = self.part_of(&nodes)? else { return Ok(()) };
        let of = |guesses: bool, search: &Search<'a>| -> Result<Search<'a>, PlanError> {
            let options = SearchOptions { idle: false, guesses, below: search.near(), ..search.options };
            let space = &search.space;
            let mut own = Search::of(space.job, search.cluster_of(part), space.fix, (search.top, options))?;
            own.run()?;
            Ok(own)
        };
        let mut own = of(self.options.guesses, self)?;
        if own.guessed_wrong() {
            own = of(false, self)?;
        }
        self.parts.first = Some(part);
        self.considered += own.considered;
        self.simulated += own.simulated;
        self.proved = self.proved.min(own.proved);
        own.rejected.into_iter().for_each(|(reason, count)| self.reject(reason, count));
        for (plan, figures, _) in own.best {
            self.keep(plan, figures, part);
        }
        Ok(())
    }

    /// Combinations of a shape on all devices of a part that may end before the cut; `floor` is under all of them.
    pub(super) fn combinations_on_parts(&mut self, index: usize, floor: f64) -> Result<Vec<Combination>, PlanError> {
        let (devices, depth) = (self.cluster.devices(), self.space.job.model.depth());
        let orders = self.space.fix.order.map_or(vec![Order::TpDataPp, Order::TpPpData], |order| vec![order]);
        let mut all = Vec::new();
        for pp in 1..=devices.min(depth) {
            // A single stage is no order's own.
            for &order in &orders[if pp == 1 { orders.len() - 1 } else { 0 }..] {
                for mesh in self.meshes_on_parts(index, pp, order) {
                    self.add_on_part(index, (&mesh, order, floor), &mut all)?;
                }
            }
        }
        Ok(all)
    }

    /// Meshes of so many stages that leave whole nodes idle and whose passes may be done before the cut.
    fn meshes_on_parts(&self, index: usize, pp: usize, order: Order) -> Vec<SeatedMesh> {
        let (shape, fix) = (&self.shapes[index], self.space.fix);
        let batch = self.space.job.global_batch / shape.microbatch;
        // Microbatches that a device of each pool that had the whole model has time for.
        let each = |whole: &Whole| (self.cut() - whole.starts) / whole.microbatch(1).0;
        let through: Vec<f64> = self.passes[index].iter().map(each).collect();
        let fits = |dp: usize| dp <= batch && allows(&fix.dp, &dp) && self.space.holds_experts(shape, dp);
        let idle = |counts: &[usize], devices: usize| {
            self.cluster.pools.iter().zip(counts).any(|(pool, count)| count * devices < pool.devices())
        };
        let mesh = |dp: usize| Mesh { dp, pp, tp: shape.tp, cp: shape.cp, order, ..Mesh::ONE };
        let mut all = Vec::new();
        if PoolUnit::of(&mesh(self.links.len())) == Some(PoolUnit::Replicas) {
            let devices = shape.tp * shape.cp * pp;
            let through: Vec<f64> = through.iter().map(|each| (each * pp as f64 + 1e-9).floor()).collect();
            self.fillings(devices, None, &mut Vec::new(), &mut |counts| {
                let (dp, done) = (counts.iter().sum(), product(counts, &through));
                if done >= batch as f64 && fits(dp) && idle(counts, devices) {
                    all.push(SeatedMesh { unit: PoolUnit::Replicas, dp, pp, counts: counts.to_vec() });
                }
            });
            return all;
        }
        for dp in divisors(batch).filter(|&dp| PoolUnit::of(&mesh(dp)) == Some(PoolUnit::Stages) && fits(dp)) {
            let devices = shape.tp * shape.cp * dp;
            self.fillings(devices, Some(pp), &mut Vec::new(), &mut |counts| {
                if product(counts, &through) * dp as f64 >= batch as f64 * (1.0 - 1e-9) && idle(counts, devices) {
                    all.push(SeatedMesh { unit: PoolUnit::Stages, dp, pp, counts: counts.to_vec() });
                }
            });
        }
        all
    }

    /// Every way to fill whole nodes of each pool with stages or replicas of so many devices, so many in all if that is given.
    fn fillings(&self, devices: usize, left: Option<usize>, counts: &mut Vec<usize>, found: &mut dyn FnMut(&[usize])) {
        let Some(pool) = self.cluster.pools.get(counts.len()) else { return found(counts) };
        let most = (pool.devices() / devices).min(left.unwrap_or(usize::MAX));
        let last = counts.len() + 1 == self.cluster.pools.len();
        let least = left.filter(|_| last).map_or(1, |left| left.max(1));
        for count in (least..=most).filter(|count| (count * devices).is_multiple_of(pool.system.count)) {
            counts.push(count);
            self.fillings(devices, left.map(|left| left - count), counts, found);
            counts.pop();
        }
    }

    /// Adds the combinations of a mesh on the part that it fills.
    fn add_on_part(
        &mut self,
        index: usize,
        (mesh, order, floor): (&SeatedMesh, Order, f64),
        all: &mut Vec<Combination>,
    ) -> Result<(), PlanError> {
        let (shape, passes) = (self.shapes[index], self.passes[index].clone());
        let &SeatedMesh { unit, dp, pp, ref counts } = mesh;
        let each = shape.tp * shape.cp * if unit == PoolUnit::Stages { dp } else { pp };
        let pools = self.cluster.pools.iter().zip(counts);
        let nodes: Vec<usize> = pools.map(|(pool, count)| count * each / pool.system.count).collect();
        let meshes = self.space.of_meshes(&shape, std::iter::once((dp, pp)));
        let combinations: Vec<Combination> = meshes.filter(|of| of.order == order).collect();
        // Neighbours differ in their ZeRO stage alone.
        let mut known: Option<(Pipeline, bool)> = None;
        for of in combinations {
            let pipeline = self.pipeline(&shape, &of);
            let may_end = match known {
                Some((other, may_end)) if other == pipeline => may_end,
                _ => self.may_end_on_pools(index, &of, (unit, counts), &passes),
            };
            known = Some((pipeline, may_end));
            match may_end.then(|| self.part_of(&nodes)).transpose()? {
                Some(Some(part)) if self.parts.first == Some(part) => {}
                Some(Some(part)) => all.push(Combination { part, ..of }),
                Some(None) => self.proved = self.proved.min(floor),
                None => {}
            }
        }
        Ok(())
    }
}

/// A mesh with how many stages or replicas of it each pool has.
struct SeatedMesh {
    unit: PoolUnit,
    dp: usize,
    pp: usize,
    counts: Vec<usize>,
}

fn product(counts: &[usize], each: &[f64]) -> f64 {
    counts.iter().zip(each).map(|(&count, each)| count as f64 * each).sum()
}
