//! What layers of every architecture are made of: parameters, norms, linear layers, residuals.
//!
//! In: a [`Model`] and what of it a rank holds ([`Local`]). Out: nodes on a [`Tape`].
//!
//! Invariant: what enters tensor parallelism leaves it again.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{Layout, NormKind, Op};
use meshwright_hardware::params::{Init, Shard};

use super::local::Local;
use super::tape::{Arg, Home, ParamDecl, Store, Tape, TapeNode};
use crate::job::Model;

/// GPT-2's (Radford et al. 2019, §2.3); LLaMA-style models are trained with it as well.
pub(super) const INIT_STD: f32 = 0.02;
pub(super) const CHEAP: Home = Home::Inner { cheap: true };
pub(super) const DEAR: Home = Home::Inner { cheap: false };

pub(super) fn normal(std: f32) -> Init {
    Init::Normal { std }
}

pub(super) fn matrix(name: &'static str, rows: usize, cols: usize, shard: Shard, init: Init) -> ParamDecl {
    ParamDecl {
        name,
        rows,
        cols,
        shard,
        decay: true,
        init,
        tied: false,
        partial: false,
        experts: None,
        store: Store::Trained,
    }
}

pub(super) fn vector(name: &'static str, n: usize, shard: Shard, init: Init) -> ParamDecl {
    ParamDecl { cols: 1, decay: false, ..matrix(name, n, 1, shard, init) }
}

/// A vector that every rank holds whole; where tokens are sharded, each sees only its own.
pub(super) fn whole(local: Local, name: &'static str, n: usize, init: Init) -> ParamDecl {
    ParamDecl { partial: local.sp, ..vector(name, n, Shard::Whole, init) }
}

/// The table of tokens, or the head: shared by rows, with padding where they do not divide.
pub(super) fn table(model: &Model, local: Local, name: &'static str) -> ParamDecl {
    let shard = if model.vocab.is_multiple_of(local.tp) {
        Shard::Rows { sections: vec![model.vocab] }
    } else {
        Shard::Padded { each: model.vocab_on(local.tp) }
    };
    matrix(name, model.vocab, model.hidden, shard, normal(INIT_STD))
}

impl Tape {
    /// A norm of `x`; the result enters tensor parallelism, with all tokens.
    pub(super) fn norm(&mut self, model: &Model, local: Local, names: [&'static str; 4], x: usize) -> usize {
        let (rows, cols) = (local.residual_rows(), model.hidden);
        let y = self.tensor(names[2], rows * cols, CHEAP);
        self.norm_to(model, local, names, x, y);
        self.enter(model, local, y)
    }

    /// Enters tensor parallelism with all tokens of the normed rows `y`.
    pub(super) fn enter(&mut self, model: &Model, local: Local, y: usize) -> usize {
        let (rows, cols) = (local.residual_rows(), model.hidden);
        if local.sp {
            let home = if local.software.keeps_gathered { CHEAP } else { Home::Gathered };
            let all = self.tensor("gathered", local.rows() * cols, home);
            self.op(Op::Copy { n: rows * cols }, [Arg::Tensor(y), Arg::Part(all, Axis::Tp)]);
            self.nodes.push(TapeNode::Gather(all, Axis::Tp));
            return all;
        }
        if local.tp > 1 {
            self.nodes.push(TapeNode::Enter(y));
        }
        y
    }

    /// A norm of `x` as `y`.
    pub(super) fn norm_to(&mut self, model: &Model, local: Local, names: [&'static str; 4], x: usize, y: usize) {
        let [gain, bias, _, stats] = names;
        let (rows, cols) = (local.residual_rows(), model.hidden);
        let gain = self.param(whole(local, gain, cols, Init::Ones));
        let mut args = vec![Arg::Tensor(x), Arg::Param(gain)];
        if model.biased() {
            args.push(Arg::Param(self.param(whole(local, bias, cols, Init::Zeros))));
        }
        let kind = if model.biased() { NormKind::Layer } else { NormKind::Rms };
        args.extend([Arg::Tensor(y), Arg::Tensor(self.tensor(stats, 2 * rows, DEAR))]);
        self.beside.norms(local, rows * cols);
        self.op(Op::Norm { kind, rows, cols }, args);
    }

    /// `x [rows, k] · Wᵀ`; with a bias where one is named.
    pub(super) fn linear(
        &mut self,
        x: usize,
        [rows, n, k]: [usize; 3],
        weight: usize,
        bias: Option<usize>,
        out: usize,
    ) {
        let op = Op::Matmul { layout: Layout::Nt, m: rows, n, k, bias: bias.is_some(), accumulate: false };
        let args = [Arg::Tensor(x), Arg::Param(weight)].into_iter().chain(bias.map(Arg::Param));
        self.op(op, args.chain([Arg::Tensor(out)]));
    }

    /// Sums `y` over tensor parallelism: what a rank then goes on with.
    pub(super) fn leave(&mut self, local: Local, y: usize) -> Arg {
        if local.sp {
            self.nodes.push(TapeNode::Scatter(y, Axis::Tp));
            return Arg::Part(y, Axis::Tp);
        }
        if local.tp > 1 {
            self.nodes.push(TapeNode::Reduce(y));
        }
        Arg::Tensor(y)
    }

    /// `out = x + y (+ bias)`, after `y` was summed over tensor parallelism.
    pub(super) fn residual(&mut self, model: &Model, local: Local, [x, y]: [usize; 2], bias: &'static str, out: usize) {
        let y = self.leave(local, y);
        self.beside.drops(local, local.residual_rows() * model.hidden);
        let mut args = vec![Arg::Tensor(x), y];
        if model.biased() {
            args.push(Arg::Param(self.param(whole(local, bias, model.hidden, Init::Zeros))));
        }
        args.push(Arg::Tensor(out));
        self.op(Op::Add { rows: local.residual_rows(), cols: model.hidden, bias: model.biased() }, args);
    }

    /// `a + b`, before they are summed over tensor parallelism.
    pub(super) fn sum(&mut self, name: &'static str, model: &Model, local: Local, [a, b]: [usize; 2]) -> usize {
        let out = self.tensor(name, local.rows() * model.hidden, DEAR);
        self.op(Op::Add { rows: local.rows(), cols: model.hidden, bias: false }, [a, b, out].map(Arg::Tensor));
        out
    }
}
