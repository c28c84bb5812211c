// Sums and maxima over a workgroup of 256 threads, by nothing but what WGSL promises.

const WIDTH = 256u;

var<workgroup> lanes: array<f32, 256>;

// The sum of every thread's `x`, by halves: always in the same order.
fn sum_all(t: u32, x: f32) -> f32 {
    lanes[t] = x;
    workgroupBarrier();
    for (var half = WIDTH / 2u; half > 0u; half = half / 2u) {
        if t < half {
            lanes[t] = lanes[t] + lanes[t + half];
        }
        workgroupBarrier();
    }
    let total = lanes[0];
    workgroupBarrier();
    return total;
}

fn max_all(t: u32, x: f32) -> f32 {
    lanes[t] = x;
    workgroupBarrier();
    for (var half = WIDTH / 2u; half > 0u; half = half / 2u) {
        if t < half {
            lanes[t] = max(lanes[t], lanes[t + half]);
        }
        workgroupBarrier();
    }
    let greatest = lanes[0];
    workgroupBarrier();
    return greatest;
}
