//! Buffers of what a stage keeps of microbatches under way.
//!
//! In: a stage's pieces and actions. Out: its slots, by piece and microbatch.
//!
//! Layers that keep as much share their slots, whichever chunk they are of: chunks do not have their most microbatches at once. Where
//! backward is split, so may what is kept until it and what it leaves: at the end of a step of ZB-V there is much of this, and little
//! of that.
//!
//! Invariant: what a microbatch keeps of a piece lies in one slot of each kind.

use std::collections::{BTreeMap, HashMap};

use meshwright_hardware::program::Lifetime;

use super::{Brief, Hosted, Slot, StageLayout};
use crate::lower::at::At;
use crate::lower::code::{Piece, Pieces};
use crate::lower::footprint::InFlight;
use crate::lower::format::{ByClass, Class, Formats};
use crate::lower::slots::SlotPool;
use crate::lower::turns::offload_slots;
use crate::plan::Plan;
use crate::schedule::{Action, Peaks, SlotSpan};

/// What tells pieces apart that do not share slots: one that is no layer, and what each keeps.
type SavedSizes = (Option<usize>, ByClass<usize>, ByClass<usize>, usize);

/// Elements of a place for what a piece keeps until the gradients of inputs, or for what these leave.
fn either_elems(piece: &Piece) -> ByClass<usize> {
    let mut elems = piece.brief_elems;
    let of_model = &mut elems[Class::Model as usize];
    *of_model = (*of_model).max(piece.held_elems);
    elems
}

/// A piece's slots of a kind.
#[derive(Clone, Debug, Default)]
struct PieceTurns {
    /// How many it is the first to take.
    own: usize,
    /// By microbatch: the piece that was the first to take its slot, and which of that one's it is.
    of: Vec<(usize, usize)>,
    /// The same of what backward leaves, where it lies in slots of the same.
    left: Vec<(usize, usize)>,
}

/// A slot by microbatch, of those that every piece was the first to take.
fn among<T: Copy>(of: &[(usize, usize)], all: &[Vec<T>]) -> Vec<T> {
    of.iter().map(|&(owner, turn)| all[owner][turn]).collect()
}

impl StageLayout {
    /// Saved buffers of all pieces, as many as microbatches are under way at once.
    pub(super) fn add_slots(&mut self, plan: &Plan, pieces: &Pieces, actions: &[Action], width: Formats) {
        let pool = |chunk| self.add_pool(plan, pieces, chunk, width);
        let away: HashMap<usize, [Vec<Slot>; 2]> = (0..plan.chunks).flat_map(pool).collect();
        let stays = |index: usize| !away.contains_key(&index);
        let shared = self.shared(plan, pieces, actions, width, &stays);
        let turns = |span, here: &dyn Fn(usize) -> bool| self.turns_of(plan, pieces, (actions, span), here);
        let either = turns(SlotSpan::Either, &|index| shared[index]);
        let brief = turns(SlotSpan::Brief, &|index| !shared[index]);
        let late = turns(SlotSpan::PutOff, &|index| stays(index) && !shared[index]);
        let whole = turns(SlotSpan::Whole, &stays);
        let under_way = Peaks::of(actions, plan.chunks, SlotSpan::Whole, plan.schedule.splits());
        let names =
            |what: &str, turn: usize, at: At| Class::SUFFIX.map(|of| format!("{what}{of}.{turn}.{}", at.name()));
        let (mut briefs, mut slots, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (index, at) in self.pieces.clone().into_iter().enumerate() {
            let piece = at.piece(plan, pieces);
            let most = under_way.of_chunk(self.chunk_of(index));
            let mut declare = |what: &str, elems, lifetime, turns: usize| -> Vec<Slot> {
                (0..turns).map(|turn| self.declare_classes(names(what, turn, at), elems, lifetime, width)).collect()
            };
            briefs.push(match shared[index] {
                true => declare("split", either_elems(piece), Lifetime::Saved, either[index].own),
                false => declare("brief", piece.brief_elems, Lifetime::Saved, brief[index].own),
            });
            slots.push(declare("slot", piece.slot_elems, Lifetime::Saved, whole[index].own));
            let hosted = away.get(&index).map(|[_, back]| Hosted {
                between: declare("host", piece.slot_elems, Lifetime::Hosted, most),
                back: back.clone(),
            });
            self.hosted.push(hosted);
            let left = |turn| {
                self.declare(&format!("held.{turn}.{}", at.name()), piece.held_elems, Lifetime::Saved, width.model)
            };
            held.push((0..late[index].own).map(left).collect::<Vec<u32>>());
        }
        for (index, at) in self.pieces.clone().into_iter().enumerate() {
            let kept = if shared[index] { &either[index] } else { &brief[index] };
            self.brief.push(Brief::of(at.piece(plan, pieces), among(&kept.of, &briefs)));
            self.slots
                .push(away.get(&index).map_or_else(|| among(&whole[index].of, &slots), |[forward, _]| forward.clone()));
            self.held.push(match shared[index] {
                true => among(&kept.left, &briefs).into_iter().filter_map(|slot| slot[Class::Model as usize]).collect(),
                false => among(&late[index].of, &held),
            });
        }
    }

    /// By piece: whether what backward leaves of it lies in slots of what is kept until then.
    fn shared(
        &self,
        plan: &Plan,
        pieces: &Pieces,
        actions: &[Action],
        width: Formats,
        here: &dyn Fn(usize) -> bool,
    ) -> Vec<bool> {
        let mut shared = vec![false; self.pieces.len()];
        if !plan.schedule.splits() {
            return shared;
        }
        let flight = InFlight::of(&plan.pipeline(), self.stage, actions);
        for members in self.alike(plan, pieces, here).values() {
            let piece = self.pieces[members[0].0].piece(plan, pieces);
            let held = piece.held_elems as u64 * width.model.bytes();
            let count = |chunk| members.iter().filter(|(_, other)| *other == chunk).count();
            if flight.split(&width.bytes(piece.brief_elems), held, count).1 {
                members.iter().for_each(|&(index, _)| shared[index] = true);
            }
        }
        shared
    }

    /// Pieces that keep as much, each with its chunk.
    fn alike(
        &self,
        plan: &Plan,
        pieces: &Pieces,
        here: &dyn Fn(usize) -> bool,
    ) -> BTreeMap<SavedSizes, Vec<(usize, usize)>> {
        let mut alike: BTreeMap<SavedSizes, Vec<(usize, usize)>> = BTreeMap::new();
        for (chunk, index) in
            self.chunks.iter().enumerate().flat_map(|(chunk, all)| all.clone().map(move |i| (chunk, i)))
        {
            let at = self.pieces[index];
            let piece = at.piece(plan, pieces);
            // Of layers alone there are several.
            let only = at.layer().is_none().then_some(index);
            if here(index) {
                let key = (only, piece.slot_elems, piece.brief_elems, piece.held_elems);
                alike.entry(key).or_default().push((index, chunk));
            }
        }
        alike
    }

    /// By piece: its slots of a kind, of pieces that have some here.
    fn turns_of(
        &self,
        plan: &Plan,
        pieces: &Pieces,
        (actions, span): (&[Action], SlotSpan),
        here: &dyn Fn(usize) -> bool,
    ) -> Vec<PieceTurns> {
        let mut turns = vec![PieceTurns::default(); self.pieces.len()];
        for ((.., held), members) in &self.alike(plan, pieces, here) {
            if span == SlotSpan::PutOff && *held == 0 {
                continue;
            }
            let places = SlotPool::of(actions, members, span, plan.schedule.splits());
            let named = places.first.iter().map(|&owner| {
                turns[owner].own += 1;
                (owner, turns[owner].own - 1)
            });
            let named: Vec<(usize, usize)> = named.collect();
            let by_name = |of: &[usize]| of.iter().map(|&place| named[place]).collect();
            for (i, &(index, _)) in members.iter().enumerate() {
                (turns[index].of, turns[index].left) = (by_name(&places.of[i]), by_name(&places.left[i]));
            }
        }
        turns
    }

    /// By piece of a chunk whose activations go to the host: where they are made and where backward finds them. Neighbours
    /// take turns (see [`OFFLOAD_SLOTS`]).
    fn add_pool(
        &mut self,
        plan: &Plan,
        pieces: &Pieces,
        chunk: usize,
        width: Formats,
    ) -> HashMap<usize, [Vec<Slot>; 2]> {
        let place = plan.virtual_stage(self.stage, chunk);
        let layers = self.chunks[chunk].clone().filter(|&index| self.pieces[index].layer().is_some());
        let away: Vec<usize> = layers.take(plan.stages[place].offload).collect();
        let slots = away.iter().map(|&index| self.pieces[index].piece(plan, pieces).slot_elems);
        let most = slots.fold([0; 4], |most, slot| std::array::from_fn(|class| slot[class].max(most[class])));
        let mut declare = |(what, turns): (&str, usize)| -> Vec<Slot> {
            let name = |of: &str, turn: usize| format!("{of}.{chunk}.{what}.{turn}");
            let names = |turn| Class::SUFFIX.map(|of| name(&format!("pool{of}"), turn));
            (0..turns).map(|turn| self.declare_classes(names(turn), most, Lifetime::Saved, width)).collect()
        };
        let places = offload_slots(away.len(), plan.microbatches());
        let pools = [("forward", places[0]), ("backward", places[1])].map(&mut declare);
        let count = away.len();
        let of = |(i, index): (usize, usize)| {
            // Of classes that only other pieces keep something of, it has none.
            let kept = self.pieces[index].piece(plan, pieces).slot_elems;
            let own = |slot: Slot| std::array::from_fn(|class| slot[class].filter(|_| kept[class] > 0));
            let turns = |pool: &[Slot], i: usize| -> Vec<Slot> {
                (0..pool.len()).map(|mb| own(pool[(mb * count + i) % pool.len()])).collect()
            };
            (index, [turns(&pools[0], i), turns(&pools[1], count - 1 - i)])
        };
        away.into_iter().enumerate().map(of).collect()
    }
}
