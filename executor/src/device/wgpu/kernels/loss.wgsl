// Softmax cross-entropy over a vocabulary that may be split among ranks. A workgroup a row.

// logits b0, targets b1, stats b2: `[3, rows]`. d0: rows, columns, first id, columns that are words.
@compute @workgroup_size(256)
fn loss_stats(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups);
    let rows = p.d0.x;
    let vocab = p.d0.y;
    if row >= rows {
        return;
    }
    let own = p.d0.w;
    let logits = p.o0.x + row * vocab;
    var greatest = LEAST;
    for (var c = t; c < own; c = c + WIDTH) {
        greatest = max(greatest, get0(logits + c));
    }
    greatest = max_all(t, greatest);
    var sum = 0.0;
    for (var c = t; c < own; c = c + WIDTH) {
        sum = sum + exp(get0(logits + c) - greatest);
    }
    sum = sum_all(t, sum);
    if t == 0u {
        let name = ids1[p.o0.y + row];
        var target_logit = 0.0;
        if name != NO_ID && name >= p.d0.z && name - p.d0.z < own {
            target_logit = get0(logits + name - p.d0.z);
        }
        put2(p.o0.z + row, greatest);
        put2(p.o0.z + rows + row, sum);
        put2(p.o0.z + 2u * rows + row, target_logit);
    }
}

// targets b0, stats b1: `[shards, 3, rows]`, logits b2, losses of the rows b3. d0: rows, columns, first id, shards;
// d1.x: columns that are words; f0.x: scale.
@compute @workgroup_size(256)
fn loss(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups);
    let rows = p.d0.x;
    let vocab = p.d0.y;
    if row >= rows {
        return;
    }
    let name = ids0[p.o0.x + row];
    let logits = p.o0.z + row * vocab;
    if name == NO_ID {
        for (var c = t; c < vocab; c = c + WIDTH) {
            put2(logits + c, 0.0);
        }
        if t == 0u {
            put3(p.o0.w + row, 0.0);
        }
        return;
    }
    var greatest = LEAST;
    var target_logit = 0.0;
    for (var shard = 0u; shard < p.d0.w; shard = shard + 1u) {
        greatest = max(greatest, get1(p.o0.y + shard * 3u * rows + row));
        target_logit = target_logit + get1(p.o0.y + (shard * 3u + 2u) * rows + row);
    }
    var sum = 0.0;
    for (var shard = 0u; shard < p.d0.w; shard = shard + 1u) {
        let at = p.o0.y + shard * 3u * rows + row;
        sum = sum + get1(at + rows) * exp(get1(at) - greatest);
    }
    let scale = p.f0.x;
    let own = p.d1.x;
    for (var c = t; c < vocab; c = c + WIDTH) {
        var slope = exp(get2(logits + c) - greatest) * (scale / sum);
        if name >= p.d0.z && name - p.d0.z == c {
            slope = slope - scale;
        }
        put2(logits + c, select(0.0, slope, c < own));
    }
    if t == 0u {
        put3(p.o0.w + row, log(sum) + (greatest - target_logit));
    }
}

// Adds a vector's sum times f0.x to one number. Vector b0, number b1. d0: elements. One workgroup.
@compute @workgroup_size(256)
fn total(@builtin(local_invocation_index) t: u32) {
    var sum = 0.0;
    for (var i = t; i < p.d0.x; i = i + WIDTH) {
        sum = sum + get0(p.o0.x + i);
    }
    sum = sum_all(t, sum);
    if t == 0u {
        put1(p.o0.y, get1(p.o0.y) + sum * p.f0.x);
    }
}
