// C = A·B in square tiles: each thread sums 8 rows of 8 columns, from slices of A and B that the workgroup shares.

// Rows and columns of a tile: 64 or 128.
override SIDE: u32 = 64u;
// (SIDE / 8)².
override THREADS: u32 = 64u;
const DEPTH = 8u;

// Slices as [DEPTH, SIDE], four rows of A or columns of B at once; one in four is left free against bank conflicts.
var<workgroup> left: array<vec4<f32>, DEPTH * (SIDE / 4u + 1u)>;
var<workgroup> right: array<vec4<f32>, DEPTH * (SIDE / 4u + 1u)>;

// Element (i, k) of A: nt and nn hold A as [m, k], tn as [k, m].
fn load_a(i: u32, k: u32, end: u32) -> f32 {
    if i >= p.d0.x || k >= end {
        return 0.0;
    }
    return get0(p.o0.x + select(i * p.d0.z + k, k * p.d0.x + i, p.d0.w == 2u));
}

// Element (k, j) of B: nt holds B as [n, k], nn and tn as [k, n].
fn load_b(k: u32, j: u32, end: u32) -> f32 {
    if j >= p.d0.y || k >= end {
        return 0.0;
    }
    return get1(p.o0.y + select(k * p.d0.y + j, j * p.d0.z + k, p.d0.w == 0u));
}

fn outer(before: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(a.x), b, before[0]),
        fma(vec4<f32>(a.y), b, before[1]),
        fma(vec4<f32>(a.z), b, before[2]),
        fma(vec4<f32>(a.w), b, before[3]),
    );
}

// a b0, b b1, c b2, bias b3. d0: m, n, k, layout (0 nt, 1 nn, 2 tn); d1: 1 with a bias, 1 to add to c, tiles in a row
// of tiles, tiles; d2: parts of k, each with its own c after the other's, and their length.
@compute @workgroup_size(THREADS)
fn matmul(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    let part = g / p.d1.w;
    if part >= p.d2.x {
        return;
    }
    let fours = SIDE / 4u;
    let pitch = fours + 1u;
    let first_row = g % p.d1.w / p.d1.z * SIDE;
    let first_col = g % p.d1.w % p.d1.z * SIDE;
    let row = t / (SIDE / 8u) * 2u;
    let col = t % (SIDE / 8u);
    let end = min(p.d0.z, (part + 1u) * p.d2.y);
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var depth = part * p.d2.y; depth < end; depth = depth + DEPTH) {
        // Neighbouring threads load what lies side by side: along k, or along the tile's side.
        for (var i = t; i < DEPTH * fours; i = i + THREADS) {
            let across = vec2<u32>(i % DEPTH, i / DEPTH);
            let along = vec2<u32>(i / fours, i % fours);
            let a = select(across, along, p.d0.w == 2u);
            let a_row = first_row + 4u * a.y;
            let a_k = depth + a.x;
            left[a.x * pitch + a.y] = vec4<f32>(load_a(a_row, a_k, end), load_a(a_row + 1u, a_k, end), load_a(a_row + 2u, a_k, end), load_a(a_row + 3u, a_k, end));
            let b = select(along, across, p.d0.w == 0u);
            let b_col = first_col + 4u * b.y;
            let b_k = depth + b.x;
            right[b.x * pitch + b.y] = vec4<f32>(load_b(b_k, b_col, end), load_b(b_k, b_col + 1u, end), load_b(b_k, b_col + 2u, end), load_b(b_k, b_col + 3u, end));
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k = k + 1u) {
            let a0 = left[k * pitch + row];
            let a1 = left[k * pitch + row + 1u];
            let b0 = right[k * pitch + col];
            let b1 = right[k * pitch + fours / 2u + col];
            c00 = outer(c00, a0, b0);
            c01 = outer(c01, a0, b1);
            c10 = outer(c10, a1, b0);
            c11 = outer(c11, a1, b1);
        }
        workgroupBarrier();
    }
    let to = p.o0.z + part * p.d0.x * p.d0.y;
    store4(to, first_row + 4u * row, first_col + 4u * col, c00);
    store4(to, first_row + 4u * row, first_col + SIDE / 2u + 4u * col, c01);
    store4(to, first_row + 4u * row + 4u, first_col + 4u * col, c10);
    store4(to, first_row + 4u * row + 4u, first_col + SIDE / 2u + 4u * col, c11);
}

fn store4(to: u32, row: u32, col: u32, sums: mat4x4<f32>) {
    store(to, row, col, sums[0]);
    store(to, row + 1u, col, sums[1]);
    store(to, row + 2u, col, sums[2]);
    store(to, row + 3u, col, sums[3]);
}

fn store(to: u32, row: u32, col: u32, sums: vec4<f32>) {
    if row >= p.d0.x {
        return;
    }
    put(to, row, col, sums.x);
    put(to, row, col + 1u, sums.y);
    put(to, row, col + 2u, sums.z);
    put(to, row, col + 3u, sums.w);
}

fn put(to: u32, row: u32, col: u32, value: f32) {
    if col >= p.d0.y {
        return;
    }
    let at = to + row * p.d0.y + col;
    var sum = value;
    if p.d1.x == 1u {
        sum = sum + get3(p.o0.w + col);
    }
    if p.d1.y == 1u {
        sum = sum + get2(at);
    }
    put2(at, sum);
}
