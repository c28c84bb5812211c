//! Floors of combinations before their stages are decided, from parts that many combinations have in common.
//!
//! In: a shape, a mesh, a ZeRO stage. Out: a [`QuickGroup`] and its floors: of its work, and of its memory.
//!
//! A step is its passes and what ranks share beside them. Passes depend on the shape and on where the groups of TP, CP and EP lie;
//! what is shared on the mesh, its order and the ZeRO stage, whatever a microbatch is; what is held not even on the order. Each
//! is made once.
//!
//! Invariant: no plan of a combination undercuts its floors.

use std::sync::Arc;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::units::Bytes;

use super::bound::Whole;
use super::cost::ShapeWork;
use super::even_bound::{self, EvenLayers};
use super::known_parts::{PartCosts, StateKey, StateSizes};
use super::memory_bound::{self, LayerCapacity, StepRest, TradeHulls};
use super::space::{Combination, KernelShape};
use super::stages;
use super::state::Search;
use super::times::{Costs, PieceCost};
use crate::error::PlanError;
use crate::lower::PieceSizes;
use crate::schedule::Pipeline;

/// What combinations of a shape, mesh and ZeRO stage have in common, on one pool.
pub(super) struct QuickGroup {
    pub(super) whole: Whole,
    passes: Arc<PartCosts>,
    rest: Arc<PartCosts>,
    held: Arc<StateSizes>,
    hulls: Option<TradeHulls>,
}

impl QuickGroup {
    /// All costs, activations' moves left out.
    pub(super) fn costs(&self) -> Costs {
        let (passes, rest) = (&self.passes.costs, &self.rest.costs);
        let piece = |pass: &PieceCost, share: &PieceCost| PieceCost { pass: pass.pass, ..*share };
        let layers = passes.layers.iter().map(|(kind, pass)| (*kind, piece(pass, rest.layer(*kind))));
        Costs {
            embed: piece(&passes.embed, &rest.embed),
            layers: layers.collect(),
            head: piece(&passes.head, &rest.head),
            hop: self.whole.hop,
            ..rest.clone()
        }
    }
}

impl Search<'_> {
    /// A shape as what is held depends on it.
    fn state_key(shape: &KernelShape, of: &Combination) -> StateKey {
        (KernelShape { microbatch: 1, ring: false, ..*shape }, [of.dp, of.pp], of.zero)
    }

    /// Parameters of a shape, without passes.
    fn idle_work(&mut self, shape: &KernelShape, of: &Combination) -> Arc<ShapeWork> {
        let space = &self.space;
        self.idle.entry(*shape).or_insert_with(|| Arc::new(ShapeWork::idle(&space.plan(shape, of)))).clone()
    }

    fn state_sizes(&mut self, key: &StateKey, of: &Combination) -> Arc<StateSizes> {
        if let Some(known) = self.held.get(key) {
            return known.clone();
        }
        let (idle, plan) = (self.idle_work(&key.0, of), self.space.plan(&key.0, of));
        let sizes = PieceSizes::of(&plan, &idle.frames);
        let hopeless = stages::hopeless(&plan, &sizes, self.capacity[0] * of.pp as u64);
        let held = Arc::new(StateSizes { sizes, hopeless });
        self.held.insert(*key, held.clone());
        held
    }

    /// What ranks share in a step of a shape's mesh and ZeRO stage, `nearest` if its axes are as near as can be; none if it cannot
    /// fit.
    pub(super) fn rest(
        &mut self,
        shape: &KernelShape,
        of: &Combination,
        nearest: bool,
    ) -> Result<Option<Arc<PartCosts>>, PlanError> {
        let key = (Self::state_key(shape, of), (!nearest).then_some(of.order));
        if let Some(known) = self.rests.get(&key) {
            return Ok(known.clone());
        }
        let held = self.state_sizes(&key.0, of);
        let mut rest = None;
        if !held.hopeless {
            let (idle, plan) = (self.idle_work(&key.0.0, of), self.space.plan(&key.0.0, of));
            let links = &mut self.links[0];
            links.nearest = nearest;
            let costs = Costs::of(&plan, &idle, &held.sizes, links);
            links.nearest = false;
            let costs = costs?;
            rest = Some(Arc::new(PartCosts { whole: Whole::of(&plan, &costs), costs }));
        }
        self.rests.insert(key, rest.clone());
        Ok(rest)
    }

    /// A priced shape's passes on a mesh, and what keeping less takes there, once that is known of the shape.
    fn passes_on(
        &mut self,
        index: usize,
        mesh: &Mesh,
        nearest: bool,
    ) -> Result<(Arc<PartCosts>, Option<TradeHulls>), PlanError> {
        let (links, kernels) = (&mut self.links[0], self.kernels[index]);
        links.nearest = nearest;
        let key = (kernels, [Axis::Tp, Axis::Cp, Axis::Ep].map(|axis| links.group(mesh, axis)));
        let known = self.passes_by_group.get(&key).cloned();
        let costs = known.is_none().then(|| self.quick[kernels][0].on(mesh, links));
        let trade = self.trades[kernels].first();
        let known_hulls = self.hulls_by_group.get(&key).cloned();
        let hulls = trade.filter(|_| known_hulls.is_none()).map(|trade| trade.hulls(mesh, links));
        links.nearest = false;
        let hulls = match hulls.transpose()? {
            Some(hulls) => Some(self.hulls_by_group.entry(key).or_insert(hulls).clone()),
            None => known_hulls,
        };
        let Some(costs) = costs else { return Ok((known.expect("one of both"), hulls)) };
        let costs = costs?;
        let part = Arc::new(PartCosts { whole: Whole::of_passes(&self.space.job.model, &costs), costs });
        self.passes_by_group.insert(key, part.clone());
        Ok((part, hulls))
    }

    /// What combinations of a priced shape's mesh and ZeRO stage have in common; none if nothing of them can fit.
    pub(super) fn quick_group(
        &mut self,
        index: usize,
        of: &Combination,
        nearest: bool,
    ) -> Result<Option<QuickGroup>, PlanError> {
        let shape = self.shapes[index];
        let Some(rest) = self.rest(&shape, of, nearest)? else { return Ok(None) };
        let held = self.state_sizes(&Self::state_key(&shape, of), of);
        let mesh = self.space.mesh(&shape, of);
        let (passes, hulls) = self.passes_on(index, &mesh, nearest)?;
        let mut whole = passes.whole.with(&rest.whole);
        if of.pp > 1 {
            let stride = if nearest { 1 } else { mesh.stride(Axis::Pp) };
            whole.hop = self.links[0].prices.message_over(Bytes(self.streams[self.kernels[index]]), stride)?.0;
        }
        Ok(Some(QuickGroup { whole, passes, rest, held, hulls }))
    }

    /// A floor of a combination by its work.
    pub(super) fn work_floor(&mut self, index: usize, of: &Combination, group: &QuickGroup) -> f64 {
        let shape = self.shapes[index];
        group.whole.floor(&self.pipeline(&shape, of), self.ratio(&shape, of))
    }

    /// The same by its memory too, no lower than `least`.
    pub(super) fn memory_floor(&mut self, index: usize, of: &Combination, group: &QuickGroup, least: f64) -> f64 {
        let pipeline = self.pipeline(&self.shapes[index], of);
        let (trade, costs, before) = (&self.trades[self.kernels[index]][0], group.costs(), self.cut());
        let kind = trade.kind;
        let size = &group.held.sizes.layers[&kind][0];
        let hulls = group.hulls.clone().expect("its shape was opened");
        let holds = LayerCapacity::of((trade, hulls), costs.layer(kind), size, (self.capacity[0], costs.shown));
        let mut least = least;
        if pipeline.chunks == 1 {
            let beside = StepRest::of(&self.space.job.model, &costs, &group.whole, (pipeline.stages, kind));
            least = memory_bound::floor(&pipeline, |_| &holds, &beside, (least, before));
            if !self.even_alone() || least >= before {
                return least;
            }
        }
        let (flights, layers) = (self.flights(pipeline), self.even_layers(&pipeline, &costs));
        let own = layers.iter().position(|(other, _)| *other == kind).expect("it is one of the model's");
        let again = |stage: usize| memory_bound::again(&pipeline, stage, &holds, &flights[stage], &layers[own].1);
        least.max(even_bound::floor(&pipeline, |_| &costs, &layers, again))
    }

    /// Layers of each kind on each virtual stage of a pipeline of several chunks.
    pub(super) fn even_layers(&mut self, pipeline: &Pipeline, costs: &Costs) -> Vec<EvenLayers> {
        let depth = pipeline.stages * pipeline.chunks;
        costs.layers.iter().map(|&(kind, _)| (kind, self.layers_of_kind(depth, kind))).collect()
    }

    /// Layers of a kind on each of so many virtual stages, as even as can be.
    fn layers_of_kind(&mut self, virtual_stages: usize, kind: crate::job::LayerKind) -> Arc<Vec<usize>> {
        let space = &self.space;
        let known = self.even_layers.entry((virtual_stages, kind));
        known.or_insert_with(|| Arc::new(space.layers_of_kind(virtual_stages, kind))).clone()
    }
}
