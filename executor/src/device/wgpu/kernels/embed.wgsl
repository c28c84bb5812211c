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
        b2[p.o0.z + i] = 0.0;
    } else {
        b2[p.o0.z + i] = b1[p.o0.y + row * cols + i % cols];
    }
}

var<workgroup> seen: array<u32, 256>;
var<workgroup> earlier: u32;

// ids b0, dy b1, dtable b2. d0: rows, columns, vocabulary, first id; d1: blocks of columns.
// A workgroup takes a token and a block of columns. If no earlier token has the same id, it adds the rows of this one
// and of all later ones with that id, in order; else another workgroup does.
@compute @workgroup_size(256)
fn embed_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    let rows = p.d0.x;
    let cols = p.d0.y;
    let token = g / p.d1.x;
    if token >= rows {
        return;
    }
    let name = ids0[p.o0.x + token];
    let row = local_row(name, p.d0.w, p.d0.z);
    if row == NO_ID {
        return;
    }
    seen[t] = 0u;
    for (var i = t; i < token; i = i + WIDTH) {
        seen[t] = seen[t] | u32(ids0[p.o0.x + i] == name);
    }
    workgroupBarrier();
    if t == 0u {
        earlier = 0u;
        for (var i = 0u; i < WIDTH; i = i + 1u) {
            earlier = earlier | seen[i];
        }
    }
    if workgroupUniformLoad(&earlier) != 0u {
        return;
    }
    let col = g % p.d1.x * WIDTH + t;
    var sum = 0.0;
    if col < cols {
        sum = b2[p.o0.z + row * cols + col];
    }
    for (var first = token; first < rows; first = first + WIDTH) {
        workgroupBarrier();
        seen[t] = 0u;
        if first + t < rows {
            seen[t] = u32(ids0[p.o0.x + first + t] == name);
        }
        workgroupBarrier();
        for (var i = 0u; i < WIDTH; i = i + 1u) {
            if seen[i] != 0u && col < cols {
                sum = sum + b1[p.o0.y + (first + i) * cols + col];
            }
        }
    }
    if col < cols {
        b2[p.o0.z + row * cols + col] = sum;
    }
}

// table b0, x b1. d0: elements, columns, seq.
@compute @workgroup_size(256)
fn positions(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i < p.d0.x {
        b1[p.o0.y + i] = b1[p.o0.y + i] + b0[p.o0.x + i % (p.d0.y * p.d0.z)];
    }
}

// dy b0, dtable b1. d0: elements of the table, elements of dy.
@compute @workgroup_size(256)
fn positions_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    var sum = b1[p.o0.y + i];
    for (var start = i; start < p.d0.y; start = start + p.d0.x) {
        sum = sum + b0[p.o0.x + start];
    }
    b1[p.o0.y + i] = sum;
}
