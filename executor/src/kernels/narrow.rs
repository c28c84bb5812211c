//! Elements of two bytes: to fp32 and, rounded to nearest even, back.
//!
//! In: bf16 or fp16 as bits, or floats. Out: the other.
//!
//! Invariant: what was widened narrows to the same bits, but for the payload of what is not a number; what is too large for
//! fp16 becomes infinite.

use super::elementwise::GRAIN;
use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};
use std::ops::Range;

/// A format of two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The upper half of an fp32.
    Bf16,
    /// IEEE binary16.
    F16,
}

/// Floats as a buffer holds them.
#[derive(Clone, Copy)]
pub enum Floats<'a> {
    /// fp32.
    Full(&'a [f32]),
    /// Bits of two bytes.
    Half(Half, &'a [u16]),
}

/// Floats that a kernel writes.
pub enum FloatsMut<'a> {
    /// fp32.
    Full(&'a mut [f32]),
    /// Bits of two bytes.
    Half(Half, &'a mut [u16]),
}

impl<'a> Floats<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Floats::Full(floats) => floats.len(),
            Floats::Half(_, bits) => bits.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part.
    pub(super) fn slice(self, at: Range<usize>) -> Floats<'a> {
        match self {
            Floats::Full(floats) => Floats::Full(&floats[at]),
            Floats::Half(half, bits) => Floats::Half(half, &bits[at]),
        }
    }

    /// A part, as it is or widened into the beginning of `space`.
    #[inline]
    pub(super) fn part<'b>(self, at: Range<usize>, space: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Floats::Full(floats) => &floats[at],
            Floats::Half(half, bits) => {
                let space = &mut space[..at.len()];
                widen(half, &bits[at], space);
                space
            }
        }
    }
}

impl FloatsMut<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            FloatsMut::Full(floats) => floats.len(),
            FloatsMut::Half(_, bits) => bits.len(),
        }
    }

    /// A part.
    pub(super) fn slice(&mut self, at: Range<usize>) -> FloatsMut<'_> {
        match self {
            FloatsMut::Full(floats) => FloatsMut::Full(&mut floats[at]),
            FloatsMut::Half(half, bits) => FloatsMut::Half(*half, &mut bits[at]),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Widens on all threads; as many elements on both sides.
pub fn widen_all(team: &Team, half: Half, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let to = Split::new(to);
    // SAFETY: ranges are disjoint.
    team.ranges(from.len(), GRAIN, |range| widen(half, &from[range.clone()], unsafe { to.part(range) }));
}

/// Narrows on all threads; as many elements on both sides.
pub fn narrow_all(team: &Team, half: Half, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    let to = Split::new(to);
    // SAFETY: ranges are disjoint.
    team.ranges(from.len(), GRAIN, |range| narrow(half, &from[range.clone()], unsafe { to.part(range) }));
}

/// `to = from`, of equal length and format, on all threads.
pub fn copy_halves(team: &Team, from: &[u16], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    let to = Split::new(to);
    // SAFETY: ranges are disjoint.
    team.ranges(from.len(), 2 * GRAIN, |range| unsafe { to.part(range.clone()) }.copy_from_slice(&from[range]));
}

/// `x = 0`, on all threads.
pub fn zero_halves(team: &Team, x: &mut [u16]) {
    let (n, x) = (x.len(), Split::new(x));
    // SAFETY: ranges are disjoint.
    team.ranges(n, 2 * GRAIN, |range| unsafe { x.part(range) }.fill(0));
}

/// As fp32.
pub fn widen(half: Half, from: &[u16], to: &mut [f32]) {
    match half {
        Half::Bf16 => widen_bf16(from, to),
        Half::F16 => widen_f16(from, to),
    }
}

/// Rounded to nearest even.
pub fn narrow(half: Half, from: &[f32], to: &mut [u16]) {
    match half {
        Half::Bf16 => narrow_bf16(from, to),
        Half::F16 => narrow_f16(from, to),
    }
}

vectorised! {
    fn widen_bf16(from: &[u16], to: &mut [f32]) = widen_bf16_body;
    fn narrow_bf16(from: &[f32], to: &mut [u16]) = narrow_bf16_body;
    fn widen_f16_soft(from: &[u16], to: &mut [f32]) = widen_f16_body;
    fn narrow_f16_soft(from: &[f32], to: &mut [u16]) = narrow_f16_body;
}

#[inline(always)]
fn widen_bf16_body<L: Lanes>(from: &[u16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = f32::from_bits(u32::from(from) << 16));
}

#[inline(always)]
fn narrow_bf16_body<L: Lanes>(from: &[f32], to: &mut [u16]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = bf16(from));
}

#[inline(always)]
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding must not make what is no number infinite.
    let kept = bits >> 16 | 0x40;
    (if bits << 1 > 0xff00_0000 { kept } else { rounded }) as u16
}

#[inline(always)]
fn widen_f16_body<L: Lanes>(from: &[u16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = full(from));
}

#[inline(always)]
fn narrow_f16_body<L: Lanes>(from: &[f32], to: &mut [u16]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = f16(from));
}

#[inline(always)]
fn full(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    // As an fp32 the number stands with an exponent 112 too low; the product is exact, also of subnormal ones.
    let scaled = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let magnitude = if rest >= 0x0f80_0000 { rest | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(sign | magnitude)
}

#[inline(always)]
fn f16(x: f32) -> u16 {
    let (sign, bits) = ((x.to_bits() >> 16 & 0x8000) as u16, x.to_bits() & 0x7fff_ffff);
    // Below 2^-14 the sum with 0.5 has its last place where fp16's subnormal ones have theirs, and rounds there.
    let tiny = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let usual = bits.wrapping_sub(112 << 23).wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
    let magnitude = if bits > 0x7f80_0000 {
        0x7e00
    } else if bits >= 0x477f_f000 {
        0x7c00
    } else if bits < 113 << 23 {
        tiny
    } else {
        usual
    };
    sign | magnitude as u16
}

/// How many elements an instruction of the processor's own converts, if it has one.
#[cfg(target_arch = "x86_64")]
fn hardware() -> bool {
    is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx")
}

fn widen_f16(from: &[u16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if hardware() {
        #[target_feature(enable = "avx,f16c")]
        fn eights(from: &[[u16; 8]], to: &mut [[f32; 8]]) {
            use std::arch::x86_64::*;
            for (from, to) in from.iter().zip(to) {
                // SAFETY: both arrays are as long as the vectors.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
            }
        }
        let ((from, tail), (to, rest)) = (from.as_chunks(), to.as_chunks_mut());
        // SAFETY: the processor has it.
        unsafe { eights(from, to) };
        return widen_f16_soft(tail, rest);
    }
    widen_f16_soft(from, to);
}

fn narrow_f16(from: &[f32], to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if hardware() {
        #[target_feature(enable = "avx,f16c")]
        fn eights(from: &[[f32; 8]], to: &mut [[u16; 8]]) {
            use std::arch::x86_64::*;
            for (from, to) in from.iter().zip(to) {
                // SAFETY: both arrays are as long as the vectors.
                unsafe {
                    let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
                    _mm_storeu_si128(to.as_mut_ptr().cast(), narrow);
                }
            }
        }
        let ((from, tail), (to, rest)) = (from.as_chunks(), to.as_chunks_mut());
        // SAFETY: the processor has it.
        unsafe { eights(from, to) };
        return narrow_f16_soft(tail, rest);
    }
    narrow_f16_soft(from, to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(half: Half, bits: u16) -> f32 {
        let mut to = [0.0; 9];
        widen(half, &[bits; 9], &mut to);
        let same = |x: &f32| x.to_bits() == to[0].to_bits() || (x.is_nan() && to[0].is_nan());
        assert!(to.iter().all(same), "vectors and the rest agree: {bits:x} {to:?}");
        to[0]
    }

    fn narrowed(half: Half, x: f32) -> u16 {
        let mut to = [0; 9];
        narrow(half, &[x; 9], &mut to);
        assert!(to.iter().all(|bits| *bits == to[0]) || x.is_nan(), "vectors and the rest agree: {x} {to:x?}");
        to[0]
    }

    #[test]
    fn all_bits_come_back() {
        for half in [Half::Bf16, Half::F16] {
            for bits in 0..=u16::MAX {
                let x = wide(half, bits);
                if x.is_nan() {
                    assert!(wide(half, narrowed(half, x)).is_nan(), "{half:?} {bits:x}");
                } else {
                    assert_eq!(narrowed(half, x), bits, "{half:?} {x}");
                }
            }
        }
    }

    #[test]
    fn between_two_neighbours_the_nearer_is_taken_and_the_even_one_in_the_middle() {
        for (half, last) in [(Half::Bf16, 0x7f7f), (Half::F16, 0x7bff)] {
            for bits in 0..last {
                let (low, high) = (f64::from(wide(half, bits)), f64::from(wide(half, bits + 1)));
                let middle = ((low + high) / 2.0) as f32;
                let even = if bits % 2 == 0 { bits } else { bits + 1 };
                assert_eq!(narrowed(half, middle), even, "{half:?} {middle}");
                assert_eq!(narrowed(half, middle.next_down()), bits, "{half:?} {middle}");
                assert_eq!(narrowed(half, -middle.next_up()), (bits + 1) | 0x8000, "{half:?} {middle}");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_infinite_and_what_is_too_small_is_zero() {
        assert_eq!(wide(Half::F16, narrowed(Half::F16, 65519.0)), 65504.0);
        for x in [65520.0, 1e6, f32::MAX, f32::INFINITY] {
            assert_eq!(wide(Half::F16, narrowed(Half::F16, -x)), f32::NEG_INFINITY);
        }
        assert_eq!(narrowed(Half::F16, 2e-8), 0);
        assert_eq!(wide(Half::F16, narrowed(Half::F16, 6e-8)), 2f32.powi(-24));
        assert_eq!(wide(Half::Bf16, narrowed(Half::Bf16, f32::MAX)), f32::INFINITY);
        assert!(wide(Half::F16, narrowed(Half::F16, f32::NAN)).is_nan());
    }
}
