//! Which ops are run: edges by hand, and dims drawn from fixed seeds.
//!
//! In: nothing. Out: ops, with sizes that are no multiple of any tile, single rows, long sequences, shards.
//!
//! Invariant: the same cases in every run.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, AttentionDims, ContextDims, Layout, NormKind, Op};

use crate::suite::Random;

/// All of them.
pub fn all() -> Vec<Op> {
    let groups = [
        embeddings(),
        positions(),
        norms(),
        matmuls(),
        attention(),
        activations(),
        sums(),
        losses(),
        optimizers(),
        experts(),
        spread(),
    ];
    groups.concat()
}

/// Rows and columns: edges, then some drawn.
fn shapes(seed: u64) -> Vec<(usize, usize)> {
    let mut random = Random::new(seed);
    let mut shapes = vec![(1, 1), (1, 67), (3, 256), (130, 2), (65, 129), (2, 1500), (517, 33)];
    shapes.extend((0..4).map(|_| (random.from(1, 150), random.from(1, 300))));
    shapes
}

/// Gathered and scattered rows of whole and split tables.
pub fn embeddings() -> Vec<Op> {
    let mut random = Random::new(1);
    let mut ops = Vec::new();
    for (i, (rows, cols)) in shapes(1).into_iter().enumerate() {
        let (vocab, shards) = ([1, 7, 300][i % 3], [1, 2, 4][random.from(0, 2)]);
        ops.extend([Op::Embed { rows, cols, vocab, shards }, Op::EmbedGrad { rows, cols, vocab, shards }]);
    }
    ops
}

/// Learned and rotary positions.
pub fn positions() -> Vec<Op> {
    let mut random = Random::new(2);
    let mut ops = Vec::new();
    for (rows, cols) in shapes(2) {
        let seq = random.from(1, rows);
        for (sp, cp) in [(1, 1), (2, 1), (1, 2), (3, 4)] {
            let seq = seq.next_multiple_of(2);
            ops.extend([Op::Positions { rows, seq, cols, sp, cp }, Op::PositionsGrad { rows, seq, cols, sp, cp }]);
        }
    }
    for (rows, seq, heads, head_dim, rest) in
        [(1, 1, 1, 2, 0), (9, 3, 3, 6, 5), (2100, 2100, 1, 16, 0), (70, 35, 5, 64, 128), (6, 4, 2, 128, 1)]
    {
        let stride = heads * head_dim + rest;
        for (theta, inverse) in [(1e4, false), (5e5, true)] {
            let cp = if inverse { 2 } else { 1 };
            ops.push(Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse });
        }
    }
    ops
}

/// Both norms, and their gradients written and added.
pub fn norms() -> Vec<Op> {
    let mut ops = Vec::new();
    // Of narrower rows' gradients, cancellation leaves little but rounding errors.
    for (rows, cols) in shapes(3).into_iter().map(|(rows, cols)| (rows, cols.max(7))) {
        for kind in [NormKind::Layer, NormKind::Rms] {
            ops.push(Op::Norm { kind, rows, cols });
            ops.extend([false, true].map(|accumulate| Op::NormGrad { kind, rows, cols, accumulate }));
        }
    }
    ops
}

/// Every layout with and without a bias and what was there.
pub fn matmuls() -> Vec<Op> {
    let mut random = Random::new(4);
    let mut sizes = vec![
        (1, 1, 1),
        (1, 70, 33),
        (64, 64, 64),
        (65, 1, 129),
        (128, 192, 16),
        (3, 200, 515),
        (70, 60, 1100),
        (131, 67, 9),
    ];
    sizes.extend((0..4).map(|_| (random.from(1, 140), random.from(1, 140), random.from(1, 140))));
    // Large enough that devices take larger tiles.
    let plain = |layout, m, n, k| Op::Matmul { layout, m, n, k, bias: false, accumulate: false };
    let mut ops = [Layout::Nt, Layout::Nn, Layout::Tn].map(|layout| plain(layout, 1410, 1420, 11)).to_vec();
    for (m, n, k) in sizes {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            for (bias, accumulate) in [(false, false), (false, true), (true, false), (true, true)] {
                ops.push(Op::Matmul { layout, m, n, k, bias, accumulate });
            }
        }
    }
    ops
}

/// Single tokens, long sequences, grouped heads, odd widths; causal and not.
pub fn attention() -> Vec<Op> {
    let mut random = Random::new(5);
    // Sequences, tokens, query heads, key/value heads, width.
    let mut sizes = vec![
        (1, 1, 1, 1, 1),
        (1, 1, 2, 1, 64),
        (2, 32, 2, 2, 32),
        (1, 33, 4, 2, 64),
        (3, 65, 6, 2, 16),
        (1, 129, 2, 1, 128),
        (1, 600, 1, 1, 20),
        (2, 40, 8, 1, 5),
        (1, 45, 1, 1, 256),
        (1, 70, 3, 3, 80),
    ];
    sizes.extend((0..3).map(|_| {
        let kv = random.from(1, 3);
        (random.from(1, 3), random.from(1, 100), kv * random.from(1, 3), kv, 4 * random.from(1, 24))
    }));
    let mut ops = Vec::new();
    for (batch, seq, heads, kv_heads, head_dim) in sizes {
        for causal in [false, true] {
            let dims = AttentionDims { batch, seq, heads, kv_heads, head_dim, causal };
            ops.extend([Op::Attention(dims), Op::AttentionGrad(dims)]);
        }
    }
    ops
}

/// GELU and SwiGLU.
pub fn activations() -> Vec<Op> {
    let mut ops = Vec::new();
    for (rows, cols) in shapes(6) {
        for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu] {
            ops.extend([Op::Activation { kind, rows, cols }, Op::ActivationGrad { kind, rows, cols }]);
        }
    }
    ops
}

/// Residuals, biases, whole vectors.
pub fn sums() -> Vec<Op> {
    let mut ops = Vec::new();
    for (rows, cols) in shapes(7) {
        ops.push(Op::BiasGrad { rows, cols });
        ops.extend([false, true].map(|bias| Op::Add { rows, cols, bias }));
    }
    for n in [1, 255, 257, 70_001] {
        ops.extend([Op::Zero { n }, Op::Copy { n }, Op::Accumulate { n }]);
    }
    ops
}

/// Whole and split vocabularies.
pub fn losses() -> Vec<Op> {
    let mut random = Random::new(8);
    let mut ops = Vec::new();
    for (rows, vocab) in shapes(8) {
        let (shards, scale) = ([1, 2, 4][random.from(0, 2)], [1.0, 1.0 / rows as f32][random.from(0, 1)]);
        ops.extend([Op::LossStats { rows, vocab, shards }, Op::Loss { rows, vocab, shards, scale }]);
    }
    ops
}

/// Norms and updates of vectors and their shards, decayed in part, with and without fp32 masters.
pub fn optimizers() -> Vec<Op> {
    let mut ops = Vec::new();
    for (n, shards, edge) in [(1, 1, 1), (255, 1, 100), (300, 2, 450), (1000, 4, 900), (70_001, 1, 35_000)] {
        ops.extend([1, 4].map(|copies| Op::SquaredNorm {
            n,
            whole: edge,
            copies,
            replicas: 3 - copies % 3,
            shards,
            axis: Axis::Dp,
        }));
        ops.extend([false, true].map(|master| Op::AdamW { n, decayed: edge, shards, axis: Axis::Dp, master }));
    }
    ops
}

/// Routing with and without room for all, tokens to places and back, products by expert.
pub fn experts() -> Vec<Op> {
    let mut ops = Vec::new();
    let sizes: [(usize, usize, usize, usize); 5] =
        [(1, 1, 1, 1), (7, 3, 1, 33), (40, 4, 2, 20), (130, 8, 3, 5), (65, 300, 6, 300)];
    for (rows, experts, top_k, cols) in sizes {
        for room in [rows, (rows * top_k).div_ceil(2 * experts)] {
            let places = experts * room;
            ops.push(Op::Route { rows, experts, top_k, room });
            ops.push(Op::RouteGrad { rows, experts, top_k, room, balance: 0.3 });
            ops.push(Op::Dispatch { rows, cols, top_k, places });
            ops.extend([false, true].map(|accumulate| Op::DispatchGrad { rows, cols, top_k, places, accumulate }));
            ops.extend([Op::Combine { rows, cols, top_k, places }, Op::CombineGrad { rows, cols, top_k, places }]);
        }
    }
    for (experts, sources, m, n, k) in [(1, 1, 1, 1, 1), (3, 2, 17, 33, 20), (2, 4, 5, 70, 65)] {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let of = |accumulate| Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate };
            ops.extend([false, true].map(of));
        }
    }
    ops
}

/// Keys and values of other ranks, gathered and one block at a time; of an encoder; columns of rows; latents.
pub fn spread() -> Vec<Op> {
    let mut ops = Vec::new();
    for (batch, seq, keys, heads, kv_heads, head_dim) in
        [(1, 2, 2, 1, 1, 1), (2, 10, 10, 4, 2, 16), (1, 34, 34, 2, 1, 65), (2, 6, 33, 3, 3, 8)]
    {
        let stride = (heads + 2 * kv_heads) * head_dim;
        let of = |cp, blocks, hop, causal| ContextDims {
            batch,
            seq,
            keys,
            heads,
            kv_heads,
            head_dim,
            stride,
            causal,
            cp,
            blocks,
            hop,
        };
        let mut all = vec![of(1, 1, 0, false)];
        if keys == seq {
            // Of a block whose keys all come later, nothing is seen: no rank begins with one.
            all.extend([of(2, 2, 0, true), of(3, 1, 0, true), of(3, 1, 1, true), of(3, 1, 2, false)]);
        }
        ops.extend(all.iter().map(|dims| Op::ContextAttention(*dims)));
        ops.extend(all.iter().map(|dims| Op::ContextAttentionGrad(*dims)));
    }
    for (rows, stride, first, cols) in [(1, 1, 0, 1), (9, 40, 7, 33), (300, 5, 2, 1)] {
        ops.extend([false, true].map(|into| Op::Columns { rows, stride, first, cols, into }));
    }
    for (rows, seq, heads, nope, rope, value, cp) in
        [(2, 2, 1, 1, 2, 1, 1), (12, 6, 3, 8, 4, 7, 2), (70, 70, 2, 33, 64, 97, 1)]
    {
        let theta = 1e4;
        ops.push(Op::LatentPack { rows, seq, heads, nope, rope, value, theta, cp });
        ops.push(Op::LatentPackGrad { rows, seq, heads, nope, rope, value, theta, cp });
    }
    ops
}
