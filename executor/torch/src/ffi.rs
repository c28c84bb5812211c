//! What tch does not wrap of libtorch: the functions of `cpp/`.
//!
//! In: tensors. Out: changed tensors, or libtorch's problem in words.
//!
//! Invariant: a tensor's pointer is alive as long as the call.

use std::ffi::{CStr, c_char, c_void};

use meshwright_executor::kernels::AdamWSettings;
use tch::{TchError, Tensor};

/// A tensor of C++.
type Raw = *mut c_void;

unsafe extern "C" {
    fn ffi_problem() -> *const c_char;
    fn ffi_cpu_matmul(a: Raw, b: Raw, accumulate: bool, c: Raw) -> bool;
    fn ffi_layer_norm(x: Raw, gain: Raw, bias: Raw, eps: f64, y: Raw, mean: Raw, rstd: Raw) -> bool;
    fn ffi_layer_norm_grad(dy: Raw, x: Raw, mean: Raw, rstd: Raw, gain: Raw, dx: Raw, dgain: Raw, dbias: Raw) -> bool;
    fn ffi_rms_norm_grad(dy: Raw, x: Raw, rstd: Raw, gain: Raw, dx: Raw, dgain: Raw) -> bool;
    fn ffi_cpu_attention(q: Raw, k: Raw, v: Raw, causal: bool, mask: Raw, out: Raw, lse: Raw) -> bool;
    fn ffi_cpu_attention_grad(
        q: Raw,
        k: Raw,
        v: Raw,
        out: Raw,
        lse: Raw,
        dout: Raw,
        causal: bool,
        mask: Raw,
        adds: bool,
        dq: Raw,
        dk: Raw,
        dv: Raw,
    ) -> bool;
    fn ffi_cpu_swiglu(u: Raw, out: Raw) -> bool;
    fn ffi_cpu_swiglu_grad(u: Raw, dout: Raw, du: Raw) -> bool;
    fn ffi_cpu_rms_norm(x: Raw, gain: Raw, eps: f64, y: Raw, stats: Raw) -> bool;
    fn ffi_cpu_rms_norm_grad(x: Raw, gain: Raw, stats: Raw, dy: Raw, accumulate: bool, dx: Raw, dgain: Raw) -> bool;
    fn ffi_cpu_rope(x: Raw, cos: Raw, sin: Raw, inverse: bool) -> bool;
    fn ffi_cudnn_attention(q: Raw, k: Raw, v: Raw, causal: bool, out: Raw, lse: Raw) -> bool;
    fn ffi_cutlass_attention(q: Raw, k: Raw, v: Raw, causal: bool, mask: Raw, out: Raw, lse: Raw) -> bool;
    fn ffi_cutlass_attention_grad(
        q: Raw,
        k: Raw,
        v: Raw,
        out: Raw,
        lse: Raw,
        dout: Raw,
        causal: bool,
        mask: Raw,
        dq: Raw,
        dk: Raw,
        dv: Raw,
    ) -> bool;
    fn ffi_cpu_adamw(
        g: Raw,
        narrow: Raw,
        w: Raw,
        m: Raw,
        v: Raw,
        decayed: i64,
        shrink: f64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        bias1: f64,
        bias2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> bool;
    fn ffi_pool() -> *mut c_void;
    fn ffi_free_pool(pool: *mut c_void);
    fn ffi_pool_bytes(pool: *mut c_void) -> u64;
    fn ffi_enter(pool: *mut c_void);
    fn ffi_leave();
    fn ffi_cuda_bytes(device: i32, now: *mut u64, most: *mut u64, all: *mut u64) -> bool;
}

fn raw(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast_mut().cast()
}

fn maybe(tensor: Option<&Tensor>) -> Raw {
    tensor.map_or(std::ptr::null_mut(), raw)
}

/// What `done` says, with the problem of the functions that `problem` belongs to.
pub fn outcome(done: bool, problem: unsafe extern "C" fn() -> *const c_char) -> Result<(), TchError> {
    if done {
        return Ok(());
    }
    // SAFETY: a string that lives until this thread's next call.
    let text = unsafe { CStr::from_ptr(problem()) };
    Err(TchError::Torch(text.to_string_lossy().into_owned()))
}

/// Calls a function on tensors.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: tensors live as long as the call; libtorch checks their shapes, or the kernel's caller here did.
        outcome(unsafe { $function($($argument),*) }, ffi_problem)
    };
}

/// `c = a · b` or `c += a · b` on the CPU, of matrices or batches of them; `c` may be in fp32 where `a` and `b` are not.
pub fn cpu_matmul(a: &Tensor, b: &Tensor, accumulate: bool, c: &Tensor) -> Result<(), TchError> {
    call!(ffi_cpu_matmul(raw(a), raw(b), accumulate, raw(c)))
}

/// SwiGLU of u `[rows, 2 · cols]` on the CPU, in fp32 or bf16, as all that follow up to LayerNorm.
pub fn cpu_swiglu(u: &Tensor, out: &Tensor) -> Result<(), TchError> {
    call!(ffi_cpu_swiglu(raw(u), raw(out)))
}

/// Its gradient.
pub fn cpu_swiglu_grad(u: &Tensor, dout: &Tensor, du: &Tensor) -> Result<(), TchError> {
    call!(ffi_cpu_swiglu_grad(raw(u), raw(dout), raw(du)))
}

/// RMSNorm of x `[rows, cols]` by a gain in fp32: y, and `[0, 1/σ]` of each row.
pub fn cpu_rms_norm([x, gain]: [&Tensor; 2], eps: f64, [y, stats]: [&Tensor; 2]) -> Result<(), TchError> {
    call!(ffi_cpu_rms_norm(raw(x), raw(gain), eps, raw(y), raw(stats)))
}

/// Its gradients: `dgain` is added to, and so is `dx`, if it accumulates.
pub fn cpu_rms_norm_grad(
    [x, gain, stats, dy]: [&Tensor; 4],
    accumulate: bool,
    [dx, dgain]: [&Tensor; 2],
) -> Result<(), TchError> {
    call!(ffi_cpu_rms_norm_grad(raw(x), raw(gain), raw(stats), raw(dy), accumulate, raw(dx), raw(dgain)))
}

/// Turns heads `[rows, heads, width]` in place by `[rows, …, width / 2]` in fp32.
pub fn cpu_rope(heads: &Tensor, [cos, sin]: &[Tensor; 2], inverse: bool) -> Result<(), TchError> {
    call!(ffi_cpu_rope(raw(heads), raw(cos), raw(sin), inverse))
}

/// LayerNorm of x `[rows, cols]`: y, and mean and 1/σ of each row.
pub fn layer_norm(
    x: &Tensor,
    [gain, bias]: [&Tensor; 2],
    eps: f64,
    [y, mean, rstd]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(ffi_layer_norm(raw(x), raw(gain), raw(bias), eps, raw(y), raw(mean), raw(rstd)))
}

/// Its gradients.
pub fn layer_norm_grad(
    [dy, x, mean, rstd, gain]: [&Tensor; 5],
    [dx, dgain, dbias]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(ffi_layer_norm_grad(raw(dy), raw(x), raw(mean), raw(rstd), raw(gain), raw(dx), raw(dgain), raw(dbias)))
}

/// Gradients of RMSNorm on CUDA: of x, and of the gain.
pub fn rms_norm_grad([dy, x, rstd, gain]: [&Tensor; 4]) -> Result<[Tensor; 2], TchError> {
    let given = [Tensor::new(), Tensor::new()];
    call!(ffi_rms_norm_grad(raw(dy), raw(x), raw(rstd), raw(gain), raw(&given[0]), raw(&given[1])))?;
    Ok(given)
}

/// Whether attention is causal, and what is added to its scores.
#[derive(Clone, Copy)]
pub struct Masking<'a> {
    pub causal: bool,
    pub mask: Option<&'a Tensor>,
}

/// Which of libtorch's kernels runs attention on CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    Cudnn,
    Cutlass,
}

/// Attention on the CPU, in fp32 or bf16: q, out `[batch, heads, queries, width]`, k, v `[batch, key heads, keys, width]`, lse
/// `[batch, heads, queries]`.
pub fn cpu_attention([q, k, v]: [&Tensor; 3], masking: Masking<'_>, [out, lse]: [&Tensor; 2]) -> Result<(), TchError> {
    let mask = maybe(masking.mask);
    call!(ffi_cpu_attention(raw(q), raw(k), raw(v), masking.causal, mask, raw(out), raw(lse)))
}

/// Its gradients; that of queries is added to what is there, if `adds`.
pub fn cpu_attention_grad(
    [q, k, v, out, lse, dout]: [&Tensor; 6],
    masking: Masking<'_>,
    adds: bool,
    [dq, dk, dv]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(ffi_cpu_attention_grad(
        raw(q),
        raw(k),
        raw(v),
        raw(out),
        raw(lse),
        raw(dout),
        masking.causal,
        maybe(masking.mask),
        adds,
        raw(dq),
        raw(dk),
        raw(dv)
    ))
}

/// Attention on CUDA, all `[batch, heads, tokens, width]`: the output, and lse as the kernel lays it out.
pub fn cuda_attention(fused: Fused, [q, k, v]: [&Tensor; 3], masking: Masking<'_>) -> Result<[Tensor; 2], TchError> {
    let given = [Tensor::new(), Tensor::new()];
    let [out, lse] = given.each_ref().map(raw);
    match fused {
        Fused::Cudnn => call!(ffi_cudnn_attention(raw(q), raw(k), raw(v), masking.causal, out, lse))?,
        Fused::Cutlass => {
            let mask = maybe(masking.mask);
            call!(ffi_cutlass_attention(raw(q), raw(k), raw(v), masking.causal, mask, out, lse))?;
        }
    }
    Ok(given)
}

/// Its gradients by CUTLASS; tch has cuDNN's.
pub fn cutlass_attention_grad(
    [q, k, v, out, lse, dout]: [&Tensor; 6],
    masking: Masking<'_>,
) -> Result<[Tensor; 3], TchError> {
    let given = [Tensor::new(), Tensor::new(), Tensor::new()];
    let [dq, dk, dv] = given.each_ref().map(raw);
    call!(ffi_cutlass_attention_grad(
        raw(q),
        raw(k),
        raw(v),
        raw(out),
        raw(lse),
        raw(dout),
        masking.causal,
        maybe(masking.mask),
        dq,
        dk,
        dv
    ))?;
    Ok(given)
}

/// One update of a vector on the CPU: of w by g, times `shrink`, in fp32, and of its copy in fp32 or bf16. The first `decayed`
/// elements decay.
pub fn cpu_adamw(
    [g, copy, w, m, v]: [&Tensor; 5],
    decayed: usize,
    shrink: f64,
    h: &AdamWSettings,
) -> Result<(), TchError> {
    let [g, copy, w, m, v] = [g, copy, w, m, v].map(raw);
    let [lr, beta1, beta2, bias1] = [h.lr, h.beta1, h.beta2, h.bias1].map(f64::from);
    let [bias2, decay, eps] = [h.bias2, h.weight_decay, h.eps].map(f64::from);
    call!(ffi_cpu_adamw(g, copy, w, m, v, decayed as i64, shrink, lr, beta1, beta2, bias1, bias2, decay, eps))
}

/// Working memory of one rank on the CPU.
pub struct MemoryPool(*mut c_void);

// SAFETY: the pool locks itself.
unsafe impl Send for MemoryPool {}

impl MemoryPool {
    pub fn new() -> MemoryPool {
        // SAFETY: it takes nothing.
        MemoryPool(unsafe { ffi_pool() })
    }

    /// Bytes it took so far; it gives none back.
    pub fn bytes(&self) -> u64 {
        // SAFETY: the pool is alive.
        unsafe { ffi_pool_bytes(self.0) }
    }
}

impl Drop for MemoryPool {
    fn drop(&mut self) {
        // SAFETY: blocks that are still out keep what they need alive.
        unsafe { ffi_free_pool(self.0) }
    }
}

/// While it lives, this thread's ops take working memory from a pool, and autograd keeps no books.
pub struct Entered;

impl Entered {
    pub fn new(pool: Option<&MemoryPool>) -> Entered {
        // SAFETY: the pool, if any, is alive; it is shared until `ffi_leave`.
        unsafe { ffi_enter(pool.map_or(std::ptr::null_mut(), |pool| pool.0)) };
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: this thread entered.
        unsafe { ffi_leave() }
    }
}

/// Bytes that CUDA's allocator has handed out at most so far, and bytes of the device.
pub fn cuda_bytes(device: i32) -> Result<(u64, u64), TchError> {
    let (mut now, mut most, mut all) = (0, 0, 0);
    call!(ffi_cuda_bytes(device, &mut now, &mut most, &mut all))?;
    Ok((most, all))
}
