//! A piece's place in the model.
//!
//! In: a plan. Out: [`At`] of every piece of a stage.
//!
//! Invariant: the pieces of all places, in their order, are the model.

use super::code::{Piece, Pieces};
use crate::model::ParamDecl;
use crate::plan::{Plan, Recompute};

/// A piece's place in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The embedding.
    Embed,
    /// A layer by its number in the model.
    Layer(usize, Recompute),
    /// Final norm, head and loss.
    Head,
}

impl At {
    /// The pieces at a place in the model's order of stages and chunks.
    pub fn of_virtual_stage(plan: &Plan, virtual_stage: usize) -> Vec<At> {
        let first = plan.first_layer(virtual_stage);
        let decided = plan.stages[virtual_stage];
        let layers = (0..decided.layers).map(|i| At::Layer(first + i, decided.mode(i)));
        let embed = (virtual_stage == 0).then_some(At::Embed);
        let head = (virtual_stage + 1 == plan.mesh.pp * plan.chunks).then_some(At::Head);
        embed.into_iter().chain(layers).chain(head).collect()
    }

    /// What it computes.
    pub fn piece<'a>(self, plan: &Plan, pieces: &'a Pieces) -> &'a Piece {
        match self {
            At::Embed => &pieces.embed,
            At::Layer(layer, mode) => pieces.layer(plan.job.model.kind(layer), mode),
            At::Head => &pieces.head,
        }
    }

    /// Its layer's number, if it is one.
    pub fn layer(self) -> Option<u32> {
        match self {
            At::Layer(layer, _) => Some(layer as u32),
            At::Embed | At::Head => None,
        }
    }

    /// Its name in buffers' names.
    pub fn name(self) -> String {
        match self {
            At::Embed => "embed".to_owned(),
            At::Layer(layer, _) => format!("layers.{layer}"),
            At::Head => "head".to_owned(),
        }
    }

    /// The name of one of its parameters.
    pub fn param_name(self, decl: &ParamDecl) -> String {
        match self {
            At::Layer(layer, _) => format!("layers.{layer}.{}", decl.name),
            At::Embed | At::Head => decl.name.to_owned(),
        }
    }
}
