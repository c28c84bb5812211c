//! Attention whose keys and values are spread over ranks: to one block of them or to all, with results that later blocks
//! add to (Liu et al. 2023).
//!
//! In: packed rows of queries, rows `[k heads | v heads]` of blocks, where each rank's tokens stand in their sequence. Out:
//! normalised outputs and the logarithm of each softmax's denominator over all blocks so far; gradients.
//!
//! Invariant: the number of threads changes no bit.

use super::team::{Split, Team};
use meshwright_hardware::op::{ContextDims, position};

/// Where tokens stand: those of this rank, and those of a block.
struct RankPositions {
    dims: ContextDims,
    rank: usize,
}

impl RankPositions {
    fn query(&self, token: usize) -> usize {
        position(token, self.dims.seq, self.dims.cp, self.rank)
    }

    fn key(&self, block: usize, token: usize) -> usize {
        let d = &self.dims;
        let owner = if d.blocks == d.cp { block } else { (self.rank + d.cp - d.hop) % d.cp };
        position(token, d.keys, d.cp, owner)
    }

    /// Rows of keys, over all blocks, that a query of a sequence sees.
    fn seen(&self, sequence: usize, token: usize) -> impl Iterator<Item = usize> + '_ {
        let (d, at) = (self.dims, self.query(token));
        let all = (0..d.blocks).flat_map(move |block| (0..d.keys).map(move |key| (block, key)));
        let sees = move |&(block, key): &(usize, usize)| !d.causal || self.key(block, key) <= at;
        all.filter(sees).map(move |(block, key)| (block * d.batch + sequence) * d.keys + key)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums, so that the compiler may use vectors.
    let mut sums = [0.0f32; 8];
    let (whole, rest) = (a.len() - a.len() % 8, a.len() % 8);
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let tail: f32 = a[whole..].iter().zip(&b[whole..whole + rest]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

/// `out` `[rows, heads · head_dim]` and `lse` `[rows, heads]` over the given blocks, and, after the first hop, those before.
pub fn context_attention(
    team: &Team,
    dims: ContextDims,
    rank: usize,
    qkv: &[f32],
    kv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let ContextDims { heads, kv_heads, head_dim: d, .. } = dims;
    assert!(qkv.len() == dims.rows() * dims.stride && kv.len() == dims.kv_elems());
    assert!(lse.len() == dims.rows() * heads && out.len() == lse.len() * d);
    let positions = RankPositions { dims, rank };
    let (out, lse) = (Split::new(out), Split::new(lse));
    let scale = 1.0 / (d as f32).sqrt();
    team.run(dims.rows() * heads, |task| {
        let (row, head) = (task / heads, task % heads);
        let (q, kv_head) = (&qkv[row * dims.stride + head * d..][..d], head / (heads / kv_heads));
        // SAFETY: a task owns a row's head.
        let (out, lse) = unsafe { (out.part(task * d..(task + 1) * d), &mut lse.part(task..task + 1)[0]) };
        let (mut greatest, mut total) = if dims.hop > 0 { (*lse, 1.0) } else { (f32::NEG_INFINITY, 0.0) };
        if dims.hop == 0 {
            out.fill(0.0);
        }
        for key in positions.seen(row / dims.seq, row % dims.seq) {
            let pair = &kv[key * 2 * kv_heads * d..];
            let score = scale * dot(q, &pair[kv_head * d..][..d]);
            if score > greatest {
                let kept = (greatest - score).exp();
                out.iter_mut().for_each(|x| *x *= kept);
                (greatest, total) = (score, total * kept);
            }
            let weight = (score - greatest).exp();
            total += weight;
            out.iter_mut().zip(&pair[(kv_heads + kv_head) * d..][..d]).for_each(|(out, v)| *out += weight * v);
        }
        out.iter_mut().for_each(|x| *x /= total);
        *lse = greatest + total.ln();
    });
}

/// What the gradient is made of.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// Packed rows.
    pub qkv: &'a [f32],
    /// Blocks.
    pub kv: &'a [f32],
    /// Outputs over all blocks of all hops.
    pub out: &'a [f32],
    /// Their denominators' logarithms.
    pub lse: &'a [f32],
    /// The outputs' gradient.
    pub dout: &'a [f32],
}

/// The gradient: of queries, in packed rows, added to those of earlier hops; of the given blocks, written whole.
pub fn context_attention_grad(
    team: &Team,
    dims: ContextDims,
    rank: usize,
    Given { qkv, kv, out, lse, dout }: Given,
    dqkv: &mut [f32],
    dkv: &mut [f32],
) {
    let ContextDims { heads, kv_heads, head_dim: d, seq, .. } = dims;
    assert!(qkv.len() == dqkv.len() && kv.len() == dkv.len() && out.len() == dout.len());
    if dims.hop == 0 {
        dqkv.fill(0.0);
    }
    dkv.fill(0.0);
    let positions = RankPositions { dims, rank };
    let (dqkv, dkv) = (Split::new(dqkv), Split::new(dkv));
    let (group, scale, cols) = (heads / kv_heads, 1.0 / (d as f32).sqrt(), 2 * kv_heads * d);
    // A task owns a sequence's key/value head.
    team.run(dims.batch * kv_heads, |task| {
        let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
        for (token, head) in (0..seq).flat_map(|token| (0..group).map(move |i| (token, kv_head * group + i))) {
            let row = sequence * seq + token;
            let (at, at_q) = (row * heads + head, row * dims.stride + head * d);
            let (q, dout) = (&qkv[at_q..at_q + d], &dout[at * d..(at + 1) * d]);
            let inner = dot(&out[at * d..(at + 1) * d], dout);
            // SAFETY: queries of a key/value head are the task's alone.
            let dq = unsafe { dqkv.part(at_q..at_q + d) };
            for key in positions.seen(sequence, token) {
                let (at_k, at_v) = (key * cols + kv_head * d, key * cols + (kv_heads + kv_head) * d);
                let (k, v) = (&kv[at_k..at_k + d], &kv[at_v..at_v + d]);
                let weight = (scale * dot(q, k) - lse[at]).exp();
                let dscore = weight * (dot(dout, v) - inner) * scale;
                // SAFETY: so are the head's columns of keys and values.
                let (dk, dv) = unsafe { (dkv.part(at_k..at_k + d), dkv.part(at_v..at_v + d)) };
                dq.iter_mut().zip(k).for_each(|(dq, k)| *dq += dscore * k);
                dk.iter_mut().zip(q).for_each(|(dk, q)| *dk += dscore * q);
                dv.iter_mut().zip(dout).for_each(|(dv, d)| *dv += weight * d);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::attention::{attention, attention_grad};
    use super::super::testing::{assert_close, on_teams, random, wide};
    use super::*;
    use meshwright_hardware::op::AttentionDims;

    const CP: usize = 3;

    /// What each rank holds of rows `[batch, CP · seq, cols]`.
    fn scattered(x: &[f32], dims: &ContextDims, cols: usize) -> Vec<Vec<f32>> {
        let of = |rank: usize| {
            let rows = (0..dims.batch).flat_map(|b| (0..dims.seq).map(move |t| (b, t)));
            let whole = rows.map(|(b, t)| b * CP * dims.seq + position(t, dims.seq, CP, rank));
            whole.flat_map(|row| x[row * cols..(row + 1) * cols].to_vec()).collect()
        };
        (0..CP).map(of).collect()
    }

    fn keys(qkv: &[f32], dims: &ContextDims) -> Vec<f32> {
        let first = dims.heads * dims.head_dim;
        qkv.chunks(dims.stride).flat_map(|row| row[first..].to_vec()).collect()
    }

    /// Gathered and round a ring, over all ranks, as attention over whole sequences.
    #[test]
    fn ranks_together_do_what_one_does() {
        on_teams(|team| {
            let seq = 6;
            let whole = AttentionDims { batch: 2, seq: CP * seq, heads: 4, kv_heads: 2, head_dim: 5, causal: true };
            let dims = ContextDims {
                batch: 2,
                seq,
                keys: seq,
                heads: 4,
                kv_heads: 2,
                head_dim: 5,
                stride: 40,
                causal: true,
                cp: CP,
                blocks: CP,
                hop: 0,
            };
            let qkv = random(1, whole.rows() * whole.qkv_cols());
            let (mut out, mut lse) = (vec![0.0; whole.rows() * 20], vec![0.0; whole.rows() * 4]);
            attention(team, whole, &qkv, &mut out, &mut lse);
            let dout = random(2, out.len());
            let mut dqkv = vec![0.0; qkv.len()];
            attention_grad(team, whole, &qkv, &out, &lse, &dout, &mut dqkv);
            let [parts, outs, douts, dqkvs] =
                [(&qkv, 40), (&out, 20), (&dout, 20), (&dqkv, 40)].map(|(x, cols)| scattered(x, &dims, cols));
            let kvs: Vec<Vec<f32>> = parts.iter().map(|part| keys(part, &dims)).collect();
            for ring in [false, true] {
                let hops = if ring { CP } else { 1 };
                let block = |rank: usize, hop: usize| {
                    if ring { kvs[(rank + CP - hop) % CP].clone() } else { kvs.concat() }
                };
                let dims = ContextDims { blocks: if ring { 1 } else { CP }, ..dims };
                let mut dkvs = vec![vec![0.0; kvs[0].len()]; CP];
                let mut dqs = Vec::new();
                for rank in 0..CP {
                    let (mut out, mut lse) = (vec![f32::NAN; outs[rank].len()], vec![f32::NAN; dims.rows() * 4]);
                    for hop in 0..hops {
                        let dims = ContextDims { hop, ..dims };
                        context_attention(team, dims, rank, &parts[rank], &block(rank, hop), &mut out, &mut lse);
                    }
                    assert_close(&out, &wide(&outs[rank]), 1e-5);
                    let mut dqkv = vec![f32::NAN; parts[rank].len()];
                    for hop in 0..hops {
                        let kv = block(rank, hop);
                        let mut dkv = vec![f32::NAN; kv.len()];
                        let given = Given { qkv: &parts[rank], kv: &kv, out: &out, lse: &lse, dout: &douts[rank] };
                        let dims = ContextDims { hop, ..dims };
                        context_attention_grad(team, dims, rank, given, &mut dqkv, &mut dkv);
                        for (i, dkv) in dkv.chunks(kvs[0].len()).enumerate() {
                            let owner = if ring { (rank + CP - hop) % CP } else { i };
                            dkvs[owner].iter_mut().zip(dkv).for_each(|(sum, d)| *sum += d);
                        }
                    }
                    dqs.push(dqkv);
                }
                for rank in 0..CP {
                    let rows = dqs[rank].chunks(40).zip(dkvs[rank].chunks(20));
                    let got: Vec<f32> = rows.flat_map(|(q, kv)| [&q[..20], kv].concat()).collect();
                    assert_close(&got, &wide(&dqkvs[rank]), 2e-5);
                }
            }
        });
    }
}
