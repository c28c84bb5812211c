// One thread an element, `p.d0.x` of them.

// a b0, b b1, out b2, bias b3 where `p.d0.y` (columns) is not 0. Out may be a or b.
@compute @workgroup_size(256)
fn add(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    var sum = get0(p.o0.x + i) + get1(p.o0.y + i);
    if p.d0.y != 0u {
        sum = sum + get3(p.o0.w + i % p.d0.y);
    }
    put2(p.o0.z + i, sum);
}

// x b0.
@compute @workgroup_size(256)
fn zero(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i < p.d0.x {
        put0(p.o0.x + i, 0.0);
    }
}

// src b0, dst b1.
@compute @workgroup_size(256)
fn accumulate(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i < p.d0.x {
        put1(p.o0.y + i, get1(p.o0.y + i) + get0(p.o0.x + i));
    }
}

// src b0, dst b1.
@compute @workgroup_size(256)
fn copy(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i < p.d0.x {
        put1(p.o0.y + i, get0(p.o0.x + i));
    }
}

// Columns of rows b0 to a part b1, or, where d1.x is 1, a part b0 to columns of rows b1. d0: elements of the part, its
// columns, columns of a row, first column.
@compute @workgroup_size(256)
fn columns(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let at = i / p.d0.y * p.d0.z + p.d0.w + i % p.d0.y;
    if p.d1.x == 1u {
        put1(p.o0.y + at, get0(p.o0.x + i));
    } else {
        put1(p.o0.y + i, get0(p.o0.x + at));
    }
}

const TWICE_ROOT = 1.595769;
const CUBIC = 0.044715;

// Infinities are none of WGSL's numbers, so exponents end where σ is 0 or 1 anyway.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -80.0, 80.0)));
}

// GELU's tanh form is u·σ(2z), z = √(2/π)·(u + 0.044715·u³). u b0, out b1.
@compute @workgroup_size(256)
fn gelu(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let x = get0(p.o0.x + i);
    put1(p.o0.y + i, x * sigmoid(x * (TWICE_ROOT + TWICE_ROOT * CUBIC * x * x)));
}

// u b0, dout b1, du b2.
@compute @workgroup_size(256)
fn gelu_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let x = get0(p.o0.x + i);
    let s = sigmoid(x * (TWICE_ROOT + TWICE_ROOT * CUBIC * x * x));
    let inner = TWICE_ROOT + 3.0 * TWICE_ROOT * CUBIC * x * x;
    put2(p.o0.z + i, (s + x * s * (1.0 - s) * inner) * get1(p.o0.y + i));
}

// Rows [gate | up] of 2·`p.d0.y` columns b0, out b1.
@compute @workgroup_size(256)
fn swiglu(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let gate = p.o0.x + i / cols * cols + i;
    let g = get0(gate);
    put1(p.o0.y + i, g * sigmoid(g) * get0(gate + cols));
}

// u b0, dout b1, du b2.
@compute @workgroup_size(256)
fn swiglu_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let gate = i / cols * cols + i;
    let g = get0(p.o0.x + gate);
    let up = get0(p.o0.x + gate + cols);
    let d = get1(p.o0.y + i);
    let s = sigmoid(g);
    put2(p.o0.z + gate, d * up * (s + g * s * (1.0 - s)));
    put2(p.o0.z + gate + cols, d * g * s);
}

// Turns pairs of the first heads of packed rows. x b0, table b1: `[positions, 2, half]`, cosines and sines.
// d0: pairs in all, seq, stride, heads; d1: half a head, ranks that share a sequence, this rank; f0.x: 1, or -1 to turn back.
@compute @workgroup_size(256)
fn rope(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    if i >= p.d0.x {
        return;
    }
    let half = p.d1.x;
    let pair = i % half;
    let head = i / half % p.d0.w;
    let row = i / half / p.d0.w;
    let turn = p.o0.y + position(row % p.d0.y, p.d0.y, p.d1.y, p.d1.z) * 2u * half + pair;
    let c = get1(turn);
    let s = get1(turn + half) * p.f0.x;
    let low = p.o0.x + row * p.d0.z + head * 2u * half + pair;
    let a = get0(low);
    let b = get0(low + half);
    put0(low, a * c - b * s);
    put0(low + half, b * c + a * s);
}
