// The backward of attention: first Σ dout·out a query, then dq by tiles of queries, then dk and dv by tiles of keys.
// Scores are computed again, twice, so that nothing is added from two sides and sums keep their order.

// out b0, dout b1, deltas b2: `[rows, heads]`. d2.x: rows · heads.
@compute @workgroup_size(64)
fn deltas(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * THREADS + t;
    if i >= p.d2.x {
        return;
    }
    var sum = 0.0;
    for (var c = 0u; c < p.d1.x; c = c + 1u) {
        sum = sum + b0[p.o0.x + i * p.d1.x + c] * b1[p.o0.y + i * p.d1.x + c];
    }
    b2[p.o0.z + i] = sum;
}

// Element of dout, b2, as `packed`.
fn dout(row: u32, first: u32, head: u32, chunk: u32, r: u32, c: u32) -> f32 {
    let col = chunk * TILE + c;
    if first + r >= p.d0.y || col >= p.d1.x {
        return 0.0;
    }
    return b2[p.o0.z + ((row + first + r) * p.d0.z + head) * p.d1.x + col];
}

fn load_left_dout(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * TILE; i = i + THREADS) {
        left[i / TILE * PITCH + i % TILE] = dout(row, first, head, chunk, i / TILE, i % TILE);
    }
}

fn load_right_dout(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * TILE; i = i + THREADS) {
        right[i / TILE * PITCH + i % TILE] = dout(row, first, head, chunk, i / TILE, i % TILE);
    }
}

struct Slopes {
    weights: mat4x4<f32>,
    scores: mat4x4<f32>,
}

// A thread's part of a tile: the weights, and the gradient of the scores. qkv b0, lse b1, dout b2, deltas b3.
fn slopes(t: u32, row: u32, query: u32, key: u32, head: u32, key_head: u32) -> Slopes {
    var s = mat4x4<f32>();
    var d = mat4x4<f32>();
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        workgroupBarrier();
        load_left(t, row, query, head, chunk);
        load_right(t, row, key, key_head, chunk);
        workgroupBarrier();
        s = multiply(t, s);
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        workgroupBarrier();
        load_left_dout(t, row, query, head, chunk);
        load_right(t, row, key, key_head + p.d0.w, chunk);
        workgroupBarrier();
        d = multiply(t, d);
    }
    for (var i = 0u; i < 4u; i = i + 1u) {
        let q = query + t / 8u * 4u + i;
        var lse = 0.0;
        var delta = 0.0;
        if q < p.d0.y {
            lse = b1[p.o0.y + (row + q) * p.d0.z + head];
            delta = b3[p.o0.w + (row + q) * p.d0.z + head];
        }
        for (var j = 0u; j < 4u; j = j + 1u) {
            var weight = 0.0;
            if sees(q, key + t % 8u * 4u + j) {
                weight = exp(s[i][j] * p.f0.x - lse);
            }
            s[i][j] = weight;
            d[i][j] = weight * (d[i][j] - delta) * p.f0.x;
        }
    }
    return Slopes(s, d);
}

fn put_scores(t: u32, values: mat4x4<f32>) {
    let at = t / 8u * 4u * PITCH + t % 8u * 4u;
    for (var i = 0u; i < 4u; i = i + 1u) {
        for (var j = 0u; j < 4u; j = j + 1u) {
            scores[at + i * PITCH + j] = values[i][j];
        }
    }
}

// Writes a thread's part of a tile's gradient of a packed head. dqkv b4.
fn put(t: u32, row: u32, first: u32, head: u32, chunk: u32, values: mat4x4<f32>) {
    for (var i = 0u; i < 4u; i = i + 1u) {
        let token = first + t / 8u * 4u + i;
        for (var j = 0u; j < 4u; j = j + 1u) {
            let c = chunk * TILE + t % 8u * 4u + j;
            if token < p.d0.y && c < p.d1.x {
                b4[p.o1.x + (row + token) * packed_width() + head * p.d1.x + c] = values[i][j];
            }
        }
    }
}

// A workgroup a tile of queries of a head.
@compute @workgroup_size(64)
fn attention_dq(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    if g >= p.d0.x * p.d0.z * p.d1.z {
        return;
    }
    let at = place(g, p.d0.z);
    let key_head = p.d0.z + at.head / (p.d0.z / p.d0.w);
    var dq: array<mat4x4<f32>, 8>;
    for (var key = 0u; key < visible(at.first); key = key + TILE) {
        let s = slopes(t, at.row, at.first, key, at.head, key_head);
        put_scores(t, s.scores);
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            workgroupBarrier();
            load_right(t, at.row, key, key_head, chunk);
            workgroupBarrier();
            dq[chunk] = weigh(t, dq[chunk]);
        }
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        put(t, at.row, at.first, at.head, chunk, dq[chunk]);
    }
}

// `scoresᵀ · right`, added.
fn weigh_transposed(t: u32, before: mat4x4<f32>) -> mat4x4<f32> {
    let row = t / 8u * 4u;
    let col = t % 8u * 4u;
    var s0 = before[0];
    var s1 = before[1];
    var s2 = before[2];
    var s3 = before[3];
    for (var k = 0u; k < TILE; k = k + 1u) {
        let start = k * PITCH + col;
        let b = vec4<f32>(right[start], right[start + 1u], right[start + 2u], right[start + 3u]);
        let a = k * PITCH + row;
        s0 = fma(vec4<f32>(scores[a]), b, s0);
        s1 = fma(vec4<f32>(scores[a + 1u]), b, s1);
        s2 = fma(vec4<f32>(scores[a + 2u]), b, s2);
        s3 = fma(vec4<f32>(scores[a + 3u]), b, s3);
    }
    return mat4x4<f32>(s0, s1, s2, s3);
}

// A workgroup a tile of keys of a key/value head, with all query heads that share it, in order.
@compute @workgroup_size(64)
fn attention_dkv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    if g >= p.d0.x * p.d0.w * p.d1.z {
        return;
    }
    let at = place(g, p.d0.w);
    let share = p.d0.z / p.d0.w;
    let key_head = p.d0.z + at.head;
    var dk: array<mat4x4<f32>, 8>;
    var dv: array<mat4x4<f32>, 8>;
    for (var head = at.head * share; head < (at.head + 1u) * share; head = head + 1u) {
        for (var query = select(0u, at.first, p.d1.y == 1u); query < p.d0.y; query = query + TILE) {
            let s = slopes(t, at.row, query, at.first, head, key_head);
            put_scores(t, s.weights);
            for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
                workgroupBarrier();
                load_right_dout(t, at.row, query, head, chunk);
                workgroupBarrier();
                dv[chunk] = weigh_transposed(t, dv[chunk]);
            }
            workgroupBarrier();
            put_scores(t, s.scores);
            for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
                workgroupBarrier();
                load_right(t, at.row, query, head, chunk);
                workgroupBarrier();
                dk[chunk] = weigh_transposed(t, dk[chunk]);
            }
        }
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        put(t, at.row, at.first, key_head, chunk, dk[chunk]);
        put(t, at.row, at.first, key_head + p.d0.w, chunk, dv[chunk]);
    }
}
