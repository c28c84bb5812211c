//! Vectors of floats in the widest instruction set that the machine has, behind one trait.
//!
//! In: a kernel body written once over [`Lanes`]. Out: through [`vectorised!`], a function that runs it as AVX-512,
//! AVX2+FMA or plain code, whichever the processor supports.
//!
//! Invariant: the x86 vector types are only named by [`vectorised!`], behind its check of the processor; that is what
//! makes the trait's methods safe to call.

#[cfg(target_arch = "x86_64")]
mod x86;

/// A vector of `WIDTH` floats. Methods follow `f32`'s of the same name, lane by lane.
pub(super) trait Lanes: Copy {
    /// Lanes.
    const WIDTH: usize;
    /// Vectors that the processor holds in registers.
    const REGISTERS: usize;

    fn splat(x: f32) -> Self;
    /// # Safety
    /// `p` must be valid for reading `WIDTH` floats.
    unsafe fn load(p: *const f32) -> Self;
    /// The first `n < WIDTH` floats, then zeros.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` floats.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    /// # Safety
    /// `p` must be valid for writing `WIDTH` floats.
    unsafe fn store(self, p: *mut f32);
    /// Stores the first `n < WIDTH` lanes.
    ///
    /// # Safety
    /// `p` must be valid for writing `n` floats.
    unsafe fn store_first(self, p: *mut f32, n: usize);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self · a + b`.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// `b` and the products of two bf16 in each lane of `self` and `a`, added.
    #[inline(always)]
    fn dot_pairs(self, a: Self, b: Self) -> Self {
        let (mut x, mut y) = ([0.0; 16], [0.0; 16]);
        // SAFETY: no vector is wider than 16 lanes.
        let mut sums = unsafe {
            let mut sums = [0.0; 16];
            self.store(x.as_mut_ptr());
            a.store(y.as_mut_ptr());
            b.store(sums.as_mut_ptr());
            sums
        };
        let halves = |pair: f32| [pair.to_bits() << 16, pair.to_bits() & 0xffff_0000].map(f32::from_bits);
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            let ([x0, x1], [y0, y1]) = (halves(x), halves(y));
            *sum += x0 * y0 + x1 * y1;
        }
        // SAFETY: as above.
        unsafe { Self::load(sums.as_ptr()) }
    }
    /// The greater; `other` if one is not a number.
    fn max(self, other: Self) -> Self;
    /// The lesser; `other` if one is not a number.
    fn min(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// To the nearest integer.
    fn round(self) -> Self;
    /// `self · 2ⁿ` for integral `n` in -127..=127; zero at -127.
    fn shift(self, n: Self) -> Self;

    /// The sum of all lanes.
    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    /// The greatest lane.
    #[inline(always)]
    fn greatest(self) -> f32 {
        self.fold(f32::max)
    }

    /// All lanes combined pairwise, halving the width each time.
    #[inline(always)]
    fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: no vector is wider than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::WIDTH / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = f(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The slice's first `WIDTH` floats, or all it has and then zeros.
    #[inline(always)]
    fn read(from: &[f32]) -> Self {
        // SAFETY: the slice has the floats that are read.
        unsafe {
            if from.len() >= Self::WIDTH {
                Self::load(from.as_ptr())
            } else {
                Self::load_first(from.as_ptr(), from.len())
            }
        }
    }

    /// Writes the lanes, or as many as the slice has room for.
    #[inline(always)]
    fn write(self, to: &mut [f32]) {
        // SAFETY: the slice has the floats that are written.
        unsafe {
            if to.len() >= Self::WIDTH {
                self.store(to.as_mut_ptr())
            } else {
                self.store_first(to.as_mut_ptr(), to.len())
            }
        }
    }

    /// eˣ within 2 ulp; zero below -88, at most 2^127·√2, not a number where `self` is not.
    ///
    /// Cephes `expf` (Moshier): x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial for eʳ.
    #[inline(always)]
    fn exp(self) -> Self {
        let c = Self::splat;
        let x = c(88.37).min(c(-88.1).max(self));
        let n = x.mul(c(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(c(2.121_944_4e-4), n.mul_add(c(-0.693_359_4), x));
        let p = c(1.987_569_1e-4).mul_add(r, c(1.398_199_9e-3));
        let p = p.mul_add(r, c(8.333_452e-3)).mul_add(r, c(4.166_579_6e-2));
        let p = p.mul_add(r, c(1.666_666_5e-1)).mul_add(r, c(0.5));
        p.mul_add(r.mul(r), r.add(c(1.0))).shift(n)
    }

    /// 1 / (1 + e⁻ˣ).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.0);
        one.div(one.add(Self::splat(0.0).sub(self).exp()))
    }
}

/// Plain code, for processors without the instruction sets below.
pub(super) type Plain = [f32; 8];

/// Lane-wise functions of [`Plain`].
macro_rules! plain {
    ($($name:ident($($arg:ident),*) = $f:expr;)*) => {
        $(#[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            std::array::from_fn(|i| $f(self[i] $(, $arg[i])*))
        })*
    };
}

impl Lanes for Plain {
    const WIDTH: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: by contract; an array has its element's alignment.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: only the first n are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: by contract.
        unsafe { *p.cast() = self }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: by contract.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr(), p, n) }
    }
    plain! {
        add(b) = |a, b| a + b;
        sub(b) = |a, b| a - b;
        mul(b) = |a, b| a * b;
        div(b) = |a, b| a / b;
        mul_add(b, c) = |a: f32, b, c| if cfg!(target_feature = "neon") { a.mul_add(b, c) } else { a * b + c };
        max(b) = |a, b| if a > b { a } else { b };
        min(b) = |a, b| if a < b { a } else { b };
        sqrt() = f32::sqrt;
        round() = f32::round_ties_even;
        shift(n) = |a: f32, n: f32| a * f32::from_bits(((n as i32 + 127) as u32) << 23);
    }
}

/// The instruction set in use.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) enum Level {
    Plain,
    Avx2,
    Avx512,
}

/// The best instruction set of this processor.
#[inline]
pub(super) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Plain
}

/// `fn name(args) -> out = body;` makes `name` run the `#[inline(always)]` generic `body::<L: Lanes>` for the processor.
///
/// Code in a body must not hide vectors in closures or calls that are not inlined: those lose the instruction set.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident;)*) => { $(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $out)? {
                    $body::<std::arch::x86_64::__m512>($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $out)? {
                    $body::<std::arch::x86_64::__m256>($($arg),*)
                }
                match $crate::kernels::lanes::level() {
                    // SAFETY: the processor has what the function needs.
                    $crate::kernels::lanes::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::lanes::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::lanes::Level::Plain => {}
                }
            }
            $body::<$crate::kernels::lanes::Plain>($($arg),*)
        }
    )* };
}
pub(super) use vectorised;
