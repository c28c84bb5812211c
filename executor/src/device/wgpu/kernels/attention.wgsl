// Tiles of fused attention (Dao et al. 2022), forward and backward: `attention_forward.wgsl`, `attention_grad.wgsl`.
//
// A workgroup of 64 threads works on tiles of 32 queries by 32 keys; a thread holds 4 × 4 of a tile: rows from
// 4·(t / 8), columns from 4·(t % 8). Heads wider than 32 are taken in CHUNKS chunks of 32 columns.
//
// d0: sequences, seq, heads, key/value heads; d1: width of a head, 1 if causal, tiles in a sequence; f0.x: 1/√width.

override CHUNKS: u32 = 1u;

const TILE = 32u;
const THREADS = 64u;
const FOURS = 8u;
// One in nine is left free against bank conflicts.
const PITCH = 9u;

// Operands of products, by rows of the summed dim: what the left operand's four rows, or the right one's four columns,
// hold at it.
var<workgroup> left: array<vec4<f32>, 288>;
var<workgroup> right: array<vec4<f32>, 288>;
// Weights or slopes of scores, as a left operand.
var<workgroup> scores: array<vec4<f32>, 288>;

// Where a workgroup's tile lies: its first token in the sequence, the sequence's first row, its head.
struct Place {
    first: u32,
    row: u32,
    head: u32,
}

fn place(g: u32, heads: u32) -> Place {
    // Causal: later tiles of queries see more keys, so they start first.
    let tile = p.d1.z - 1u - g % p.d1.z;
    let head = g / p.d1.z % heads;
    return Place(tile * TILE, g / p.d1.z / heads * p.d0.y, head);
}

// Elements of a packed row.
fn packed_width() -> u32 {
    return (p.d0.z + 2u * p.d0.w) * p.d1.x;
}

// Element of a token of a packed head, zero outside; heads count queries, then keys, then values.
fn packed(row: u32, token: u32, head: u32, col: u32) -> f32 {
    if token >= p.d0.y || col >= p.d1.x {
        return 0.0;
    }
    return get0(p.o0.x + (row + token) * packed_width() + head * p.d1.x + col);
}

// Four tokens at a column, and four columns of a token.
fn packed_down(row: u32, token: u32, head: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(packed(row, token, head, col), packed(row, token + 1u, head, col), packed(row, token + 2u, head, col), packed(row, token + 3u, head, col));
}

fn packed_across(row: u32, token: u32, head: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(packed(row, token, head, col), packed(row, token, head, col + 1u), packed(row, token, head, col + 2u), packed(row, token, head, col + 3u));
}

// Operands of a product over a chunk's columns: tokens of one head beside tokens of another.
fn load_left(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * FOURS; i = i + THREADS) {
        left[i % TILE * PITCH + i / TILE] = packed_down(row, first + i / TILE * 4u, head, chunk * TILE + i % TILE);
    }
}

fn load_right(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * FOURS; i = i + THREADS) {
        right[i % TILE * PITCH + i / TILE] = packed_down(row, first + i / TILE * 4u, head, chunk * TILE + i % TILE);
    }
}

// The right operand of a product over tokens.
fn load_tokens(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * FOURS; i = i + THREADS) {
        right[i / FOURS * PITCH + i % FOURS] = packed_across(row, first + i / FOURS, head, chunk * TILE + i % FOURS * 4u);
    }
}

fn outer(before: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(a.x), b, before[0]),
        fma(vec4<f32>(a.y), b, before[1]),
        fma(vec4<f32>(a.z), b, before[2]),
        fma(vec4<f32>(a.w), b, before[3]),
    );
}

// A thread's part of the product of `left` and `right`, added.
fn multiply(t: u32, before: mat4x4<f32>) -> mat4x4<f32> {
    var sum = before;
    for (var k = 0u; k < TILE; k = k + 1u) {
        sum = outer(sum, left[k * PITCH + t / FOURS], right[k * PITCH + t % FOURS]);
    }
    return sum;
}

// A thread's part of the product of `scores` and `right`, added.
fn weigh(t: u32, before: mat4x4<f32>) -> mat4x4<f32> {
    var sum = before;
    for (var k = 0u; k < TILE; k = k + 1u) {
        sum = outer(sum, scores[k * PITCH + t / FOURS], right[k * PITCH + t % FOURS]);
    }
    return sum;
}

// Puts a thread's rows of queries into `scores`, for sums over keys.
fn put_by_keys(t: u32, values: mat4x4<f32>) {
    let by_keys = transpose(values);
    let at = t % FOURS * 4u * PITCH + t / FOURS;
    scores[at] = by_keys[0];
    scores[at + PITCH] = by_keys[1];
    scores[at + 2u * PITCH] = by_keys[2];
    scores[at + 3u * PITCH] = by_keys[3];
}

// The same for sums over queries.
fn put_by_queries(t: u32, values: mat4x4<f32>) {
    let at = t / FOURS * 4u * PITCH + t % FOURS;
    scores[at] = values[0];
    scores[at + PITCH] = values[1];
    scores[at + 2u * PITCH] = values[2];
    scores[at + 3u * PITCH] = values[3];
}

// Which of four keys a query sees.
fn seen(query: u32, key: u32) -> vec4<bool> {
    let keys = vec4<u32>(key, key + 1u, key + 2u, key + 3u);
    let end = select(0u, select(p.d0.y, query + 1u, p.d1.y == 1u), query < p.d0.y);
    return keys < vec4<u32>(end);
}

// Up to where the queries of a tile see keys.
fn visible(first: u32) -> u32 {
    return select(p.d0.y, min(first + TILE, p.d0.y), p.d1.y == 1u);
}
