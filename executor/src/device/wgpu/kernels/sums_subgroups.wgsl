// Sums and maxima over a workgroup of 256 threads: in each subgroup by its own operation, then over subgroups in order.

const WIDTH = 256u;

// The thread's subgroup, how many there are, and its place in it: every entry point notes them, as `pipeline.rs` has it.
var<private> stand: vec3<u32>;

// One a subgroup.
var<workgroup> lanes: array<f32, 256>;

fn sum_all(t: u32, x: f32) -> f32 {
    let part = subgroupAdd(x);
    if stand.z == 0u {
        lanes[stand.x] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < stand.y; i = i + 1u) {
        total = total + lanes[i];
    }
    workgroupBarrier();
    return total;
}

fn max_all(t: u32, x: f32) -> f32 {
    let part = subgroupMax(x);
    if stand.z == 0u {
        lanes[stand.x] = part;
    }
    workgroupBarrier();
    var greatest = lanes[0];
    for (var i = 1u; i < stand.y; i = i + 1u) {
        greatest = max(greatest, lanes[i]);
    }
    workgroupBarrier();
    return greatest;
}
