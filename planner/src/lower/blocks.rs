//! The blocks of a program, numbered as they are made.
//!
//! In: lists of calls. Out: [`Blocks`].
//!
//! Invariant: identical op lists are one block, unless they are only to be priced.

use std::hash::BuildHasher;

use meshwright_hardware::op::Op;
use meshwright_hardware::program::{ArgView, Block, BlockParam, Call};
use rustc_hash::{FxBuildHasher, FxHashMap};

/// The program's blocks so far.
#[derive(Default)]
pub struct Blocks {
    list: Vec<Block>,
    /// Their numbers, by hash.
    known: FxHashMap<u64, Vec<u32>>,
    /// Those of one op, by that and their name.
    singles: FxHashMap<(Op, &'static str), u32>,
    /// Whether equal blocks are written twice, which is quicker where nobody runs them.
    pub(super) apart: bool,
}

impl Blocks {
    /// None so far; equal ones will be written twice, for those who only price them.
    pub fn apart() -> Self {
        Blocks { apart: true, ..Blocks::default() }
    }

    /// The number of a block, which is appended if there is none like it.
    pub fn add(&mut self, block: Block) -> u32 {
        let number = self.list.len() as u32;
        if !self.apart {
            let alike = self.known.entry(FxBuildHasher.hash_one(&block)).or_default();
            if let Some(&known) = alike.iter().find(|&&known| self.list[known as usize] == block) {
                return known;
            }
            alike.push(number);
        }
        self.list.push(block);
        number
    }

    /// A block of one op whose formals are its signature's.
    pub fn single(&mut self, name: &'static str, op: Op) -> u32 {
        if let Some(&known) = self.singles.get(&(op, name)) {
            return known;
        }
        let signature = op.signature();
        let params = signature.iter().map(|p| BlockParam { name: p.name.to_owned(), elems: p.elems }).collect();
        let args = (0..signature.len() as u32).map(|param| ArgView { param, offset: 0 }).collect();
        let number = self.add(Block { name: name.to_owned(), params, calls: vec![Call { op, args }] });
        self.singles.insert((op, name), number);
        number
    }

    /// All blocks, by number.
    pub fn into_list(self) -> Vec<Block> {
        self.list
    }

    /// A block by number.
    pub fn get(&self, block: u32) -> &Block {
        &self.list[block as usize]
    }
}
