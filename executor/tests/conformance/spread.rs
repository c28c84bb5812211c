//! Experts, attention to blocks and latents in plain `f64` loops; see `reference`.

use meshwright_hardware::op::{ContextDims, Layout};

use crate::reference::{Args, grid, place};

/// Choices that have a place, with it.
pub fn seated(places: &[f64], choices: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let places = places[..choices].to_vec();
    places.into_iter().enumerate().filter(|(_, at)| *at != f64::from(u32::MAX)).map(|(i, at)| (i, at as usize))
}

pub fn expert_matmul(layout: Layout, [experts, sources, m, n, k]: [usize; 5], accumulate: bool, x: &mut Args) {
    if !accumulate {
        x[2].fill(0.0);
    }
    for (source, expert) in grid(sources, experts) {
        let at = source * experts + expert;
        let (a, b, c) = match layout {
            Layout::Tn => (at * m * k, at * n * k, expert * m * n),
            Layout::Nt | Layout::Nn => (at * m * k, expert * n * k, at * m * n),
        };
        for (i, j) in grid(m, n) {
            let term = |p: usize| match layout {
                Layout::Nt => x[0][a + i * k + p] * x[1][b + j * k + p],
                Layout::Nn => x[0][a + i * k + p] * x[1][b + p * n + j],
                Layout::Tn => x[0][a + p * m + i] * x[1][b + p * n + j],
            };
            let sum: f64 = (0..k).map(term).sum();
            x[2][c + i * n + j] += sum;
        }
    }
}

/// A row's experts, likeliest first.
fn best(probs: &[f64], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probs.len()).collect();
    // As fp32 sees them: there they may be equal.
    order.sort_by(|&a, &b| (probs[b] as f32).total_cmp(&(probs[a] as f32)).then(a.cmp(&b)));
    order[..top_k].to_vec()
}

pub fn route([rows, experts, top_k, room]: [usize; 4], x: &mut Args) {
    let mut taken = vec![0; experts];
    for r in 0..rows {
        let row = x[0][r * experts..(r + 1) * experts].to_vec();
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        let probs: Vec<f64> = row.iter().map(|x| x.exp() / sum).collect();
        x[1][r * experts..(r + 1) * experts].copy_from_slice(&probs);
        let chosen = best(&probs, top_k);
        let whole: f64 = if top_k == 1 { 1.0 } else { chosen.iter().map(|&e| probs[e]).sum() };
        for (i, e) in chosen.into_iter().enumerate() {
            x[2][r * top_k + i] = probs[e] / whole;
            x[3][r * top_k + i] = if taken[e] < room { (e * room + taken[e]) as f64 } else { f64::from(u32::MAX) };
            taken[e] += 1;
        }
    }
}

pub fn route_grad([rows, experts, top_k]: [usize; 3], balance: f64, x: &mut Args) {
    let of = |x: &Args, r: usize| x[0][r * experts..(r + 1) * experts].to_vec();
    let chosen: Vec<Vec<usize>> = (0..rows).map(|r| best(&of(x, r), top_k)).collect();
    for r in 0..rows {
        let (probs, mine) = (of(x, r), &chosen[r]);
        let whole: f64 = if top_k == 1 { 1.0 } else { mine.iter().map(|&e| probs[e]).sum() };
        let d = |i: usize| x[1][r * top_k + i];
        // d share_i / d prob_e: 1/whole for its own, less share/whole for each of the chosen.
        let pull = |e: usize| {
            let times = chosen.iter().flatten().filter(|&&other| other == e).count() as f64;
            balance * experts as f64 * times / (rows * top_k) as f64
        };
        let mut dprobs: Vec<f64> = (0..experts).map(pull).collect();
        for (i, &e) in mine.iter().enumerate() {
            dprobs[e] += d(i) / whole;
            if top_k > 1 {
                mine.iter().for_each(|&other| dprobs[other] -= d(i) * probs[e] / (whole * whole));
            }
        }
        for e in 0..experts {
            let slope = |other: usize| probs[other] * (f64::from(u8::from(other == e)) - probs[e]);
            x[2][r * experts + e] = (0..experts).map(|other| dprobs[other] * slope(other)).sum();
        }
    }
}

/// Keys of a block that a query sees: first elements in the blocks' rows.
fn seen(d: &ContextDims, rank: usize, sequence: usize, query: usize) -> Vec<usize> {
    let at = place(query, d.seq, d.cp, rank);
    let all = grid(d.blocks, d.keys).filter(|&(block, key)| {
        let owner = if d.blocks == d.cp { block } else { (rank + d.cp - d.hop) % d.cp };
        !d.causal || place(key, d.keys, d.cp, owner) <= at
    });
    all.map(|(block, key)| ((block * d.batch + sequence) * d.keys + key) * 2 * d.kv_heads * d.head_dim).collect()
}

/// First elements of a query's head and of the pairs of it that it sees.
fn lines(d: &ContextDims, rank: usize) -> Vec<(usize, usize, Vec<usize>)> {
    let all = grid(d.rows(), d.heads).map(|(row, head)| {
        let kv = head / (d.heads / d.kv_heads) * d.head_dim;
        let keys = seen(d, rank, row / d.seq, row % d.seq).into_iter().map(|key| key + kv).collect();
        (row * d.heads + head, row * d.stride + head * d.head_dim, keys)
    });
    all.collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn context(d: &ContextDims, rank: usize, x: &mut Args) {
    let (n, values) = (d.head_dim, d.kv_heads * d.head_dim);
    for (line, q, keys) in lines(d, rank) {
        let score = |&key: &usize| dot(&x[0][q..q + n], &x[1][key..key + n]) / (n as f64).sqrt();
        let weights: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
        let before = if d.hop > 0 { x[3][line].exp() } else { 0.0 };
        let total = before + weights.iter().sum::<f64>();
        for c in 0..n {
            let sum: f64 = keys.iter().zip(&weights).map(|(key, w)| w * x[1][key + values + c]).sum();
            x[2][line * n + c] = (before * if d.hop > 0 { x[2][line * n + c] } else { 0.0 } + sum) / total;
        }
        x[3][line] = total.ln();
    }
}

pub fn context_grad(d: &ContextDims, rank: usize, x: &mut Args) {
    let (n, values, root) = (d.head_dim, d.kv_heads * d.head_dim, (d.head_dim as f64).sqrt());
    if d.hop == 0 {
        x[5].fill(0.0);
    }
    x[6].fill(0.0);
    for (line, q, keys) in lines(d, rank) {
        let dout = x[4][line * n..(line + 1) * n].to_vec();
        let delta = dot(&x[2][line * n..(line + 1) * n], &dout);
        for key in keys {
            let p = (dot(&x[0][q..q + n], &x[1][key..key + n]) / root - x[3][line]).exp();
            let ds = p * (dot(&dout, &x[1][key + values..key + values + n]) - delta) / root;
            for c in 0..n {
                x[5][q + c] += ds * x[1][key + c];
                x[6][key + c] += ds * x[0][q + c];
                x[6][key + values + c] += p * dout[c];
            }
        }
    }
}

/// Packed rows of latents, or their gradient.
pub fn latent(
    [rows, seq, heads, nope, rope, value]: [usize; 6],
    theta: f32,
    place: impl Fn(usize) -> usize,
    back: bool,
    x: &mut Args,
) {
    let (width, half) = (nope + rope, rope / 2);
    let packed = |r: usize, kind: usize, head: usize| ((3 * r + kind) * heads + head) * width;
    if back {
        x[3].fill(0.0);
    }
    for (r, head) in grid(rows, heads) {
        let (q, kv, k) = ((r * heads + head) * width, (r * heads + head) * (nope + value), r * rope);
        let mut pairs: Vec<(usize, usize, usize)> = (0..nope).map(|c| (0, q + c, packed(r, 0, head) + c)).collect();
        pairs.extend((0..nope).map(|c| (1, kv + c, packed(r, 1, head) + c)));
        pairs.extend((0..value).map(|c| (1, kv + nope + c, packed(r, 2, head) + c)));
        for (arg, from, to) in pairs {
            if back { x[1 + arg][from] = x[0][to] } else { x[3][to] = x[arg][from] }
        }
        if !back {
            (value..width).for_each(|c| x[3][packed(r, 2, head) + c] = 0.0);
        }
        for i in 0..half {
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / rope as f64) as f32;
            let (sin, cos) = f64::from(place(r % seq) as f32 * frequency).sin_cos();
            for (arg, from, to) in
                [(0, q + nope + i, packed(r, 0, head) + nope + i), (2, k + i, packed(r, 1, head) + nope + i)]
            {
                if back {
                    let (a, b) = (x[0][to], x[0][to + half]);
                    let (low, high) = (a * cos + b * sin, b * cos - a * sin);
                    let kept = if arg == 2 { (x[3][from], x[3][from + half]) } else { (0.0, 0.0) };
                    (x[1 + arg][from], x[1 + arg][from + half]) = (kept.0 + low, kept.1 + high);
                } else {
                    let (a, b) = (x[arg][from], x[arg][from + half]);
                    (x[3][to], x[3][to + half]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
    }
}
