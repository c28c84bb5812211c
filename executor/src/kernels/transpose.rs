//! Transposing blocks, for packing what the vector code reads.
//!
//! In: rows some stride apart. Out: their columns as rows.
//!
//! Invariant: nothing but the transposed block is written.

/// `to[p·to_stride + i] = from[i·from_stride + p]` for `i < rows`, `p < cols`.
pub(super) fn transpose(from: &[f32], from_stride: usize, rows: usize, cols: usize, to: &mut [f32], to_stride: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_stride + cols && to.len() >= (cols - 1) * to_stride + rows);
    let whole = if cfg!(target_arch = "x86_64") { (rows - rows % 4, cols - cols % 4) } else { (0, 0) };
    #[cfg(target_arch = "x86_64")]
    for i in (0..whole.0).step_by(4) {
        for p in (0..whole.1).step_by(4) {
            // SAFETY: both 4 × 4 blocks are in bounds by the assertion.
            unsafe {
                transpose_4x4(
                    from.as_ptr().add(i * from_stride + p),
                    from_stride,
                    to.as_mut_ptr().add(p * to_stride + i),
                    to_stride,
                )
            };
        }
    }
    for i in 0..rows {
        for p in if i < whole.0 { whole.1 } else { 0 }..cols {
            to[p * to_stride + i] = from[i * from_stride + p];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_4x4(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's blocks are in bounds, and every x86-64 has SSE.
    unsafe {
        let mut rows = [0, 1, 2, 3].map(|i| _mm_loadu_ps(from.add(i * from_stride)));
        let [a, b, c, d] = &mut rows;
        _MM_TRANSPOSE4_PS(a, b, c, d);
        for (p, row) in rows.into_iter().enumerate() {
            _mm_storeu_ps(to.add(p * to_stride), row);
        }
    }
}
