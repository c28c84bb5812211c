//! [`Lanes`] by AVX-512 and by AVX2 with FMA.
//!
//! In and out: as the trait says.
//!
//! Invariant: that of the parent, which alone names these types.

use std::arch::x86_64::*;

use super::Lanes;

/// [`Lanes`] by intrinsics: those that take vectors only, by name.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $f:path;)*) => {
        $(#[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            // SAFETY: the module's invariant.
            unsafe { $f(self $(, $arg)*) }
        })*
    };
}

impl Lanes for __m512 {
    const WIDTH: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the module's invariant.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: by contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: by contract; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: by contract.
        unsafe { _mm512_storeu_ps(p, self) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: by contract; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(p, (1u16 << n) - 1, self) }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: the module's invariant.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(self) }
    }
    #[inline(always)]
    fn dot_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: asked for only where the processor has it.
        unsafe {
            _mm512_dpbf16_ps(
                b,
                std::mem::transmute::<__m512, __m512bh>(self),
                std::mem::transmute::<__m512, __m512bh>(a),
            )
        }
    }
    intrinsics! {
        add(b) = _mm512_add_ps;
        sub(b) = _mm512_sub_ps;
        mul(b) = _mm512_mul_ps;
        div(b) = _mm512_div_ps;
        mul_add(b, c) = _mm512_fmadd_ps;
        max(b) = _mm512_max_ps;
        min(b) = _mm512_min_ps;
        sqrt() = _mm512_sqrt_ps;
    }
    #[inline(always)]
    fn shift(self, n: Self) -> Self {
        // SAFETY: the module's invariant.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_mul_ps(self, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
}

impl Lanes for __m256 {
    const WIDTH: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the module's invariant.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: by contract.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: by contract; masked lanes are not touched.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: by contract.
        unsafe { _mm256_storeu_ps(p, self) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: by contract; masked lanes are not touched.
        unsafe { _mm256_maskstore_ps(p, first(n), self) }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: the module's invariant.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    intrinsics! {
        add(b) = _mm256_add_ps;
        sub(b) = _mm256_sub_ps;
        mul(b) = _mm256_mul_ps;
        div(b) = _mm256_div_ps;
        mul_add(b, c) = _mm256_fmadd_ps;
        max(b) = _mm256_max_ps;
        min(b) = _mm256_min_ps;
        sqrt() = _mm256_sqrt_ps;
    }
    #[inline(always)]
    fn shift(self, n: Self) -> Self {
        // SAFETY: the module's invariant.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(self, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
}

/// A mask of the first `n` of eight lanes.
#[inline(always)]
fn first(n: usize) -> __m256i {
    // SAFETY: the module's invariant.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}
