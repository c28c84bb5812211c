//! What a trainer's ranks hold, in and out: whole tensors by name, and everything a checkpoint keeps.
//!
//! In: ranks' flat buffers. Out: named tensors, or the reverse.
//!
//! Invariant: what is put in by name comes out by name whatever the mesh; a restored snapshot gives the same bits.

use std::collections::BTreeMap;
use std::ops::Range;

use meshwright_hardware::mesh::{Axis, Rank};
use meshwright_hardware::params::{ParamSpec, Part};
use meshwright_hardware::program::{Collective, Kind, Lifetime, Program};

use super::Trainer;
use crate::checkpoint::RankTensors;
use crate::device::{Access, Device, Region};
use crate::error::ExecutorError;

/// The name of the loss scale's state in checkpoints.
const SCALING: &str = "loss scaling";

/// Elements that cross at once: a device that widens them, or stages them, keeps room for as many.
const PIECE: usize = 1 << 18;

/// A region piece by piece.
fn pieces(region: Region) -> impl Iterator<Item = Region> {
    let piece = move |at: usize| Region { start: region.start + at, elems: PIECE.min(region.elems - at), ..region };
    (0..region.elems).step_by(PIECE).map(piece)
}

/// Copies a region to the host.
pub(super) fn read(device: &mut dyn Device, region: Region) -> Result<Vec<f32>, ExecutorError> {
    let mut values = Vec::with_capacity(region.elems);
    let mut copy = |host: &mut [f32]| {
        values.extend_from_slice(host);
        Ok(())
    };
    pieces(region).try_for_each(|piece| device.with_host(piece, Access::Read, &mut copy))?;
    Ok(values)
}

/// Copies `values` to a region of as many elements.
pub(super) fn write(device: &mut dyn Device, region: Region, values: &[f32]) -> Result<(), ExecutorError> {
    let mut left = values;
    let mut copy = |host: &mut [f32]| {
        let (now, later) = left.split_at(host.len());
        host.copy_from_slice(now);
        left = later;
        Ok(())
    };
    pieces(region).try_for_each(|piece| device.with_host(piece, Access::Write, &mut copy))
}

impl Trainer {
    /// The weights of every parameter, whole, by name.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a device cannot be read.
    pub fn gather_params(&mut self) -> Result<BTreeMap<String, Vec<f32>>, ExecutorError> {
        self.gather(|_| true, |trainer, rank, spec| trainer.local(rank, spec, spec.weights, spec.weights_over))
    }

    /// The gradients of trained parameters that the last step ended with, summed over the batch, whole, by name. Where the program leaves each
    /// rank only its shard of the sum, the shards are put together.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a device cannot be read.
    pub fn gather_grads(&mut self) -> Result<BTreeMap<String, Vec<f32>>, ExecutorError> {
        let trained = |spec: &ParamSpec| spec.grads.is_some();
        self.gather(trained, |trainer, rank, spec| {
            let Some(buffer) = spec.grads else { return Ok(Vec::new()) };
            let mut grads = trainer.local(rank, spec, buffer, spec.grads_over)?;
            let mesh = trainer.program.mesh;
            let first = spec.range(Part::of(&mesh, mesh.coord_of(rank))).start;
            for (peer, shard) in scattered(&trainer.program, rank, buffer) {
                let from = shard.start.max(first);
                let to = (shard.start + shard.elems).min(first + grads.len());
                if from < to {
                    let part = Region { buffer: shard.buffer, start: from, elems: to - from };
                    let values = read(trainer.devices[peer].as_mut(), part)?;
                    grads[from - first..to - first].copy_from_slice(&values);
                }
            }
            Ok(grads)
        })
    }

    /// Sets the weights of every parameter from whole tensors by name.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] naming a parameter that is missing or of another size.
    pub fn set_params(&mut self, values: &BTreeMap<String, Vec<f32>>) -> Result<(), ExecutorError> {
        for spec in self.params.roles.iter().flatten() {
            let found = values.get(&spec.name).map_or(0, Vec::len);
            if found != spec.elems() {
                let why = format!("{found} values for a tensor of [{}, {}]", spec.rows, spec.cols);
                return Err(ExecutorError::bad_input("parameter", &*spec.name, why, "give the whole tensor"));
            }
        }
        self.fill(|spec, part| spec.scatter(part, &values[&spec.name]))
    }

    /// Sets every rank's part of every parameter to what `values` gives for it.
    pub(super) fn fill(&mut self, values: impl Fn(&ParamSpec, Part) -> Vec<f32>) -> Result<(), ExecutorError> {
        let mesh = self.program.mesh;
        for rank in 0..mesh.ranks() {
            let at = mesh.coord_of(rank);
            for spec in &self.params.roles[self.program.role_of(at)] {
                let part = Part::of(&mesh, at);
                let (all, range) = (values(spec, part), spec.range(part));
                let master = spec.master.map(|buffer| (buffer, spec.master_over));
                for (buffer, over) in [(spec.weights, spec.weights_over)].into_iter().chain(master) {
                    let held = self.holds(rank, buffer, over);
                    let (from, to) = (range.start.max(held.start), range.end.min(held.end));
                    if from < to {
                        let region = Region { buffer: buffer as usize, start: from - held.start, elems: to - from };
                        write(self.devices[rank].as_mut(), region, &all[from - range.start..to - range.start])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The elements of a flat vector that a rank's buffer holds: all, or its shard over an axis.
    fn holds(&self, rank: Rank, buffer: u32, over: Option<Axis>) -> Range<usize> {
        let at = self.program.mesh.coord_of(rank);
        let elems = self.program.roles[self.program.role_of(at)].buffers[buffer as usize].elems;
        let first = over.map_or(0, |axis| at.on(axis) * elems);
        first..first + elems
    }

    /// A rank's part of a parameter's weights or gradients, put together from those that hold shards of it.
    fn local(
        &mut self,
        rank: Rank,
        spec: &ParamSpec,
        buffer: u32,
        over: Option<Axis>,
    ) -> Result<Vec<f32>, ExecutorError> {
        let mesh = self.program.mesh;
        let range = spec.range(Part::of(&mesh, mesh.coord_of(rank)));
        let mut all = vec![0.0; range.len()];
        let peers = over.map_or(vec![rank], |axis| mesh.group(rank, axis));
        for peer in peers {
            let held = self.holds(peer, buffer, over);
            let (from, to) = (range.start.max(held.start), range.end.min(held.end));
            if from < to {
                let region = Region { buffer: buffer as usize, start: from - held.start, elems: to - from };
                let values = read(self.devices[peer].as_mut(), region)?;
                all[from - range.start..to - range.start].copy_from_slice(&values);
            }
        }
        Ok(all)
    }

    /// Every wanted parameter whole, from the first stage that holds it and the first ranks that hold all of it.
    fn gather(
        &mut self,
        wanted: impl Fn(&ParamSpec) -> bool,
        local: impl Fn(&mut Trainer, Rank, &ParamSpec) -> Result<Vec<f32>, ExecutorError>,
    ) -> Result<BTreeMap<String, Vec<f32>>, ExecutorError> {
        let mesh = self.program.mesh;
        let mut whole = BTreeMap::new();
        // All classes of replicas hold the same parameters.
        for (pp, specs) in self.params.roles.clone().iter().take(mesh.pp).enumerate() {
            for spec in specs {
                if !wanted(spec) || whole.contains_key(&spec.name) {
                    continue;
                }
                let experts = spec.experts.is_some();
                let ep = if experts { mesh.ep } else { 1 };
                let rank = |part: Part| match experts {
                    true => mesh.expert_rank(pp, part.e, part.t),
                    false => mesh.rank(pp, 0, 0, part.t),
                };
                let locals = Part::each(mesh.tp, ep).map(|part| Ok((part, local(self, rank(part), spec)?)));
                let locals = locals.collect::<Result<Vec<_>, ExecutorError>>()?;
                whole.insert(spec.name.clone(), spec.gather(&locals));
            }
        }
        Ok(whole)
    }

    /// What a run needs to go on: all persistent buffers of every rank but gradients, which each step makes anew; and where
    /// the loss scale stands.
    pub(super) fn snapshot(&mut self) -> Result<Vec<RankTensors>, ExecutorError> {
        let (kept, scaling) = (self.kept(), self.scaler.saved());
        let of_rank = |(rank, device): (Rank, &mut Box<dyn Device>)| {
            let tensor = |(name, region): &(String, Region)| Ok((name.clone(), read(device.as_mut(), *region)?));
            let mut tensors = kept[rank].iter().map(tensor).collect::<Result<Vec<_>, ExecutorError>>()?;
            tensors.push((SCALING.to_owned(), scaling.clone()));
            Ok(RankTensors { rank, tensors })
        };
        self.devices.iter_mut().enumerate().map(of_rank).collect()
    }

    /// Puts a snapshot back.
    pub(super) fn restore(&mut self, ranks: &[RankTensors]) -> Result<(), ExecutorError> {
        let kept = self.kept();
        let scaling = ranks.iter().flat_map(|rank| &rank.tensors).find(|(name, _)| name == SCALING);
        if !scaling.is_some_and(|(_, saved)| self.scaler.restore(saved)) {
            return Err(unlike("it does not say where the loss scale stands", SCALING));
        }
        for (rank, device) in self.devices.iter_mut().enumerate() {
            let saved = ranks.iter().find(|saved| saved.rank == rank);
            for (name, region) in &kept[rank] {
                let values = saved.and_then(|saved| saved.tensors.iter().find(|(saved, _)| saved == name));
                match values {
                    Some((_, values)) if values.len() == region.elems => write(device.as_mut(), *region, values)?,
                    _ => return Err(unlike("its tensors are not this plan's", &format!("rank {rank}, {name}"))),
                }
            }
        }
        Ok(())
    }

    /// The buffers of each rank that a checkpoint keeps.
    pub(super) fn kept(&self) -> Vec<Vec<(String, Region)>> {
        let mesh = self.program.mesh;
        let of_rank = |rank: Rank| {
            let role = self.program.role_of(mesh.coord_of(rank));
            let buffers = self.program.roles[role].buffers.iter().enumerate();
            buffers
                .filter(|(_, b)| b.lifetime == Lifetime::Persistent && !b.name.starts_with("grads"))
                .map(|(buffer, b)| (b.name.clone(), Region { buffer, start: 0, elems: b.elems }))
                .collect()
        };
        (0..mesh.ranks()).map(of_rank).collect()
    }
}

/// A checkpoint that another run wrote.
pub(super) fn unlike(why: &str, place: &str) -> ExecutorError {
    ExecutorError::bad_input(
        "checkpoint",
        place,
        why,
        "train into another folder, or with the plan, text and seed it is from",
    )
}

/// Which ranks end a step with which part of the summed gradients in `buffer`, which has this number in all classes of
/// replicas.
fn scattered(program: &Program, rank: Rank, buffer: u32) -> Vec<(Rank, Region)> {
    let mesh = program.mesh;
    let at = mesh.coord_of(rank);
    let mut parts = Vec::new();
    for instr in &program.roles[program.role_of(at)].instrs {
        let Kind::Collective { op: Collective::ReduceScatter, axis, view } = &instr.kind else { continue };
        if view.buffer == buffer {
            let (start, elems) = (view.start(at), view.elems / mesh.size(*axis));
            let part = |i: usize| Region { buffer: buffer as usize, start: start + i * elems, elems };
            parts.extend(mesh.group(rank, *axis).into_iter().enumerate().map(|(i, peer)| (peer, part(i))));
        }
    }
    parts
}
