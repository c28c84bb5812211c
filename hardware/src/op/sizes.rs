//! Sizes at which ops are run: by calibration, for a kind of device; by tests, at the edges of what kernels do.
//!
//! In: a kind of device. Out: shapes, from which every op makes its samples.
//!
//! Invariant: what is for a CPU fits 64 MiB of floats; the same sizes in every run.

use super::kinds::{AttentionDims, ContextDims};
use crate::elem::Elem;

/// Shapes of ops. Calibration's are those of models; tests' no multiple of any tile, single rows, long sequences, shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Whether every variant of an op is wanted (with a bias, with what was there, shared by ranks); else the usual one.
    pub(super) edges: bool,
    /// Whether updates have fp32 weights beside narrower ones.
    pub(super) master: bool,
    /// Rows and columns.
    pub(super) rows: Vec<[usize; 2]>,
    /// Tokens, outputs and inputs of linear layers.
    pub(super) layers: Vec<[usize; 3]>,
    /// Experts, sources, and an expert's layer with tokens of one source.
    pub(super) expert_layers: Vec<(usize, usize, [usize; 3])>,
    /// Tokens, experts, experts a token, columns.
    pub(super) routes: Vec<[usize; 4]>,
    /// Tokens, heads, width of a head, of latent attention.
    pub(super) latents: Vec<[usize; 3]>,
    pub(super) attention: Vec<AttentionDims>,
    pub(super) context: Vec<ContextDims>,
    /// Tokens and words.
    pub(super) logits: Vec<[usize; 2]>,
    /// Elements of whole vectors.
    pub(super) vectors: Vec<usize>,
}

/// Every pair whose product is at most this.
fn pairs(rows: &[usize], cols: &[usize], most: usize) -> Vec<[usize; 2]> {
    let all = rows.iter().flat_map(|&rows| cols.iter().map(move |&cols| [rows, cols]));
    all.filter(|[rows, cols]| rows * cols <= most).collect()
}

/// Every layer between these features.
fn layers(tokens: &[usize], features: &[usize]) -> Vec<[usize; 3]> {
    let pairs = || features.iter().flat_map(|&wide| features.iter().map(move |&deep| (wide, deep)));
    tokens.iter().flat_map(|&tokens| pairs().map(move |(wide, deep)| [tokens, wide, deep])).collect()
}

/// Experts' layers, up and down, for numbers of experts and tokens of each.
fn expert_layers(experts: &[usize], tokens: &[usize], [hidden, width]: [usize; 2]) -> Vec<(usize, usize, [usize; 3])> {
    let layers = |tokens: usize| [[tokens, width, hidden], [tokens, hidden, width]];
    let all = experts.iter().flat_map(|&experts| tokens.iter().map(move |&tokens| (experts, tokens)));
    all.flat_map(|(experts, tokens)| layers(tokens).map(|layer| (experts, 1, layer))).collect()
}

/// Causal attention of every size of at most so many FLOPs.
fn attention(sequences: &[usize], groups: &[[usize; 2]], widths: &[usize], most: f64) -> Vec<AttentionDims> {
    let mut all = Vec::new();
    for &seq in sequences {
        for &[batch, heads] in groups {
            let of = |&head_dim: &usize| AttentionDims { batch, seq, heads, kv_heads: heads, head_dim, causal: true };
            all.extend(widths.iter().map(of).filter(|dims| dims.forward_flops() < most));
        }
    }
    all
}

/// Attention of two ranks that share sequences, as [`position`](super::position) cuts them: to all keys at once; a block's
/// are the same work a key.
fn context() -> Vec<ContextDims> {
    let mut all = Vec::new();
    for keys in [64, 256, 1024] {
        for [batch, heads] in [[1, 2], [1, 8], [4, 8]] {
            for head_dim in [32, 64, 128] {
                let (cp, seq, stride) = (2, keys / 2, 3 * heads * head_dim);
                let shape = ContextDims {
                    batch,
                    seq,
                    keys: seq,
                    heads,
                    kv_heads: heads,
                    head_dim,
                    stride,
                    causal: true,
                    cp,
                    blocks: cp,
                    hop: 0,
                };
                all.extend((shape.forward_flops() < 3e8).then_some(shape));
            }
        }
    }
    all
}

impl Sizes {
    /// Of models of a few to a few hundred million parameters.
    pub fn cpu(elem: Elem) -> Sizes {
        let tokens = [128, 512, 2048];
        let mut linear = layers(&tokens, &[64, 256, 1024]);
        linear.extend([[512, 4096, 1024], [512, 1024, 4096]]);
        // Routers, and what a latent is of positions.
        linear.extend([[512, 8, 256], [2048, 8, 1024], [512, 32, 256], [2048, 32, 1024]]);
        let mut experts = expert_layers(&[2, 8], &[32, 128, 512], [256, 64]);
        experts.extend(expert_layers(&[8, 16], &[32, 128, 512], [512, 256]));
        experts.extend(expert_layers(&[4, 8], &[32, 128, 512], [256, 1024]));
        Sizes {
            edges: false,
            master: elem != Elem::F32,
            rows: pairs(&tokens, &[64, 256, 1024, 4096], 1 << 21),
            layers: linear,
            expert_layers: experts,
            routes: vec![[128, 8, 2, 64], [512, 8, 2, 256], [2048, 8, 2, 256], [512, 64, 6, 256], [1024, 16, 1, 1024]],
            latents: vec![[128, 2, 48], [512, 8, 48], [512, 8, 64], [2048, 4, 64], [2048, 8, 48], [512, 8, 192]],
            attention: attention(&[64, 256, 1024], &[[1, 2], [1, 8], [4, 8]], &[32, 64, 128], 2.5e9),
            context: context(),
            logits: pairs(&tokens, &[64, 256, 1024, 4096], 1 << 21),
            vectors: vec![1 << 12, 1 << 16, 1 << 20, 3 << 20],
        }
    }

    /// Of models of up to some billions.
    pub fn gpu(elem: Elem) -> Sizes {
        let mut linear = layers(&[1024, 4096, 16_384, 65_536], &[768, 2048, 4096]);
        linear.extend([
            [4096, 16_384, 2048],
            [16_384, 16_384, 2048],
            [4096, 2048, 8192],
            [16_384, 2048, 8192],
            [4096, 131_072, 2048],
            [4096, 49_152, 768],
            [32_768, 49_152, 768],
        ]);
        let mut experts = expert_layers(&[8, 64], &[128, 1024], [2048, 768]);
        experts.extend(expert_layers(&[2, 8], &[512, 4096], [4096, 14_336]));
        Sizes {
            edges: false,
            master: elem != Elem::F32,
            rows: pairs(&[1024, 8192, 65_536], &[256, 1024, 2048, 4096, 16_384], 1 << 28),
            layers: linear,
            expert_layers: experts,
            routes: vec![
                [1024, 8, 2, 2048],
                [8192, 8, 2, 4096],
                [8192, 64, 6, 2048],
                [8192, 256, 8, 4096],
                [32_768, 64, 8, 2048],
            ],
            latents: vec![[1024, 16, 192], [8192, 16, 192], [8192, 128, 192], [32_768, 16, 192]],
            attention: attention(&[1024, 4096, 8192], &[[1, 32], [4, 32], [32, 12]], &[64, 128], 2e12),
            context: context(),
            logits: pairs(&[512, 4096, 32_768], &[8192, 49_152, 131_072], 1 << 31),
            vectors: vec![1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 27],
        }
    }

    /// Where kernels go wrong: what tests compare with the reference.
    pub fn edges() -> Sizes {
        let shapes = vec![
            [1, 1],
            [1, 67],
            [3, 256],
            [130, 2],
            [65, 129],
            [2, 1500],
            [517, 33],
            [122, 89],
            [18, 251],
            [94, 174],
            [141, 12],
        ];
        Sizes {
            edges: true,
            master: true,
            rows: shapes.clone(),
            layers: vec![
                [1, 1, 1],
                [1, 70, 33],
                [64, 64, 64],
                [65, 1, 129],
                [128, 192, 16],
                [3, 200, 515],
                [70, 60, 1100],
                [131, 67, 9],
                [97, 23, 138],
                [6, 119, 51],
                [44, 133, 77],
                // Large enough that devices take larger tiles.
                [1410, 1420, 11],
            ],
            expert_layers: vec![(1, 1, [1, 1, 1]), (3, 2, [17, 33, 20]), (2, 4, [5, 70, 65])],
            routes: vec![[1, 1, 1, 1], [7, 3, 1, 33], [40, 4, 2, 20], [130, 8, 3, 5], [65, 300, 6, 300]],
            latents: Vec::new(),
            attention: attention_edges(),
            context: context_edges(),
            logits: shapes,
            vectors: vec![1, 255, 257, 70_001],
        }
    }

    /// Both, where every variant is wanted, else the usual one.
    pub(super) fn either(&self, usual: bool) -> &'static [bool] {
        match (self.edges, usual) {
            (true, _) => &[false, true],
            (false, false) => &[false],
            (false, true) => &[true],
        }
    }
}

/// Single tokens, long sequences, grouped heads, odd widths; causal and not.
fn attention_edges() -> Vec<AttentionDims> {
    // Sequences, tokens, query heads, key/value heads, width.
    let sizes = [
        [1, 1, 1, 1, 1],
        [1, 1, 2, 1, 64],
        [2, 32, 2, 2, 32],
        [1, 33, 4, 2, 64],
        [3, 65, 6, 2, 16],
        [1, 129, 2, 1, 128],
        [1, 600, 1, 1, 20],
        [2, 40, 8, 1, 5],
        [1, 45, 1, 1, 256],
        [1, 70, 3, 3, 80],
        [2, 87, 6, 3, 44],
        [3, 19, 2, 2, 92],
        [1, 98, 6, 2, 8],
    ];
    let of = |[batch, seq, heads, kv_heads, head_dim]: [usize; 5]| {
        [false, true].map(|causal| AttentionDims { batch, seq, heads, kv_heads, head_dim, causal })
    };
    sizes.into_iter().flat_map(of).collect()
}

/// Keys and values of other ranks, gathered and one block at a time, and of an encoder.
fn context_edges() -> Vec<ContextDims> {
    let mut all = Vec::new();
    for [batch, seq, keys, heads, kv_heads, head_dim] in
        [[1, 2, 2, 1, 1, 1], [2, 10, 10, 4, 2, 16], [1, 34, 34, 2, 1, 65], [2, 6, 33, 3, 3, 8]]
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
        all.push(of(1, 1, 0, false));
        if keys == seq {
            // Of a block whose keys all come later, nothing is seen: no rank begins with one.
            all.extend([of(2, 2, 0, true), of(3, 1, 0, true), of(3, 1, 1, true), of(3, 1, 2, false)]);
        }
    }
    all
}
