// Packed rows of latent attention, and their gradient.
//
// d0: elements of q, tokens a sequence, heads, width without positions; d1: rotary width, width of values, ranks that share
// a sequence, this rank.

// A rotary part's column `i` of a token, turned by the table, or back: sign is 1 or -1.
fn turned(low: f32, high: f32, is_high: bool, c: f32, s: f32) -> f32 {
    return select(low * c - high * s, high * c + low * s, is_high);
}

// q b0, kv b1, k_rope b2, qkv b3, table b4: `[positions, 2, half]`. A thread an element of q.
@compute @workgroup_size(256)
fn latent_pack(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let heads = p.d0.z;
    let nope = p.d0.w;
    let rope = p.d1.x;
    let value = p.d1.y;
    let width = nope + rope;
    let c = i % width;
    let line = i / width;
    let row = line / heads;
    let to = p.o0.w + (3u * row * heads + line % heads) * width + c;
    let keys = to + heads * width;
    if c < nope {
        put3(to, get0(p.o0.x + i));
        put3(keys, get1(p.o0.y + line * (nope + value) + c));
    } else {
        let half = rope / 2u;
        let at = c - nope;
        let low = at % half;
        let turn = p.o1.x + position(row % p.d0.y, p.d0.y, p.d1.z, p.d1.w) * rope + low;
        let cosine = get4(turn);
        let sine = get4(turn + half);
        let q = p.o0.x + line * width + nope + low;
        put3(to, turned(get0(q), get0(q + half), at >= half, cosine, sine));
        let k = p.o0.z + row * rope + low;
        put3(keys, turned(get2(k), get2(k + half), at >= half, cosine, sine));
    }
    var v = 0.0;
    if c < value {
        v = get1(p.o0.y + line * (nope + value) + nope + c);
    }
    put3(keys + heads * width, v);
}

// dqkv b0, dq b1, dkv b2, dk_rope b3, table b4. A thread an element of dq; those of a token's first head add up all heads'
// rotary keys.
@compute @workgroup_size(256)
fn latent_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let heads = p.d0.z;
    let nope = p.d0.w;
    let rope = p.d1.x;
    let value = p.d1.y;
    let width = nope + rope;
    let c = i % width;
    let line = i / width;
    let row = line / heads;
    let head = line % heads;
    let source = p.o0.x + (3u * row * heads + head) * width;
    let keys = source + heads * width;
    if c < nope {
        put1(p.o0.y + i, get0(source + c));
        put2(p.o0.z + line * (nope + value) + c, get0(keys + c));
    } else {
        let half = rope / 2u;
        let at = c - nope;
        let low = nope + at % half;
        let turn = p.o1.x + position(row % p.d0.y, p.d0.y, p.d1.z, p.d1.w) * rope + at % half;
        let cosine = get4(turn);
        let sine = -get4(turn + half);
        put1(p.o0.y + i, turned(get0(source + low), get0(source + low + half), at >= half, cosine, sine));
        if head == 0u {
            var sum = 0.0;
            for (var h = 0u; h < heads; h = h + 1u) {
                let k = keys + h * width + low;
                sum = sum + turned(get0(k), get0(k + half), at >= half, cosine, sine);
            }
            put3(p.o0.w + row * rope + at, sum);
        }
    }
    if c < value {
        put2(p.o0.z + line * (nope + value) + nope + c, get0(keys + heads * width + c));
    }
}
