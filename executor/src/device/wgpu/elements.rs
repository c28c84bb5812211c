//! Elements of arguments, as kernels see them: f32, however they are stored.
//!
//! In: which elements the arguments of a kernel have, and which arguments it writes. Out: WGSL.
//!
//! Where the adapter has words of 16 bits, halves are such. Else two of them share a word, and threads that write neighbours
//! change their halves by atomic operations; each half has one writer, so the order makes no difference. This needs nothing
//! of the adapter that WGSL does not promise.
//!
//! Invariant: halves are rounded to nearest even, also those that are subnormal in fp16; what is too large is infinite.

use std::fmt::Write;

use meshwright_hardware::program::Elem;

use super::adapters::BINDINGS;

/// Conversions of halves, by bits: WGSL leaves open what its own make of infinities and subnormal numbers.
const CONVERSIONS: &str = "
fn of_bf16(half: u32) -> f32 {
    return bitcast<f32>(half << 16u);
}

fn to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn of_f16(half: u32) -> f32 {
    let sign = (half & 0x8000u) << 16u;
    let rest = (half & 0x7fffu) << 13u;
    let subnormal = bitcast<u32>(f32(half & 0x3ffu) * 5.9604644775390625e-8);
    var magnitude = rest + (112u << 23u);
    magnitude = select(magnitude, rest | 0x7f800000u, rest >= 0x0f800000u);
    magnitude = select(magnitude, subnormal, rest < (1u << 23u));
    return bitcast<f32>(sign | magnitude);
}

fn to_f16(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 16u) & 0x8000u;
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    // Below 2^-14 the sum with 0.5 has its last place where subnormal ones have theirs, and rounds there.
    let tiny = bitcast<u32>(bitcast<f32>(bits) + 0.5) - 0x3f000000u;
    var half = (bits - (112u << 23u) + 0xfffu + ((bits >> 13u) & 1u)) >> 13u;
    half = select(half, tiny, bits < (113u << 23u));
    half = select(half, 0x7c00u, bits >= 0x477ff000u);
    half = select(half, 0x7e00u, bits > 0x7f800000u);
    return sign | half;
}
";

/// Bindings and `get0(i)`, `put0(i, x)` .. for arguments of these elements, of which some are written. Others cannot be:
/// their `put` does nothing, so that modules compile. `short` says whether there are words of 16 bits.
pub(super) fn accessors(elems: &[Elem], writes: &[usize], short: bool) -> String {
    let mut text = String::from(CONVERSIONS);
    for n in 0..BINDINGS as usize {
        let elem = elems.get(n).copied().unwrap_or(Elem::F32);
        let format = match elem {
            Elem::F32 | Elem::U32 => None,
            Elem::F8 => unreachable!("no program of eight bits is run"),
            Elem::Bf16 => Some("bf16"),
            Elem::F16 => Some("f16"),
        };
        let code = match (format, writes.contains(&n)) {
            (None, _) => format!(
                "@group(0) @binding({n}) var<storage, read_write> b{n}: array<f32>;
                fn get{n}(i: u32) -> f32 {{ return b{n}[i]; }}
                fn put{n}(i: u32, x: f32) {{ b{n}[i] = x; }}"
            ),
            (Some(format), _) if short => format!(
                "@group(0) @binding({n}) var<storage, read_write> b{n}: array<u16>;
                fn get{n}(i: u32) -> f32 {{ return of_{format}(u32(b{n}[i])); }}
                fn put{n}(i: u32, x: f32) {{ b{n}[i] = u16(to_{format}(x)); }}"
            ),
            (Some(format), false) => format!(
                "@group(0) @binding({n}) var<storage, read_write> b{n}: array<u32>;
                fn get{n}(i: u32) -> f32 {{ return of_{format}((b{n}[i / 2u] >> (16u * (i & 1u))) & 0xffffu); }}
                fn put{n}(i: u32, x: f32) {{ }}"
            ),
            (Some(format), true) => format!(
                "@group(0) @binding({n}) var<storage, read_write> b{n}: array<atomic<u32>>;
                fn get{n}(i: u32) -> f32 {{
                    return of_{format}((atomicLoad(&b{n}[i / 2u]) >> (16u * (i & 1u))) & 0xffffu);
                }}
                fn put{n}(i: u32, x: f32) {{
                    let shift = 16u * (i & 1u);
                    atomicAnd(&b{n}[i / 2u], ~(0xffffu << shift));
                    atomicOr(&b{n}[i / 2u], to_{format}(x) << shift);
                }}"
            ),
        };
        writeln!(text, "{code}").expect("a string takes all text");
    }
    text
}
