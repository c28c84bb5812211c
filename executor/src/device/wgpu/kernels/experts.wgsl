// Mixtures of experts: routing, dispatch and combination, forward and backward. Slots are bits, so they are bound as ids.

// The likeliest of a row's experts but for those before: the ones above `prob`, and of its equals those up to `expert`.
// Probabilities are compared as bits, which are in the order of the numbers.
fn next_best(row: u32, experts: u32, prob: u32, expert: u32) -> u32 {
    var best = NO_ID;
    var most = 0u;
    for (var e = 0u; e < experts; e = e + 1u) {
        let own = bitcast<u32>(get1(p.o0.y + row * experts + e));
        let left = own < prob || (own == prob && e > expert);
        if left && (best == NO_ID || own > most) {
            best = e;
            most = own;
        }
    }
    return best;
}

// logits b0, probs b1, shares b2. d0: rows, experts, choices a row. A thread a row.
@compute @workgroup_size(256)
fn route(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups) * WIDTH + t;
    if row >= p.d0.x {
        return;
    }
    let experts = p.d0.y;
    var greatest = LEAST;
    for (var e = 0u; e < experts; e = e + 1u) {
        greatest = max(greatest, get0(p.o0.x + row * experts + e));
    }
    var sum = 0.0;
    for (var e = 0u; e < experts; e = e + 1u) {
        sum = sum + exp(get0(p.o0.x + row * experts + e) - greatest);
    }
    for (var e = 0u; e < experts; e = e + 1u) {
        put1(p.o0.y + row * experts + e, exp(get0(p.o0.x + row * experts + e) - greatest) / sum);
    }
    var chosen = 0.0;
    var last = NO_ID;
    var expert = 0u;
    for (var i = 0u; i < p.d0.z; i = i + 1u) {
        expert = next_best(row, experts, last, expert);
        let prob = get1(p.o0.y + row * experts + expert);
        last = bitcast<u32>(prob);
        put2(p.o0.z + row * p.d0.z + i, prob);
        chosen = chosen + prob;
    }
    if p.d0.z > 1u {
        for (var i = 0u; i < p.d0.z; i = i + 1u) {
            put2(p.o0.z + row * p.d0.z + i, get2(p.o0.z + row * p.d0.z + i) / chosen);
        }
    }
}

// chosen b0 (bits), probs b1. d0: rows, experts, choices a row. A thread a row: the experts of its choices.
@compute @workgroup_size(256)
fn choices(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups) * WIDTH + t;
    if row >= p.d0.x {
        return;
    }
    var last = NO_ID;
    var expert = 0u;
    for (var i = 0u; i < p.d0.z; i = i + 1u) {
        expert = next_best(row, p.d0.y, last, expert);
        last = bitcast<u32>(get1(p.o0.y + row * p.d0.y + expert));
        ids0[p.o0.x + row * p.d0.z + i] = expert;
    }
}

// chosen b0 (bits), slots b1 (bits). d0: choices in all, experts, capacity. A thread an expert: tokens take slots in order.
@compute @workgroup_size(256)
fn take_slots(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let expert = group_index(id, groups) * WIDTH + t;
    if expert >= p.d0.y {
        return;
    }
    var taken = 0u;
    for (var i = 0u; i < p.d0.x; i = i + 1u) {
        if ids0[p.o0.x + i] == expert {
            ids1[p.o0.y + i] = select(NO_ID, expert * p.d0.z + taken, taken < p.d0.z);
            taken = taken + 1u;
        }
    }
}

// chosen b0 (bits), pull b1. d0: choices in all, experts; f0.x: scale. A thread an expert: how often it was chosen.
@compute @workgroup_size(256)
fn pulls(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let expert = group_index(id, groups) * WIDTH + t;
    if expert >= p.d0.y {
        return;
    }
    var count = 0.0;
    for (var i = 0u; i < p.d0.x; i = i + 1u) {
        count = count + f32(ids0[p.o0.x + i] == expert);
    }
    put1(p.o0.y + expert, count * p.f0.x);
}

// chosen b0 (bits), probs b1, dshares b2, dlogits b3, pull b4. d0: rows, experts, choices a row. A thread a row.
@compute @workgroup_size(256)
fn route_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups) * WIDTH + t;
    if row >= p.d0.x {
        return;
    }
    let experts = p.d0.y;
    let top = p.d0.z;
    var sum = 1.0;
    if top > 1u {
        sum = 0.0;
        for (var i = 0u; i < top; i = i + 1u) {
            sum = sum + get1(p.o0.y + row * experts + ids0[p.o0.x + row * top + i]);
        }
    }
    var mean = 0.0;
    for (var i = 0u; i < top; i = i + 1u) {
        let prob = get1(p.o0.y + row * experts + ids0[p.o0.x + row * top + i]);
        mean = mean + prob / sum * get2(p.o0.z + row * top + i);
    }
    for (var e = 0u; e < experts; e = e + 1u) {
        put3(p.o0.w + row * experts + e, get4(p.o1.x + e));
    }
    for (var i = 0u; i < top; i = i + 1u) {
        let to = p.o0.w + row * experts + ids0[p.o0.x + row * top + i];
        let d = get2(p.o0.z + row * top + i);
        put3(to, get3(to) + select(d, (d - mean) / sum, top > 1u));
    }
    var inner = 0.0;
    for (var e = 0u; e < experts; e = e + 1u) {
        inner = inner + get1(p.o0.y + row * experts + e) * get3(p.o0.w + row * experts + e);
    }
    for (var e = 0u; e < experts; e = e + 1u) {
        let to = p.o0.w + row * experts + e;
        put3(to, get1(p.o0.y + row * experts + e) * (get3(to) - inner));
    }
}

// slots b0 (bits), x b1, out b2. d0: elements over all choices, columns, choices a row. A thread an element.
@compute @workgroup_size(256)
fn dispatch(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let choice = i / p.d0.y;
    let slot = ids0[p.o0.x + choice];
    if slot != NO_ID {
        put2(p.o0.z + slot * p.d0.y + i % p.d0.y, get1(p.o0.y + choice / p.d0.z * p.d0.y + i % p.d0.y));
    }
}

// slots b0 (bits), dout b1, dx b2. d0: elements of dx, columns, choices a row, 1 to add to dx. A thread an element.
@compute @workgroup_size(256)
fn dispatch_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    var sum = 0.0;
    if p.d0.w == 1u {
        sum = get2(p.o0.z + i);
    }
    for (var j = 0u; j < p.d0.z; j = j + 1u) {
        let slot = ids0[p.o0.x + i / p.d0.y * p.d0.z + j];
        if slot != NO_ID {
            sum = sum + get1(p.o0.y + slot * p.d0.y + i % p.d0.y);
        }
    }
    put2(p.o0.z + i, sum);
}

// slots b0 (bits), y b1, shares b2, out b3. d0: elements of out, columns, choices a row. A thread an element.
@compute @workgroup_size(256)
fn combine(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    var sum = 0.0;
    for (var j = 0u; j < p.d0.z; j = j + 1u) {
        let choice = i / p.d0.y * p.d0.z + j;
        let slot = ids0[p.o0.x + choice];
        if slot != NO_ID {
            sum = sum + get2(p.o0.z + choice) * get1(p.o0.y + slot * p.d0.y + i % p.d0.y);
        }
    }
    put3(p.o0.w + i, sum);
}

// slots b0 (bits), shares b1, dout b2, dy b3. d0: elements over all choices, columns, choices a row. A thread an element.
@compute @workgroup_size(256)
fn combine_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let choice = i / p.d0.y;
    let slot = ids0[p.o0.x + choice];
    if slot != NO_ID {
        let d = get2(p.o0.z + choice / p.d0.z * p.d0.y + i % p.d0.y);
        put3(p.o0.w + slot * p.d0.y + i % p.d0.y, get1(p.o0.y + choice) * d);
    }
}

// slots b0 (bits), y b1, dout b2, dshares b3. d0: choices in all, columns, choices a row. A workgroup a choice.
@compute @workgroup_size(256)
fn shares_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let choice = group_index(id, groups);
    if choice >= p.d0.x {
        return;
    }
    let slot = ids0[p.o0.x + choice];
    var mine = 0.0;
    if slot != NO_ID {
        for (var c = t; c < p.d0.y; c = c + WIDTH) {
            mine = mine + get1(p.o0.y + slot * p.d0.y + c) * get2(p.o0.z + choice / p.d0.z * p.d0.y + c);
        }
    }
    let sum = sum_all(t, mine);
    if t == 0u {
        put3(p.o0.w + choice, sum);
    }
}
