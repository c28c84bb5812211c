// What all kernels share: parameters, arguments. Before it stand sums and maxima over a workgroup, of `sums.wgsl`, or of
// `sums_subgroups.wgsl` where the adapter has subgroups.
//
// Arguments are read and written through `get0(i), put0(i, x) ..`, which `elements.rs` writes for the elements that they have;
// kernels compute in f32 whatever those are.
//
// Arguments are bound in windows of their buffers; `p.o0` and `p.o1` say where each begins in its window, in elements.
// `p.d0 ..` are the op's dims and `p.f0 ..` its numbers, as `ops.rs` puts them there. A grid of more workgroups than a
// dimension may have is folded in two; surplus workgroups end at once.

struct Params {
    o0: vec4<u32>,
    o1: vec4<u32>,
    d0: vec4<u32>,
    d1: vec4<u32>,
    d2: vec4<u32>,
    d3: vec4<u32>,
    f0: vec4<f32>,
    f1: vec4<f32>,
}

var<immediate> p: Params;

// Token ids are bits, which a load as floats might change.
@group(0) @binding(0) var<storage, read_write> ids0: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids1: array<u32>;

const NO_ID = 0xffffffffu;
const LEAST = -3.0e38;

// The place in its sequence of a token of which rank `rank` of `cp` holds the `at`-th of `seq`: a part from each end.
fn position(at: u32, seq: u32, cp: u32, rank: u32) -> u32 {
    let half = seq / 2u;
    if cp == 1u {
        return at;
    }
    return select((2u * cp - 1u - rank) * half + at - half, rank * half + at, at < half);
}

fn group_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.y * groups.x + id.x;
}
