// The gradient's norm and AdamW.

// g b0, partial sums b1. d0: elements, elements that count whole, elements a workgroup; f0.x: what the others count.
@compute @workgroup_size(256)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    let first = g * p.d0.z;
    if first >= p.d0.x {
        return;
    }
    var mine = 0.0;
    var shared_sum = 0.0;
    for (var i = first + t; i < min(first + p.d0.z, p.d0.x); i = i + WIDTH) {
        let x = get0(p.o0.x + i);
        if i < p.d0.y {
            mine = mine + x * x;
        } else {
            shared_sum = shared_sum + x * x;
        }
    }
    let sum = sum_all(t, mine + shared_sum * p.f0.x);
    if t == 0u {
        put1(p.o0.y + g, sum);
    }
}

// norm b0, g b1, w b2, m b3, v b4, master b5 where `p.d0.z` is 1. d0: elements, of these decayed, 1 with a master.
// f0: one over the gradients' scale, clip, β₁, β₂; f1: −lr/bias1, 1/√bias2, eps, 1 − lr·decay. A norm that is not finite
// updates nothing.
@compute @workgroup_size(256)
fn adamw(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = group_index(id, groups) * WIDTH + t;
    let squared = get0(p.o0.x);
    // By its bits: a compiler may take it that floats are finite.
    if i >= p.d0.x || (bitcast<u32>(squared) & 0x7f800000u) == 0x7f800000u {
        return;
    }
    var shrink = p.f0.x;
    if p.f0.y > 0.0 {
        shrink = shrink * min(p.f0.y / (sqrt(squared) * p.f0.x + 1e-6), 1.0);
    }
    let g = get1(p.o0.y + i) * shrink;
    let m = p.f0.z * get3(p.o0.w + i) + (1.0 - p.f0.z) * g;
    let v = p.f0.w * get4(p.o1.x + i) + (1.0 - p.f0.w) * g * g;
    put3(p.o0.w + i, m);
    put4(p.o1.x + i, v);
    var w = 0.0;
    if p.d0.z == 1u {
        w = get5(p.o1.y + i);
    } else {
        w = get2(p.o0.z + i);
    }
    let kept = select(1.0, p.f1.w, i < p.d0.y);
    w = w * kept + p.f1.x * m / (sqrt(v) * p.f1.y + p.f1.z);
    put2(p.o0.z + i, w);
    if p.d0.z == 1u {
        put5(p.o1.y + i, w);
    }
}
