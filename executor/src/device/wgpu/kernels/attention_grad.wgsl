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
        sum = sum + get0(p.o0.x + i * p.d1.x + c) * get1(p.o0.y + i * p.d1.x + c);
    }
    put2(p.o0.z + i, sum);
}

// Element of dout, b2, as `packed`.
fn dout(row: u32, token: u32, head: u32, col: u32) -> f32 {
    if token >= p.d0.y || col >= p.d1.x {
        return 0.0;
    }
    return get2(p.o0.z + ((row + token) * p.d0.z + head) * p.d1.x + col);
}

// As `load_left` and `load_tokens`, of dout.
fn load_left_dout(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * FOURS; i = i + THREADS) {
        let token = first + i / TILE * 4u;
        let col = chunk * TILE + i % TILE;
        left[i % TILE * PITCH + i / TILE] = vec4<f32>(dout(row, token, head, col), dout(row, token + 1u, head, col), dout(row, token + 2u, head, col), dout(row, token + 3u, head, col));
    }
}

fn load_tokens_dout(t: u32, row: u32, first: u32, head: u32, chunk: u32) {
    for (var i = t; i < TILE * FOURS; i = i + THREADS) {
        let token = first + i / FOURS;
        let col = chunk * TILE + i % FOURS * 4u;
        right[i / FOURS * PITCH + i % FOURS] = vec4<f32>(dout(row, token, head, col), dout(row, token, head, col + 1u), dout(row, token, head, col + 2u), dout(row, token, head, col + 3u));
    }
}

struct Slopes {
    weights: mat4x4<f32>,
    scores: mat4x4<f32>,
}

// lse and delta of a query, b1 and b3; zero outside.
fn of_query(row: u32, query: u32, head: u32) -> vec2<f32> {
    if query >= p.d0.y {
        return vec2<f32>();
    }
    let i = (row + query) * p.d0.z + head;
    return vec2<f32>(get1(p.o0.y + i), get3(p.o0.w + i));
}

fn weights(s: vec4<f32>, query: u32, key: u32, lse: f32) -> vec4<f32> {
    return select(vec4<f32>(), exp(s * p.f0.x - lse), seen(query, key));
}

// A thread's part of a tile: the weights, and the gradient of the scores. qkv b0, lse b1, dout b2, deltas b3.
fn slopes(t: u32, row: u32, first_query: u32, first_key: u32, head: u32, key_head: u32) -> Slopes {
    var s = mat4x4<f32>();
    var d = mat4x4<f32>();
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        workgroupBarrier();
        load_left(t, row, first_query, head, chunk);
        load_right(t, row, first_key, key_head, chunk);
        workgroupBarrier();
        s = multiply(t, s);
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        workgroupBarrier();
        load_left_dout(t, row, first_query, head, chunk);
        load_right(t, row, first_key, key_head + p.d0.w, chunk);
        workgroupBarrier();
        d = multiply(t, d);
    }
    let query = first_query + t / FOURS * 4u;
    let key = first_key + t % FOURS * 4u;
    let q0 = of_query(row, query, head);
    let q1 = of_query(row, query + 1u, head);
    let q2 = of_query(row, query + 2u, head);
    let q3 = of_query(row, query + 3u, head);
    let w0 = weights(s[0], query, key, q0.x);
    let w1 = weights(s[1], query + 1u, key, q1.x);
    let w2 = weights(s[2], query + 2u, key, q2.x);
    let w3 = weights(s[3], query + 3u, key, q3.x);
    let ds = mat4x4<f32>(w0 * (d[0] - q0.y), w1 * (d[1] - q1.y), w2 * (d[2] - q2.y), w3 * (d[3] - q3.y));
    return Slopes(mat4x4<f32>(w0, w1, w2, w3), ds * p.f0.x);
}

// Writes a thread's part of a tile's gradient of a packed head. dqkv b4.
fn put(t: u32, row: u32, first: u32, head: u32, chunk: u32, values: mat4x4<f32>) {
    let token = first + t / FOURS * 4u;
    let col = chunk * TILE + t % FOURS * 4u;
    put_row(row, token, head, col, values[0]);
    put_row(row, token + 1u, head, col, values[1]);
    put_row(row, token + 2u, head, col, values[2]);
    put_row(row, token + 3u, head, col, values[3]);
}

fn put_row(row: u32, token: u32, head: u32, col: u32, values: vec4<f32>) {
    let to = p.o1.x + (row + token) * packed_width() + head * p.d1.x + col;
    for (var i = 0u; i < 4u; i = i + 1u) {
        if token < p.d0.y && col + i < p.d1.x {
            put4(to + i, values[i]);
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
        put_by_keys(t, s.scores);
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            workgroupBarrier();
            load_tokens(t, at.row, key, key_head, chunk);
            workgroupBarrier();
            dq[chunk] = weigh(t, dq[chunk]);
        }
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        put(t, at.row, at.first, at.head, chunk, dq[chunk]);
    }
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
            put_by_queries(t, s.weights);
            for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
                workgroupBarrier();
                load_tokens_dout(t, at.row, query, head, chunk);
                workgroupBarrier();
                dv[chunk] = weigh(t, dv[chunk]);
            }
            workgroupBarrier();
            put_by_queries(t, s.scores);
            for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
                workgroupBarrier();
                load_tokens(t, at.row, query, head, chunk);
                workgroupBarrier();
                dk[chunk] = weigh(t, dk[chunk]);
            }
        }
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        put(t, at.row, at.first, key_head, chunk, dk[chunk]);
        put(t, at.row, at.first, key_head + p.d0.w, chunk, dv[chunk]);
    }
}
