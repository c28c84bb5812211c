// qkv b0, out b1, lse b2. A workgroup a tile of queries of a head.

var<workgroup> greatest: array<f32, 32>;
var<workgroup> totals: array<f32, 32>;
var<workgroup> kept: array<f32, 32>;

@compute @workgroup_size(64)
fn attention(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    if g >= p.d0.x * p.d0.z * p.d1.z {
        return;
    }
    let at = place(g, p.d0.z);
    let key_head = p.d0.z + at.head / (p.d0.z / p.d0.w);
    let row = t / 8u * 4u;
    let col = t % 8u * 4u;
    var sums: array<mat4x4<f32>, 8>;
    if t < TILE {
        greatest[t] = LEAST;
        totals[t] = 0.0;
    }
    for (var key = 0u; key < visible(at.first); key = key + TILE) {
        var s = mat4x4<f32>();
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            workgroupBarrier();
            load_left(t, at.row, at.first, at.head, chunk);
            load_right(t, at.row, key, key_head, chunk);
            workgroupBarrier();
            s = multiply(t, s);
        }
        for (var i = 0u; i < 4u; i = i + 1u) {
            for (var j = 0u; j < 4u; j = j + 1u) {
                let seen = sees(at.first + row + i, key + col + j);
                scores[(row + i) * PITCH + col + j] = select(LEAST, s[i][j] * p.f0.x, seen);
            }
        }
        workgroupBarrier();
        if t < TILE {
            soften(t);
        }
        workgroupBarrier();
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            load_right(t, at.row, key, key_head + p.d0.w, chunk);
            workgroupBarrier();
            let before = sums[chunk];
            let scaled = mat4x4<f32>(before[0] * kept[row], before[1] * kept[row + 1u], before[2] * kept[row + 2u], before[3] * kept[row + 3u]);
            sums[chunk] = weigh(t, scaled);
            workgroupBarrier();
        }
    }
    for (var i = 0u; i < 4u; i = i + 1u) {
        let query = at.first + row + i;
        if query < p.d0.y {
            let to = p.o0.y + ((at.row + query) * p.d0.z + at.head) * p.d1.x;
            for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
                for (var j = 0u; j < 4u; j = j + 1u) {
                    let c = chunk * TILE + col + j;
                    if c < p.d1.x {
                        b1[to + c] = sums[chunk][i][j] / totals[row + i];
                    }
                }
            }
        }
    }
    if t < TILE && at.first + t < p.d0.y {
        b2[p.o0.z + (at.row + at.first + t) * p.d0.z + at.head] = greatest[t] + log(totals[t]);
    }
}

// Scores of a query become weights; what was summed before shrinks where a greater score came.
fn soften(t: u32) {
    let before = greatest[t];
    var most = before;
    for (var k = 0u; k < TILE; k = k + 1u) {
        most = max(most, scores[t * PITCH + k]);
    }
    var sum = 0.0;
    for (var k = 0u; k < TILE; k = k + 1u) {
        let s = scores[t * PITCH + k];
        let weight = select(exp(s - most), 0.0, s == LEAST);
        scores[t * PITCH + k] = weight;
        sum = sum + weight;
    }
    let keep = select(exp(before - most), 0.0, before == LEAST);
    kept[t] = keep;
    totals[t] = totals[t] * keep + sum;
    greatest[t] = most;
}
