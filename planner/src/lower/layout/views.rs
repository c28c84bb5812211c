//! Where a value of a piece stands: in a slot, a bank, a stream or working memory.
//!
//! In: a stage's [`StageLayout`], a piece, a value, a microbatch. Out: its view.
//!
//! Invariant: within a pass a value has one view.

use meshwright_hardware::program::View;
use rustc_hash::FxHashMap;

use super::{Hosted, StageLayout};
use crate::lower::at::At;
use crate::lower::bank::{Bank, Bucket};
use crate::lower::code::Piece;
use crate::lower::format::Class;
use crate::model::{Home, ParamDecl, Value};

impl StageLayout {
    /// A piece's banks that are in a bucket, each with its start there; and what they need in all.
    pub fn bucket(&self, index: usize, of: Bucket) -> (Vec<(usize, usize)>, usize) {
        let mut at = 0;
        let held = |bank: &Bank| of.holds(bank.zero, bank.store);
        let banks = self.banks_of[index].iter().copied().filter(|&bank| held(&self.banks[bank]));
        let starts = banks.map(|bank| {
            at += self.banks[bank].elems;
            (bank, at - self.banks[bank].elems)
        });
        (starts.collect(), at)
    }

    /// A bank's buffer of gradients, if it is trained.
    pub fn grads_of(&self, bank: usize) -> Option<u32> {
        self.banks[bank].state.as_ref().map(|state| state.grads)
    }

    /// Where a piece's parameter lies: its bank and first element.
    fn param(&self, index: usize, decl: &ParamDecl) -> (usize, usize) {
        let tied = decl.tied.then(|| [self.tied.expect("a tied table has a bank")]);
        let banks = tied.as_ref().map_or(&self.banks_of[index][..], |tied| &tied[..]);
        let start = |&bank: &usize| {
            let found = self.banks[bank].offsets.iter().find(|(_, other, _)| other.name == decl.name);
            found.map(|(_, _, start)| (bank, *start))
        };
        banks.iter().find_map(start).expect("its bank has it")
    }

    /// The view of a value of the stage's `index`-th piece, for a microbatch; `elems` of it.
    pub fn view(
        &self,
        index: usize,
        piece: &Piece,
        work: &FxHashMap<Value, usize>,
        value: Value,
        mb: usize,
        elems: usize,
    ) -> View {
        let whole = |buffer, offset| View { buffer, offset, elems, shard: None };
        let turn = |all: &[u32]| all[mb % all.len()];
        let class = piece.class(value) as usize;
        let slot = |t: usize| {
            let slot = match &self.hosted[index] {
                Some(Hosted { back, .. }) if self.backward => back[mb % back.len()],
                _ => self.slot(index, piece.brief.contains(&t), mb),
            };
            slot[class].expect("a slot has all that is kept")
        };
        // A pass that does not leave a value for later has it in working memory.
        let inside = |value: Value| match (work.get(&value), piece.held.get(&value)) {
            (Some(&start), _) => whole(self.work[class].expect("there is room for all that is made"), start),
            (None, Some(&start)) => whole(turn(&self.held[index]), start),
            (None, None) => unreachable!("{value:?} of {} has no place", piece.tape.name),
        };
        match value {
            Value::Weight(p) => {
                let (bank, start) = self.param(index, &piece.tape.params[p]);
                let (buffer, base) = self.weights_at[bank];
                whole(buffer, base + start)
            }
            Value::WeightGrad(p) => {
                let (bank, start) = self.param(index, &piece.tape.params[p]);
                let (buffer, base) = self.grads_at[bank];
                whole(buffer, base + start)
            }
            Value::Flow => whole(turn(&self.flow[self.chunk_of(index)]), 0),
            Value::SecondFlow => whole(turn(&self.flow[self.chunk_of(index)]), self.second),
            Value::Grad(_) | Value::Held(_) => inside(value),
            Value::Tensor(t) => match piece.tape.tensors[t].home {
                Home::Input | Home::Second | Home::Ids => whole(slot(t), piece.kept[&t]),
                Home::Output => self.entry(self.chunk_of(index), index + 1, mb, elems),
                Home::SecondOut => {
                    let stream = self.entry(self.chunk_of(index), index + 1, mb, elems);
                    View { offset: self.second, ..stream }
                }
                Home::Targets => whole(self.targets.expect("the head's stage has targets"), 0),
                Home::Loss => whole(self.loss.expect("the head's stage has a loss"), 0),
                Home::Inner { .. } | Home::Gathered => match piece.kept.get(&t) {
                    Some(&start) => whole(slot(t), start),
                    None => inside(value),
                },
            },
        }
    }

    pub(super) fn chunk_of(&self, index: usize) -> usize {
        self.chunks.iter().position(|pieces| pieces.contains(&index)).expect("every piece is of a chunk")
    }

    /// Where the activation lies that enters the stage's `index`-th piece, if that is of the chunk, or else the next chunk.
    pub fn entry(&self, chunk: usize, index: usize, mb: usize, elems: usize) -> View {
        let buffer = if self.chunks[chunk].contains(&index) {
            let class = if self.pieces[index] == At::Embed { Class::Ids } else { Class::Model };
            self.entry_slot(index, mb)[class as usize].expect("a slot has what enters the piece")
        } else {
            self.out[chunk][mb % self.out[chunk].len()]
        };
        View { buffer, offset: 0, elems, shard: None }
    }
}
