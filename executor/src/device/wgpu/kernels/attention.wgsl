// Fused attention, forward (Dao et al. 2022). The backward is in `attention_grad.wgsl`; both begin with these tiles.
//
// A workgroup of 64 threads works on tiles of 32 queries by 32 keys; a thread holds 4 × 4 of a tile. Heads wider than 32
// are taken in CHUNKS chunks of 32 columns.
//
// d0: sequences, seq, heads, key/value heads; d1: width of a head, 1 if causal, tiles in a sequence; f0.x: 1/√width.

override CHUNKS: u32 = 1u;

const TILE = 32u;
const PITCH = 33u;
const THREADS = 64u;

var<workgroup> left: array<f32, 1056>;
var<workgroup> right: array<f32, 1056>;
var<workgroup> scores: array<f32, 1056>;

// Where a workgroup's tile lies: its first token in the sequence, the sequence's first row, its head.
struct Place {
    first: u32,
    row: u32,
    head: u32,
}

fn place(g: u32, heads: u32) -> Place {
    // Causal: later tiles see more keys, so they start first.
    let tile = p.d1.z - 1u - g % p.d1.z;
    let head = g / p.d1.z % heads;
    return Place(tile * TILE, g / p.d1.z / heads * p.d0.y, head);
}

// Elements of a packed row.
fn packed_width() -> u32 {
    return (p.d0.z + 2u * p.d0.w) * p.d1.x;
}

// Element of a packed head's row `r`, column `c` of a chunk; heads count queries, then keys, then values.
fn packed(row: u32, first: u32, head: u32, chunk: u32, r: u32, c: u32) -> f32 {
    let col = chunk * TILE + c;
    if first + r >= p.d0.y || col >= p.d1.x {
        return 0.0;
    }
    return b0[p.o0.x + (row + first + r) * packed_width() + head * p.d1.x + col];
}

fn load_left(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * TILE; i = i + THREADS) {
        left[i / TILE * PITCH + i % TILE] = packed(row, first, head, chunk, i / TILE, i % TILE);
    }
}

fn load_right(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * TILE; i = i + THREADS) {
        right[i / TILE * PITCH + i % TILE] = packed(row, first, head, chunk, i / TILE, i % TILE);
    }
}

// `left · rightᵀ`, added.
fn multiply(t: u32, before: mat4x4<f32>) -> mat4x4<f32> {
    let row = t / 8u * 4u * PITCH;
    let col = t % 8u * 4u * PITCH;
    var s0 = before[0];
    var s1 = before[1];
    var s2 = before[2];
    var s3 = before[3];
    for (var k = 0u; k < TILE; k = k + 1u) {
        let b = vec4<f32>(right[col + k], right[col + PITCH + k], right[col + 2u * PITCH + k], right[col + 3u * PITCH + k]);
        s0 = fma(vec4<f32>(left[row + k]), b, s0);
        s1 = fma(vec4<f32>(left[row + PITCH + k]), b, s1);
        s2 = fma(vec4<f32>(left[row + 2u * PITCH + k]), b, s2);
        s3 = fma(vec4<f32>(left[row + 3u * PITCH + k]), b, s3);
    }
    return mat4x4<f32>(s0, s1, s2, s3);
}

// `scores · right`, added.
fn weigh(t: u32, before: mat4x4<f32>) -> mat4x4<f32> {
    let row = t / 8u * 4u * PITCH;
    let col = t % 8u * 4u;
    var s0 = before[0];
    var s1 = before[1];
    var s2 = before[2];
    var s3 = before[3];
    for (var k = 0u; k < TILE; k = k + 1u) {
        let start = k * PITCH + col;
        let b = vec4<f32>(right[start], right[start + 1u], right[start + 2u], right[start + 3u]);
        s0 = fma(vec4<f32>(scores[row + k]), b, s0);
        s1 = fma(vec4<f32>(scores[row + PITCH + k]), b, s1);
        s2 = fma(vec4<f32>(scores[row + 2u * PITCH + k]), b, s2);
        s3 = fma(vec4<f32>(scores[row + 3u * PITCH + k]), b, s3);
    }
    return mat4x4<f32>(s0, s1, s2, s3);
}

// Whether a query sees a key.
fn sees(query: u32, key: u32) -> bool {
    return query < p.d0.y && key < p.d0.y && (p.d1.y == 0u || key <= query);
}

// Up to where the queries of a tile see keys.
fn visible(first: u32) -> u32 {
    return select(p.d0.y, min(first + TILE, p.d0.y), p.d1.y == 1u);
}
