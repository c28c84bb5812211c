// Embeddings and learned positions, forward and backward.

// The row of this shard's table that an id names; NO_ID where it is another's.
fn local_row(id: u32, first: u32, vocab: u32) -> u32 {
    if id < first || id - first >= vocab {
        return NO_ID;
    }
    return id - first;
}

// ids b0, table b1, out b2. d0: elements, columns, vocabulary, first id.
@compute @workgroup_size(256)
fn embed(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let row = local_row(ids0[p.o0.x + i / cols], p.d0.w, p.d0.z);
    if row == NO_ID {
        put2(p.o0.z + i, 0.0);
    } else {
        put2(p.o0.z + i, get1(p.o0.y + row * cols + i % cols));
    }
}

// Chains tokens of one id. ids b0, links b1: `[2, rows]`, the next token with the same id, or NO_ID; then whether there is
// an earlier one. d0: rows. A thread a token.
@compute @workgroup_size(256)
fn chain(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let token = group_index(id, groups) * WIDTH + t;
    let rows = p.d0.x;
    if token >= rows {
        return;
    }
    let name = ids0[p.o0.x + token];
    var earlier = 0u;
    while earlier < token && ids0[p.o0.x + earlier] != name {
        earlier = earlier + 1u;
    }
    var next = token + 1u;
    while next < rows && ids0[p.o0.x + next] != name {
        next = next + 1u;
    }
    ids1[p.o0.y + token] = select(NO_ID, next, next < rows);
    ids1[p.o0.y + rows + token] = u32(earlier < token);
}

// ids b0, links b1, dy b2, dtable b3. d0: elements of dy, columns, vocabulary, first id; d1: rows. A thread an element:
// that of an id's first token adds those of all later ones, in order.
@compute @workgroup_size(256)
fn embed_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let first = i / cols;
    let row = local_row(ids0[p.o0.x + first], p.d0.w, p.d0.z);
    if row == NO_ID || ids1[p.o0.y + p.d1.x + first] != 0u {
        return;
    }
    let to = p.o0.w + row * cols + i % cols;
    var sum = get3(to);
    for (var token = first; token != NO_ID; token = ids1[p.o0.y + token]) {
        sum = sum + get2(p.o0.z + token * cols + i % cols);
    }
    put3(to, sum);
}

// table b0, x b1. d0: elements, columns, seq, first token; d1: ranks that share a sequence, this rank.
@compute @workgroup_size(256)
fn positions(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let at = position((p.d0.w + i / p.d0.y) % p.d0.z, p.d0.z, p.d1.x, p.d1.y);
    put1(p.o0.y + i, get1(p.o0.y + i) + get0(p.o0.x + at * p.d0.y + i % p.d0.y));
}

// dy b0, dtable b1. d0: rows, columns, seq, first token; d1: ranks that share a sequence, this rank. A thread an
// element of the places of `seq` tokens: tokens of one place are added in order.
@compute @workgroup_size(256)
fn positions_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    let cols = p.d0.y;
    if i >= cols * p.d0.z {
        return;
    }
    // The tokens whose place among `seq` is this one.
    let place = i / cols;
    let to = p.o0.y + position(place, p.d0.z, p.d1.x, p.d1.y) * cols + i % cols;
    var sum = get1(to);
    for (var row = (place + p.d0.z - p.d0.w % p.d0.z) % p.d0.z; row < p.d0.x; row = row + p.d0.z) {
        sum = sum + get0(p.o0.x + row * cols + i % cols);
    }
    put1(to, sum);
}
