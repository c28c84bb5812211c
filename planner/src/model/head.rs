//! The head: the last layer's output to the loss, of all tokens at once or part by part.
//!
//! In: a [`Model`], what of it a rank holds, what makes the loss. Out: its tape; the order of its steps.
//!
//! A loss that is made with the head's product (Hsu et al. 2024) multiplies some tokens' logits back before the next ones' are made,
//! so that those of all tokens never stand at once.
//!
//! Invariant: a part's steps touch its own logits alone.

use std::collections::BTreeSet;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{Layout, Op};

use super::local::Local;
use super::parts::{DEAR, table};
use super::tape::{Arg, Home, ParamDecl, Step, Tape, TapeNode, Value};
use crate::job::Model;

/// Weight of the loss of a token further (DeepSeek-AI 2024b, §4.2).
const FURTHER: f32 = 0.3;

/// The last layer's output to the loss; `scale` is one over the tokens of a step that have a target.
pub fn head(model: &Model, local: Local, scale: f32) -> Tape {
    let h = model.hidden;
    let mut tape = Tape::new("head");
    let mut x = tape.tensor("x", local.residual_rows() * h, Home::Input);
    let two = local.target > 0;
    let local = if two { local.of_target() } else { local };
    let rows = local.rows();
    if two {
        x = tape.tensor("y", local.residual_rows() * h, Home::Second);
    }
    let targets = tape.tensor("targets", rows, Home::Targets);
    let loss = tape.tensor("loss", 1, Home::Loss);
    let names = ["final.norm.weight", "final.norm.bias", "normed", "stats"];
    let normed = tape.norm(model, local, names, x);
    let name = if model.tied { "embed.tokens" } else { "head.weight" };
    let weight = tape.param(ParamDecl { tied: model.tied, ..table(model, local, name) });
    let mut scored = vec![(normed, scale)];
    if model.predicts_further() {
        let further = tape.predict_further(model, local, [x, targets]);
        let names = ["mtp.final.norm.weight", "mtp.final.norm.bias", "mtp.normed", "mtp.stats"];
        scored.push((tape.norm(model, local, names, further), scale * FURTHER));
    }
    let at_once = local.software.loss.rows_at_once(rows, h, model.vocab_on(local.tp));
    tape.beside.scored(local, at_once * model.vocab_on(local.tp));
    for (normed, scale) in scored {
        for first in (0..rows).step_by(at_once) {
            let part = tape.score(model, local, (first, at_once), [normed, weight, targets, loss], scale);
            tape.parts.push(part);
        }
    }
    tape
}

impl Tape {
    /// The loss of so many tokens from the `first` on; its tensors.
    fn score(
        &mut self,
        model: &Model,
        local: Local,
        (first, rows): (usize, usize),
        [normed, weight, targets, loss]: [usize; 4],
        scale: f32,
    ) -> BTreeSet<usize> {
        let (h, vocab, words, shards) = (model.hidden, model.vocab_on(local.tp), model.vocab, local.tp);
        let logits = self.tensor("logits", rows * vocab, DEAR);
        let product = Op::Matmul { layout: Layout::Nt, m: rows, n: vocab, k: h, bias: false, accumulate: false };
        self.op(product, [Arg::From(normed, first * h), Arg::Param(weight), Arg::Tensor(logits)]);
        let stats = self.tensor("softmax", shards * 3 * rows, DEAR);
        let mine = if shards > 1 { Arg::Part(stats, Axis::Tp) } else { Arg::Tensor(stats) };
        let targets = Arg::From(targets, first);
        self.op(Op::LossStats { rows, vocab, words, shards }, [Arg::Tensor(logits), targets, mine]);
        if shards > 1 {
            self.nodes.push(TapeNode::Gather(stats, Axis::Tp));
        }
        let op = Op::Loss { rows, vocab, words, shards, scale };
        self.op(op, [targets, Arg::Tensor(stats), Arg::Tensor(logits), Arg::Tensor(loss)]);
        BTreeSet::from([logits, stats])
    }
}

/// Forward and backward steps by turns: of all tokens, or of a part and then of the next. What comes before the parts is done with
/// the first, what comes behind them with the last.
pub fn by_parts(tape: &Tape, forward: Vec<Step>, backward: Vec<Step>) -> Vec<Vec<Step>> {
    let of = |step: &Step| {
        let touches =
            |value: Value| matches!(value, Value::Tensor(t) if tape.parts.iter().any(|part| part.contains(&t)));
        let tensor = step.values().into_iter().find(|value| touches(*value))?;
        tape.parts.iter().position(|part| matches!(tensor, Value::Tensor(t) if part.contains(&t)))
    };
    let count = tape.parts.len().max(1);
    let mut lists = vec![Vec::new(); 2 * count];
    for step in forward {
        lists[2 * of(&step).unwrap_or(0)].push(step);
    }
    let mut behind = Vec::new();
    for step in backward {
        match of(&step) {
            Some(part) => lists[2 * part + 1].push(step),
            None => behind.push(step),
        }
    }
    lists[2 * count - 1].extend(behind);
    lists
}
