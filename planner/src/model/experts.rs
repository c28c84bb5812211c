//! Mixtures of experts in place of a feed-forward part: route, dispatch, exchange, compute, exchange back, combine (Lepikhin
//! et al. 2020; Fedus et al. 2021), with experts that every token goes to beside them (DeepSeek-AI 2024).
//!
//! In: the normed input of a layer's second half. Out: the sum of experts' outputs, still to be summed over tensor
//! parallelism; where that leaves experts whole, the sum itself for the rank's own tokens.
//!
//! Invariant: an expert's capacity is a fixed number of a rank's tokens, so that all sizes are known beforehand. Dropless ones
//! are taken to be routed evenly.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, Layout, Op};
use meshwright_hardware::params::{Init, Shard};

use super::decoder::deep;
use super::local::Local;
use super::parts::{CHEAP, DEAR, INIT_STD, matrix, normal};
use super::tape::{Arg, ParamDecl, Tape, TapeNode};
use crate::job::{Experts, Model};

/// An expert's capacity: how many of `rows` tokens it takes; its even share where none is dropped.
pub fn capacity(experts: &Experts, rows: usize) -> usize {
    let even = (rows * experts.top_k) as f64 / experts.count as f64;
    ((even * experts.capacity_factor()).ceil() as usize).clamp(1, rows)
}

/// The ops that bring `rows` tokens of a rank to experts and back, and activate what these raised to `width` columns on a rank:
/// forward, and backward.
pub fn ops_of_routed(model: &Model, experts: &Experts, rows: usize, width: usize) -> [[Op; 3]; 2] {
    let (cols, top_k, kind) = (model.hidden, experts.top_k, model.activation());
    let slots = experts.count * capacity(experts, rows);
    let forward = [
        Op::Dispatch { rows, cols, top_k, slots },
        Op::Activation { kind, rows: slots, cols: width },
        Op::Combine { rows, cols, top_k, slots },
    ];
    let backward = [
        Op::CombineGrad { rows, cols, top_k, slots },
        Op::ActivationGrad { kind, rows: slots, cols: width },
        Op::DispatchGrad { rows, cols, top_k, slots, accumulate: false },
    ];
    [forward, backward]
}

impl Tape {
    /// The mixture over `normed`, `[rows, hidden]`: over a rank's own tokens where experts are whole.
    pub(super) fn experts(&mut self, model: &Model, local: Local, experts: &Experts, normed: usize) -> usize {
        let rows = if local.routes_own() { local.residual_rows() } else { local.rows() };
        let (h, top_k) = (model.hidden, experts.top_k);
        let (count, capacity) = (experts.count, capacity(experts, rows));
        let slots = count * capacity;
        self.balance = experts.balance;
        let router = matrix("mlp.router.weight", count, h, Shard::Whole, normal(INIT_STD));
        let router = self.param(ParamDecl { partial: true, decay: false, ..router });
        let logits = self.tensor("logits", rows * count, DEAR);
        self.linear(normed, [rows, count, h], router, None, logits);
        let probs = self.tensor("probs", rows * count, DEAR);
        let shares = self.tensor("shares", rows * top_k, DEAR);
        let slot = self.tensor("slots", rows * top_k, DEAR);
        let op = Op::Route { rows, experts: count, top_k, capacity };
        self.op(op, [logits, probs, shares, slot].map(Arg::Tensor));
        let sent = self.tensor("dispatched", slots * h, DEAR);
        self.op(Op::Dispatch { rows, cols: h, top_k, slots }, [normed, slot, sent].map(Arg::Tensor));
        self.exchange(local, sent);
        let done = self
            .shared_by_ranks(model, local, sent, |tape, sent| tape.experts_ffn(model, local, experts, sent, capacity));
        self.exchange(local, done);
        let mixed = self.tensor("combined", rows * h, DEAR);
        self.op(Op::Combine { rows, cols: h, top_k, slots }, [done, slot, shares, mixed].map(Arg::Tensor));
        mixed
    }

    /// What experts make of what was `sent`: where a part of tensor parallelism shares them, of what all its ranks were sent, summed
    /// over these and cut into each one's own again.
    fn shared_by_ranks(
        &mut self,
        model: &Model,
        local: Local,
        sent: usize,
        ffn: impl FnOnce(&mut Tape, usize) -> usize,
    ) -> usize {
        if !local.routes_own() || local.etp == 1 {
            return ffn(self, sent);
        }
        let n = self.tensors[sent].elems;
        debug_assert!(n.is_multiple_of(model.hidden));
        let all = self.tensor("dispatched to all", local.etp * n, DEAR);
        self.op(Op::Copy { n }, [Arg::Tensor(sent), Arg::Part(all, Axis::Etp)]);
        self.nodes.push(TapeNode::Gather(all, Axis::Etp));
        let made = ffn(self, all);
        self.nodes.push(TapeNode::Scatter(made, Axis::Etp));
        let done = self.tensor("returned", n, DEAR);
        self.op(Op::Copy { n }, [Arg::Part(made, Axis::Etp), Arg::Tensor(done)]);
        done
    }

    fn exchange(&mut self, local: Local, tensor: usize) {
        if local.ep > 1 {
            self.nodes.push(TapeNode::Exchange(tensor, Axis::Ep));
        }
    }

    /// Each expert's feed-forward part over `[ranks, own experts, capacity, hidden]`.
    fn experts_ffn(&mut self, model: &Model, local: Local, experts: &Experts, sent: usize, capacity: usize) -> usize {
        let (h, width) = (model.hidden, experts.ffn / local.etp);
        let kind = model.activation();
        let together = if local.routes_own() { local.etp } else { 1 };
        let (own, sources) = (experts.count / local.ep, local.ep * together);
        let rows = experts.count * capacity * together;
        let each = |decl: ParamDecl| ParamDecl { experts: Some(experts.count), ..decl };
        let sections = vec![experts.ffn; kind.width()];
        let wide = experts.ffn * kind.width();
        let whole = local.routes_own() && local.etp == 1;
        let shards = if whole { [Shard::Whole, Shard::Whole] } else { [Shard::Rows { sections }, Shard::Cols] };
        let [up_shard, down_shard] = shards;
        let up = matrix("mlp.experts.up.weight", wide, h, up_shard, normal(INIT_STD));
        let up = self.param(each(up));
        let down = matrix("mlp.experts.down.weight", h, experts.ffn, down_shard, normal(deep(model)));
        let down = self.param(each(down));
        let of =
            |n, k| Op::ExpertMatmul { layout: Layout::Nt, experts: own, sources, m: capacity, n, k, accumulate: false };
        let raised = self.tensor("experts.up", rows * width * kind.width(), DEAR);
        self.op(of(width * kind.width(), h), [Arg::Tensor(sent), Arg::Param(up), Arg::Tensor(raised)]);
        let active = self.tensor("experts.active", rows * width, CHEAP);
        self.op(Op::Activation { kind, rows, cols: width }, [Arg::Tensor(raised), Arg::Tensor(active)]);
        let done = self.tensor("experts.down", rows * h, DEAR);
        self.op(of(h, width), [Arg::Tensor(active), Arg::Param(down), Arg::Tensor(done)]);
        done
    }

    /// A dense feed-forward part of a given width over `normed`; no bias is added to its output yet.
    pub(super) fn ffn(
        &mut self,
        model: &Model,
        local: Local,
        names: [&'static str; 3],
        ffn: usize,
        normed: usize,
    ) -> usize {
        let (rows, h, kind) = (local.rows(), model.hidden, model.activation());
        let [up_name, up_bias, down_name] = names;
        let (wide, width) = (ffn * kind.width(), ffn / local.tp);
        let shard = Shard::Rows { sections: vec![ffn; kind.width()] };
        let weight = self.param(matrix(up_name, wide, h, shard.clone(), normal(INIT_STD)));
        let bias = model.biased().then(|| self.param(super::parts::vector(up_bias, wide, shard, Init::Zeros)));
        let up = self.tensor("up", rows * width * kind.width(), DEAR);
        self.linear(normed, [rows, width * kind.width(), h], weight, bias, up);
        let active = self.tensor("active", rows * width, CHEAP);
        self.beside.gates(local, (kind.width() - 1) * rows * width);
        self.op(Op::Activation { kind, rows, cols: width }, [Arg::Tensor(up), Arg::Tensor(active)]);
        let weight = self.param(matrix(down_name, h, ffn, Shard::Cols, normal(deep(model))));
        let down = self.tensor("down", rows * h, DEAR);
        self.linear(active, [rows, h, width], weight, None, down);
        down
    }
}

/// Which activation a feed-forward part has.
impl Model {
    /// The activation between the two products of a feed-forward part.
    pub fn activation(&self) -> ActivationKind {
        if self.gated() { ActivationKind::SwiGlu } else { ActivationKind::Gelu }
    }
}
