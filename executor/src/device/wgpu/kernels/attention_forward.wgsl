// qkv b0, out b1, lse b2. A workgroup a tile of queries of a head. A thread's four queries have their greatest score and
// their sum of weights in its registers, the same in the eight threads that share them.

// What each thread knows of its four queries.
var<workgroup> maxima: array<vec4<f32>, 64>;
var<workgroup> sums: array<vec4<f32>, 64>;

fn greatest(a: vec4<f32>) -> f32 {
    return max(max(a.x, a.y), max(a.z, a.w));
}

fn scored(s: vec4<f32>, query: u32, key: u32) -> vec4<f32> {
    return select(vec4<f32>(LEAST), s * p.f0.x, seen(query, key));
}

// Weights under a greatest score; none where nothing is seen.
fn weights(s: vec4<f32>, most: f32) -> vec4<f32> {
    return select(exp(s - most), vec4<f32>(), s == vec4<f32>(LEAST));
}

@compute @workgroup_size(64)
fn attention(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    if g >= p.d0.x * p.d0.z * p.d1.z {
        return;
    }
    let at = place(g, p.d0.z);
    let key_head = p.d0.z + at.head / (p.d0.z / p.d0.w);
    let query = at.first + t / FOURS * 4u;
    let shared_by = t / FOURS * FOURS;
    var most = vec4<f32>(LEAST);
    var total = vec4<f32>();
    var out: array<mat4x4<f32>, 8>;
    for (var first = 0u; first < visible(at.first); first = first + TILE) {
        var s = mat4x4<f32>();
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            workgroupBarrier();
            load_left(t, at.row, at.first, at.head, chunk);
            load_right(t, at.row, first, key_head, chunk);
            workgroupBarrier();
            s = multiply(t, s);
        }
        let key = first + t % FOURS * 4u;
        s = mat4x4<f32>(scored(s[0], query, key), scored(s[1], query + 1u, key), scored(s[2], query + 2u, key), scored(s[3], query + 3u, key));
        maxima[t] = vec4<f32>(greatest(s[0]), greatest(s[1]), greatest(s[2]), greatest(s[3]));
        workgroupBarrier();
        let before = most;
        for (var i = 0u; i < FOURS; i = i + 1u) {
            most = max(most, maxima[shared_by + i]);
        }
        s = mat4x4<f32>(weights(s[0], most.x), weights(s[1], most.y), weights(s[2], most.z), weights(s[3], most.w));
        sums[t] = transpose(s) * vec4<f32>(1.0);
        put_by_keys(t, s);
        // What was summed before shrinks where a greater score came.
        let kept = select(exp(before - most), vec4<f32>(), before == vec4<f32>(LEAST));
        total = total * kept;
        workgroupBarrier();
        for (var i = 0u; i < FOURS; i = i + 1u) {
            total = total + sums[shared_by + i];
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
            load_tokens(t, at.row, first, key_head + p.d0.w, chunk);
            workgroupBarrier();
            let o = out[chunk];
            out[chunk] = weigh(t, mat4x4<f32>(o[0] * kept.x, o[1] * kept.y, o[2] * kept.z, o[3] * kept.w));
            workgroupBarrier();
        }
    }
    for (var chunk = 0u; chunk < CHUNKS; chunk = chunk + 1u) {
        let o = out[chunk];
        let col = chunk * TILE + t % FOURS * 4u;
        put_row(at, query, col, o[0] / total.x);
        put_row(at, query + 1u, col, o[1] / total.y);
        put_row(at, query + 2u, col, o[2] / total.z);
        put_row(at, query + 3u, col, o[3] / total.w);
    }
    if t % FOURS == 0u {
        let lse = most + log(total);
        for (var i = 0u; i < 4u; i = i + 1u) {
            if query + i < p.d0.y {
                put2(p.o0.z + (at.row + query + i) * p.d0.z + at.head, lse[i]);
            }
        }
    }
}

fn put_row(at: Place, query: u32, col: u32, values: vec4<f32>) {
    let to = p.o0.y + ((at.row + query) * p.d0.z + at.head) * p.d1.x + col;
    for (var i = 0u; i < 4u; i = i + 1u) {
        if query < p.d0.y && col + i < p.d1.x {
            put1(to + i, values[i]);
        }
    }
}
