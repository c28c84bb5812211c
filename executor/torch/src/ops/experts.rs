//! Tokens to experts and back. A choice without a slot has −1.

use tch::{Device, Kind, Tensor};

use super::{copy, store};
use crate::cache::TensorCache;
use crate::view::{Outcome, TensorArgs, n};

/// Probabilities' order: likeliest first, of equals the first.
fn best(probs: &Tensor, top_k: usize) -> Outcome<Tensor> {
    probs.f_sort_stable(true, 1, true)?.1.f_narrow(1, 0, n(top_k))
}

pub fn route(x: &TensorArgs, [rows, experts, top_k, capacity]: [usize; 4], device: Device) -> Outcome {
    let (probs, shares) = (x.of(1, [rows, experts])?, x.of(2, [rows, top_k])?);
    drop(x.of(0, [rows, experts])?.f_softmax_int_out(&probs, 1, Kind::Float)?);
    let chosen = best(&probs, top_k)?;
    let of_chosen = probs.f_gather(1, &chosen, false)?;
    let whole = of_chosen.f_sum_dim_intlist(1, true, Kind::Float)?;
    copy(&shares, &if top_k == 1 { of_chosen } else { of_chosen.f_div(&whole)? })?;
    // How many chose the same expert before: rows in order, in a row the likeliest first.
    let choices = chosen.f_reshape([n(rows * top_k), 1])?;
    let mut marks = Tensor::f_zeros([n(rows * top_k), n(experts)], (Kind::Int, device))?;
    drop(marks.f_scatter_value_(1, &choices, 1)?);
    let before = marks.f_cumsum(0, Kind::Int64)?.f_gather(1, &choices, false)?.f_sub_scalar_(1)?;
    let full = before.f_ge(n(capacity))?;
    let slots = choices.f_mul_scalar(n(capacity))?.f_add_(&before)?.f_masked_fill_(&full, -1)?;
    copy(&x.numbers(3)?, &slots.f_squeeze_dim(1)?)
}

pub fn route_grad(x: &TensorArgs, [rows, experts, top_k]: [usize; 3], balance: f64, cache: &TensorCache) -> Outcome {
    let (probs, dshares) = (x.of(0, [rows, experts])?, x.of(1, [rows, top_k])?);
    let chosen = best(&probs, top_k)?;
    let ones = Tensor::f_ones([n(rows), n(top_k)], (Kind::Float, probs.device()))?;
    let mut times = probs.f_zeros_like()?;
    drop(times.f_scatter_(1, &chosen, &ones)?);
    let counts = times.f_sum_dim_intlist(0, true, Kind::Float)?;
    let pull =
        counts.f_mul_scalar(balance * experts as f64 / (rows * top_k) as f64)?.f_mul_(&cache.settings().scale)?;
    let dchosen = if top_k == 1 {
        dshares
    } else {
        // share_i = p_i / Σ p: less what each share loses as the whole grows.
        let of_chosen = probs.f_gather(1, &chosen, false)?;
        let whole = of_chosen.f_sum_dim_intlist(1, true, Kind::Float)?;
        let lost = dshares.f_mul(&of_chosen)?.f_sum_dim_intlist(1, true, Kind::Float)?.f_div(&whole)?;
        dshares.f_sub(&lost)?.f_div(&whole)?
    };
    let mut dprobs = pull.f_expand([n(rows), n(experts)], false)?.f_contiguous()?;
    drop(dprobs.f_scatter_add_(1, &chosen, &dchosen)?);
    let mean = dprobs.f_mul(&probs)?.f_sum_dim_intlist(1, true, Kind::Float)?;
    dprobs.f_sub_(&mean)?.f_mul_out(&x.of(2, [rows, experts])?, &probs).map(drop)
}

/// Which choice sits at each slot, or one that is none, and which slots are empty.
fn choices_of(slots: &Tensor, choices: usize, count: usize) -> Outcome<(Tensor, Tensor)> {
    let options = (Kind::Int64, slots.device());
    let numbers = Tensor::f_arange(n(choices), options)?;
    // One slot more, for those without one.
    let mut taken = Tensor::f_full([n(count) + 1], n(choices), options)?;
    let to = slots.f_to_kind(Kind::Int64)?;
    let to = to.f_masked_fill(&to.f_lt(0)?, n(count))?;
    drop(taken.f_scatter_(0, &to, &numbers)?);
    let taken = taken.f_narrow(0, 0, n(count))?;
    let empty = taken.f_eq(n(choices))?;
    Ok((taken.f_clamp_max(n(choices) - 1)?, empty.f_unsqueeze(1)?))
}

/// Rows at each choice's slot, zeros where it has none.
fn at_slots(rows: &Tensor, slots: &Tensor) -> Outcome<Tensor> {
    let none = slots.f_lt(0)?.f_unsqueeze(1)?;
    rows.f_index_select(0, &slots.f_clamp_min(0)?)?.f_masked_fill_(&none, 0.0)
}

pub fn dispatch(x: &TensorArgs, [rows, cols, top_k, slots]: [usize; 4]) -> Outcome {
    let (choice, empty) = choices_of(&x.numbers(1)?, rows * top_k, slots)?;
    let mut out = x.of(2, [slots, cols])?;
    let token = choice.f_floor_divide_scalar(n(top_k))?;
    drop(x.of(0, [rows, cols])?.f_index_select_out(&out, 0, &token)?);
    out.f_masked_fill_(&empty, 0.0).map(drop)
}

pub fn dispatch_grad(x: &TensorArgs, [rows, cols, top_k, slots]: [usize; 4], accumulate: bool) -> Outcome {
    let of_choices = at_slots(&x.of(1, [slots, cols])?, &x.numbers(0)?)?;
    let of_tokens = of_choices.f_view([n(rows), n(top_k), n(cols)])?.f_sum_dim_intlist(1, false, Kind::Float)?;
    store(&x.of(2, [rows, cols])?, &of_tokens, accumulate)
}

pub fn combine(x: &TensorArgs, [rows, cols, top_k, slots]: [usize; 4]) -> Outcome {
    let of_choices = at_slots(&x.of(0, [slots, cols])?, &x.numbers(1)?)?.f_view([n(rows), n(top_k), n(cols)])?;
    let shares = x.of(2, [rows, 1, top_k])?;
    shares.f_bmm_out(&x.of(3, [rows, 1, cols])?, &of_choices).map(drop)
}

pub fn combine_grad(x: &TensorArgs, [rows, cols, top_k, slots]: [usize; 4]) -> Outcome {
    let (y, seated, dout) = (x.of(0, [slots, cols])?, x.numbers(1)?, x.of(3, [rows, cols])?);
    let (choice, empty) = choices_of(&seated, rows * top_k, slots)?;
    let mut dy = x.of(4, [slots, cols])?;
    drop(dout.f_index_select_out(&dy, 0, &choice.f_floor_divide_scalar(n(top_k))?)?);
    drop(dy.f_mul_(&x.flat(2)?.f_index_select(0, &choice)?.f_unsqueeze(1)?)?);
    drop(dy.f_masked_fill_(&empty, 0.0)?);
    let of_choices = at_slots(&y, &seated)?.f_view([n(rows), n(top_k), n(cols)])?;
    of_choices.f_bmm_out(&x.of(5, [rows, top_k, 1])?, &dout.f_unsqueeze(2)?).map(drop)
}
