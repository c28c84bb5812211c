// C = A·B in tiles of 64 × 64: each of 256 threads sums 4 rows of 4 columns.

const TILE = 64u;
const DEPTH = 16u;
// A column of a tile begins so many elements after the one before, so that stores fall on different banks.
const PITCH = 68u;

var<workgroup> left: array<f32, 1088>;
var<workgroup> right: array<f32, 1088>;

// Element (i, k) of A: nt and nn hold A as [m, k], tn as [k, m].
fn load_a(i: u32, k: u32) -> f32 {
    if i >= p.d0.x || k >= p.d0.z {
        return 0.0;
    }
    return b0[p.o0.x + select(i * p.d0.z + k, k * p.d0.x + i, p.d0.w == 2u)];
}

// Element (k, j) of B: nt holds B as [n, k], nn and tn as [k, n].
fn load_b(k: u32, j: u32) -> f32 {
    if j >= p.d0.y || k >= p.d0.z {
        return 0.0;
    }
    return b1[p.o0.y + select(k * p.d0.y + j, j * p.d0.z + k, p.d0.w == 0u)];
}

// a b0, b b1, c b2, bias b3. d0: m, n, k, layout (0 nt, 1 nn, 2 tn); d1: 1 with a bias, 1 to add to c, tiles in a row
// of tiles, tiles.
@compute @workgroup_size(256)
fn matmul(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    if g >= p.d1.w {
        return;
    }
    let first_row = g / p.d1.z * TILE;
    let first_col = g % p.d1.z * TILE;
    let row = t / 16u * 4u;
    let col = t % 16u;
    // Neighbouring threads load what lies side by side.
    let across = vec2<u32>(t % DEPTH, t / DEPTH);
    let along = vec2<u32>(t / TILE, t % TILE);
    let at_a = select(across, along, p.d0.w == 2u);
    let step_a = select(vec2<u32>(0u, 16u), vec2<u32>(4u, 0u), p.d0.w == 2u);
    let at_b = select(along, across, p.d0.w == 0u);
    let step_b = select(vec2<u32>(4u, 0u), vec2<u32>(0u, 16u), p.d0.w == 0u);
    var c0 = vec4<f32>();
    var c1 = vec4<f32>();
    var c2 = vec4<f32>();
    var c3 = vec4<f32>();
    for (var depth = 0u; depth < p.d0.z; depth = depth + DEPTH) {
        for (var q = 0u; q < 4u; q = q + 1u) {
            let a = at_a + step_a * q;
            left[a.x * PITCH + a.y] = load_a(first_row + a.y, depth + a.x);
            let b = at_b + step_b * q;
            right[b.x * PITCH + b.y] = load_b(depth + b.x, first_col + b.y);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k = k + 1u) {
            let at = k * PITCH + row;
            let start = k * PITCH + col;
            let b = vec4<f32>(right[start], right[start + 16u], right[start + 32u], right[start + 48u]);
            c0 = fma(vec4<f32>(left[at]), b, c0);
            c1 = fma(vec4<f32>(left[at + 1u]), b, c1);
            c2 = fma(vec4<f32>(left[at + 2u]), b, c2);
            c3 = fma(vec4<f32>(left[at + 3u]), b, c3);
        }
        workgroupBarrier();
    }
    store(first_row + row, first_col + col, c0);
    store(first_row + row + 1u, first_col + col, c1);
    store(first_row + row + 2u, first_col + col, c2);
    store(first_row + row + 3u, first_col + col, c3);
}

fn store(row: u32, col: u32, sums: vec4<f32>) {
    if row >= p.d0.x {
        return;
    }
    for (var q = 0u; q < 4u; q = q + 1u) {
        let j = col + 16u * q;
        if j < p.d0.y {
            var sum = sums[q];
            let to = p.o0.z + row * p.d0.y + j;
            if p.d1.x == 1u {
                sum = sum + b3[p.o0.w + j];
            }
            if p.d1.y == 1u {
                sum = sum + b2[to];
            }
            b2[to] = sum;
        }
    }
}
