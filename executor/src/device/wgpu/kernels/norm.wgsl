// LayerNorm and RMSNorm, forward and backward, and sums over rows.

const EPS = 1e-5;

// x b0, gain b1, bias b2 (of LayerNorm), y b3, stats b4. d0: rows, columns, 1 for LayerNorm. A workgroup a row.
@compute @workgroup_size(256)
fn norm(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups);
    if row >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let x = p.o0.x + row * cols;
    var mean = 0.0;
    if p.d0.z == 1u {
        var sum = 0.0;
        for (var c = t; c < cols; c = c + WIDTH) {
            sum = sum + get0(x + c);
        }
        mean = sum_all(t, sum) / f32(cols);
    }
    var squares = 0.0;
    for (var c = t; c < cols; c = c + WIDTH) {
        let d = get0(x + c) - mean;
        squares = squares + d * d;
    }
    let rstd = 1.0 / sqrt(sum_all(t, squares) / f32(cols) + EPS);
    for (var c = t; c < cols; c = c + WIDTH) {
        var y = (get0(x + c) - mean) * rstd * get1(p.o0.y + c);
        if p.d0.z == 1u {
            y = y + get2(p.o0.z + c);
        }
        put3(p.o0.w + row * cols + c, y);
    }
    if t == 0u {
        put4(p.o1.x + 2u * row, mean);
        put4(p.o1.x + 2u * row + 1u, rstd);
    }
}

// x b0, gain b1, stats b2, dy b3, dx b4. d0: rows, columns, 1 for LayerNorm, 1 to add to dx. A workgroup a row.
@compute @workgroup_size(256)
fn norm_grad(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group_index(id, groups);
    if row >= p.d0.x {
        return;
    }
    let cols = p.d0.y;
    let mean = get2(p.o0.z + 2u * row);
    let rstd = get2(p.o0.z + 2u * row + 1u);
    var sum = 0.0;
    var sum_x = 0.0;
    for (var c = t; c < cols; c = c + WIDTH) {
        let g = get3(p.o0.w + row * cols + c) * get1(p.o0.y + c);
        sum = sum + g;
        sum_x = sum_x + g * ((get0(p.o0.x + row * cols + c) - mean) * rstd);
    }
    var mean_g = 0.0;
    if p.d0.z == 1u {
        mean_g = sum_all(t, sum) / f32(cols);
    }
    let mean_gx = sum_all(t, sum_x) / f32(cols);
    for (var c = t; c < cols; c = c + WIDTH) {
        let g = get3(p.o0.w + row * cols + c) * get1(p.o0.y + c);
        let hat = (get0(p.o0.x + row * cols + c) - mean) * rstd;
        var dx = (g - mean_g - hat * mean_gx) * rstd;
        let to = p.o1.x + row * cols + c;
        if p.d0.w == 1u {
            dx = dx + get4(to);
        }
        put4(to, dx);
    }
}

// x b0, stats b1, dy b2, partial sums b3: `[blocks, 2, columns]`, of dy·x̂ and dy. d0: rows, columns, rows a block,
// blocks; d1: blocks of columns. A thread a column of a block.
@compute @workgroup_size(256)
fn norm_sums(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    let block = g / p.d1.x;
    let cols = p.d0.y;
    let c = g % p.d1.x * WIDTH + t;
    if block >= p.d0.w || c >= cols {
        return;
    }
    var gain = 0.0;
    var bias = 0.0;
    for (var row = block * p.d0.z; row < min((block + 1u) * p.d0.z, p.d0.x); row = row + 1u) {
        let dy = get2(p.o0.z + row * cols + c);
        let hat = (get0(p.o0.x + row * cols + c) - get1(p.o0.y + 2u * row)) * get1(p.o0.y + 2u * row + 1u);
        gain = gain + dy * hat;
        bias = bias + dy;
    }
    put3(p.o0.w + block * 2u * cols + c, gain);
    put3(p.o0.w + (block * 2u + 1u) * cols + c, bias);
}

// dy b0, partial sums b1: `[blocks, columns]`. Dims as of `norm_sums`.
@compute @workgroup_size(256)
fn row_sums(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = group_index(id, groups);
    let block = g / p.d1.x;
    let cols = p.d0.y;
    let c = g % p.d1.x * WIDTH + t;
    if block >= p.d0.w || c >= cols {
        return;
    }
    var sum = 0.0;
    for (var row = block * p.d0.z; row < min((block + 1u) * p.d0.z, p.d0.x); row = row + 1u) {
        sum = sum + get0(p.o0.x + row * cols + c);
    }
    put1(p.o0.y + block * cols + c, sum);
}

// Adds blocks of partial sums to a vector, in order. Partial sums b0, vector b1. d0: columns, blocks, elements from
// block to block, where in a block to begin.
@compute @workgroup_size(256)
fn fold(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = group_index(id, groups) * WIDTH + t;
    if c >= p.d0.x {
        return;
    }
    var sum = 0.0;
    for (var block = 0u; block < p.d0.y; block = block + 1u) {
        sum = sum + get0(p.o0.x + block * p.d0.z + p.d0.w + c);
    }
    put1(p.o0.y + c, get1(p.o0.y + c) + sum);
}
