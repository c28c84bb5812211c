// Attention to blocks of keys and values that several ranks hold, with results that later blocks add to. Scores are never
// kept: a thread goes over the keys of a query twice, or over the queries of a key.
//
// d0: sequences, queries a sequence, keys a sequence and block, heads; d1: key/value heads, width of a head, width of a row
// of queries, 1 if causal; d2: ranks that share a sequence, this rank, blocks, hop; f0.x: 1/√width.

fn owner(block: u32) -> u32 {
    return select((p.d2.y + p.d2.x - p.d2.w) % p.d2.x, block, p.d2.z == p.d2.x);
}

fn sees(query: u32, block: u32, key: u32) -> bool {
    let at = position(query, p.d0.y, p.d2.x, p.d2.y);
    return p.d1.w == 0u || position(key, p.d0.z, p.d2.x, owner(block)) <= at;
}

// The first element of a key's head.
fn key_at(block: u32, sequence: u32, key: u32, head: u32) -> u32 {
    return (((block * p.d0.x + sequence) * p.d0.z + key) * 2u * p.d1.x + head) * p.d1.y;
}

fn score(query: u32, key: u32) -> f32 {
    var sum = 0.0;
    for (var c = 0u; c < p.d1.y; c = c + 1u) {
        sum = fma(get0(p.o0.x + query + c), get1(p.o0.y + key + c), sum);
    }
    return sum * p.f0.x;
}

// q b0, kv b1, out b2, lse b3. A thread a query's head.
@compute @workgroup_size(64)
fn context(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let line = group_index(id, groups) * 64u + t;
    let heads = p.d0.w;
    if line >= p.d0.x * p.d0.y * heads {
        return;
    }
    let row = line / heads;
    let head = line % heads;
    let sequence = row / p.d0.y;
    let query = row * p.d1.z + head * p.d1.y;
    let kv_head = head / (heads / p.d1.x);
    let width = p.d1.y;
    let to = p.o0.z + line * width;
    var greatest = LEAST;
    if p.d2.w > 0u {
        greatest = get3(p.o0.w + line);
    }
    let before = greatest;
    for (var block = 0u; block < p.d2.z; block = block + 1u) {
        for (var key = 0u; key < p.d0.z; key = key + 1u) {
            if sees(row % p.d0.y, block, key) {
                greatest = max(greatest, score(query, key_at(block, sequence, key, kv_head)));
            }
        }
    }
    var total = 0.0;
    if p.d2.w > 0u {
        total = exp(before - greatest);
    }
    for (var c = 0u; c < width; c = c + 1u) {
        put2(to + c, select(0.0, get2(to + c) * total, p.d2.w > 0u));
    }
    for (var block = 0u; block < p.d2.z; block = block + 1u) {
        for (var key = 0u; key < p.d0.z; key = key + 1u) {
            if sees(row % p.d0.y, block, key) {
                let source = key_at(block, sequence, key, kv_head);
                let weight = exp(score(query, source) - greatest);
                total = total + weight;
                let value = p.o0.y + source + p.d1.x * width;
                for (var c = 0u; c < width; c = c + 1u) {
                    put2(to + c, fma(weight, get1(value + c), get2(to + c)));
                }
            }
        }
    }
    for (var c = 0u; c < width; c = c + 1u) {
        put2(to + c, get2(to + c) / total);
    }
    put3(p.o0.w + line, greatest + log(total));
}

// out b0, dout b1, deltas b2. d0: lines, width of a head. A thread a line.
@compute @workgroup_size(64)
fn context_deltas(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let line = group_index(id, groups) * 64u + t;
    if line >= p.d0.x {
        return;
    }
    var sum = 0.0;
    for (var i = line * p.d0.y; i < (line + 1u) * p.d0.y; i = i + 1u) {
        sum = fma(get0(p.o0.x + i), get1(p.o0.y + i), sum);
    }
    put2(p.o0.z + line, sum);
}

// What a pair's weight and its score's gradient are. lse b2, dout b3, deltas b4.
fn pair(query: u32, key: u32, line: u32) -> vec2<f32> {
    let weight = exp(score(query, key) - get2(p.o0.z + line));
    let value = p.o0.y + key + p.d1.x * p.d1.y;
    var sum = 0.0;
    for (var c = 0u; c < p.d1.y; c = c + 1u) {
        sum = fma(get3(p.o0.w + line * p.d1.y + c), get1(value + c), sum);
    }
    return vec2<f32>(weight, weight * (sum - get4(p.o1.x + line)) * p.f0.x);
}

// q b0, kv b1, lse b2, dout b3, deltas b4, dq b5. A thread a query's head.
@compute @workgroup_size(64)
fn context_dq(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let line = group_index(id, groups) * 64u + t;
    let heads = p.d0.w;
    if line >= p.d0.x * p.d0.y * heads {
        return;
    }
    let row = line / heads;
    let head = line % heads;
    let query = row * p.d1.z + head * p.d1.y;
    for (var block = 0u; block < p.d2.z; block = block + 1u) {
        for (var key = 0u; key < p.d0.z; key = key + 1u) {
            if sees(row % p.d0.y, block, key) {
                let source = key_at(block, row / p.d0.y, key, head / (heads / p.d1.x));
                let d = pair(query, source, line).y;
                for (var c = 0u; c < p.d1.y; c = c + 1u) {
                    put5(p.o1.y + query + c, fma(d, get1(p.o0.y + source + c), get5(p.o1.y + query + c)));
                }
            }
        }
    }
}

// q b0, kv b1, lse b2, dout b3, deltas b4, dkv b5, all zeros. A thread a key's head.
@compute @workgroup_size(64)
fn context_dkv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let line = group_index(id, groups) * 64u + t;
    let kv_heads = p.d1.x;
    if line >= p.d2.z * p.d0.x * p.d0.z * kv_heads {
        return;
    }
    let kv_head = line % kv_heads;
    let key = line / kv_heads % p.d0.z;
    let sequence = line / kv_heads / p.d0.z % p.d0.x;
    let block = line / kv_heads / p.d0.z / p.d0.x;
    let group = p.d0.w / kv_heads;
    let source = key_at(block, sequence, key, kv_head);
    let value = source + kv_heads * p.d1.y;
    for (var token = 0u; token < p.d0.y; token = token + 1u) {
        if sees(token, block, key) {
            for (var i = 0u; i < group; i = i + 1u) {
                let row = sequence * p.d0.y + token;
                let head = kv_head * group + i;
                let query = row * p.d1.z + head * p.d1.y;
                let of_query = row * p.d0.w + head;
                let d = pair(query, source, of_query);
                for (var c = 0u; c < p.d1.y; c = c + 1u) {
                    put5(p.o1.y + source + c, fma(d.y, get0(p.o0.x + query + c), get5(p.o1.y + source + c)));
                    put5(p.o1.y + value + c, fma(d.x, get3(p.o0.w + of_query * p.d1.y + c), get5(p.o1.y + value + c)));
                }
            }
        }
    }
}
