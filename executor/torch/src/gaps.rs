//! What tch does not wrap of libtorch: the functions of `cpp/`.
//!
//! In: tensors. Out: changed tensors, or libtorch's problem in words.
//!
//! Invariant: a tensor's pointer is alive as long as the call; those of CUDA's part are found at run time.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use tch::{TchError, Tensor};

/// A tensor of C++.
type Raw = *mut c_void;

unsafe extern "C" {
    fn gaps_problem() -> *const c_char;
    fn gaps_layer_norm(x: Raw, gain: Raw, bias: Raw, eps: f64, y: Raw, mean: Raw, rstd: Raw) -> bool;
    fn gaps_layer_norm_grad(dy: Raw, x: Raw, mean: Raw, rstd: Raw, gain: Raw, dx: Raw, dgain: Raw, dbias: Raw) -> bool;
    fn gaps_rms_norm_grad(dy: Raw, x: Raw, rstd: Raw, gain: Raw, dx: Raw, dgain: Raw) -> bool;
    fn gaps_cpu_attention(q: Raw, k: Raw, v: Raw, causal: bool, mask: Raw, out: Raw, lse: Raw) -> bool;
    fn gaps_cpu_attention_grad(
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
    fn gaps_cudnn_attention(q: Raw, k: Raw, v: Raw, causal: bool, out: Raw, lse: Raw) -> bool;
    fn gaps_cutlass_attention(q: Raw, k: Raw, v: Raw, causal: bool, mask: Raw, out: Raw, lse: Raw) -> bool;
    fn gaps_cutlass_attention_grad(
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
    fn gaps_adamw(
        w: Raw,
        g: Raw,
        m: Raw,
        v: Raw,
        steps: Raw,
        rate: Raw,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> bool;
    fn gaps_pool() -> *mut c_void;
    fn gaps_free_pool(pool: *mut c_void);
    fn gaps_pool_bytes(pool: *mut c_void) -> u64;
    fn gaps_enter(pool: *mut c_void);
    fn gaps_leave();
    fn gaps_cuda_bytes(device: i32, now: *mut u64, most: *mut u64, all: *mut u64) -> bool;
}

fn raw(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast_mut().cast()
}

fn maybe(tensor: Option<&Tensor>) -> Raw {
    tensor.map_or(std::ptr::null_mut(), raw)
}

/// What `done` says, with the problem of the functions that `problem` belongs to.
fn outcome(done: bool, problem: unsafe extern "C" fn() -> *const c_char) -> Result<(), TchError> {
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
        outcome(unsafe { $function($($argument),*) }, gaps_problem)
    };
}

/// LayerNorm of x `[rows, cols]`: y, and mean and 1/σ of each row.
pub fn layer_norm(
    x: &Tensor,
    [gain, bias]: [&Tensor; 2],
    eps: f64,
    [y, mean, rstd]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(gaps_layer_norm(raw(x), raw(gain), raw(bias), eps, raw(y), raw(mean), raw(rstd)))
}

/// Its gradients.
pub fn layer_norm_grad(
    [dy, x, mean, rstd, gain]: [&Tensor; 5],
    [dx, dgain, dbias]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(gaps_layer_norm_grad(raw(dy), raw(x), raw(mean), raw(rstd), raw(gain), raw(dx), raw(dgain), raw(dbias)))
}

/// Gradients of RMSNorm on CUDA: of x, and of the gain.
pub fn rms_norm_grad([dy, x, rstd, gain]: [&Tensor; 4]) -> Result<[Tensor; 2], TchError> {
    let given = [Tensor::new(), Tensor::new()];
    call!(gaps_rms_norm_grad(raw(dy), raw(x), raw(rstd), raw(gain), raw(&given[0]), raw(&given[1])))?;
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

/// Flash attention on the CPU: q, k, v `[batch, heads, tokens, width]`, out `[batch, tokens, heads, width]`.
pub fn cpu_attention([q, k, v]: [&Tensor; 3], masking: Masking<'_>, [out, lse]: [&Tensor; 2]) -> Result<(), TchError> {
    let mask = maybe(masking.mask);
    call!(gaps_cpu_attention(raw(q), raw(k), raw(v), masking.causal, mask, raw(out), raw(lse)))
}

/// Its gradients, added to `dq`, `dk`, `dv`; all `[batch, tokens, heads, width]`.
pub fn cpu_attention_grad(
    [q, k, v, out, lse, dout]: [&Tensor; 6],
    masking: Masking<'_>,
    [dq, dk, dv]: [&Tensor; 3],
) -> Result<(), TchError> {
    call!(gaps_cpu_attention_grad(
        raw(q),
        raw(k),
        raw(v),
        raw(out),
        raw(lse),
        raw(dout),
        masking.causal,
        maybe(masking.mask),
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
        Fused::Cudnn => call!(gaps_cudnn_attention(raw(q), raw(k), raw(v), masking.causal, out, lse))?,
        Fused::Cutlass => {
            let mask = maybe(masking.mask);
            call!(gaps_cutlass_attention(raw(q), raw(k), raw(v), masking.causal, mask, out, lse))?;
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
    call!(gaps_cutlass_attention_grad(
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

/// What an update by AdamW is told: the rate on CUDA is a tensor, so that a graph of it takes a new one.
pub struct Update<'a> {
    pub steps: &'a Tensor,
    pub rate: &'a Tensor,
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub eps: f64,
}

/// One fused update of a vector.
pub fn adamw([w, g, m, v]: [&Tensor; 4], u: &Update<'_>) -> Result<(), TchError> {
    let (steps, rate) = (raw(u.steps), raw(u.rate));
    call!(gaps_adamw(raw(w), raw(g), raw(m), raw(v), steps, rate, u.lr, u.beta1, u.beta2, u.weight_decay, u.eps))
}

/// Working memory of one rank on the CPU.
pub struct Pool(*mut c_void);

// SAFETY: the pool locks itself.
unsafe impl Send for Pool {}

impl Pool {
    pub fn new() -> Pool {
        // SAFETY: it takes nothing.
        Pool(unsafe { gaps_pool() })
    }

    /// Bytes it took so far; it gives none back.
    pub fn bytes(&self) -> u64 {
        // SAFETY: the pool is alive.
        unsafe { gaps_pool_bytes(self.0) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: blocks that are still out keep what they need alive.
        unsafe { gaps_free_pool(self.0) }
    }
}

/// While it lives, this thread's ops take working memory from a pool, and autograd keeps no books.
pub struct Entered;

impl Entered {
    pub fn new(pool: Option<&Pool>) -> Entered {
        // SAFETY: the pool, if any, is alive; it is shared until `gaps_leave`.
        unsafe { gaps_enter(pool.map_or(std::ptr::null_mut(), |pool| pool.0)) };
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: this thread entered.
        unsafe { gaps_leave() }
    }
}

/// Bytes that CUDA's allocator has handed out at most so far, and bytes of the device.
pub fn cuda_bytes(device: i32) -> Result<(u64, u64), TchError> {
    let (mut now, mut most, mut all) = (0, 0, 0);
    call!(gaps_cuda_bytes(device, &mut now, &mut most, &mut all))?;
    Ok((most, all))
}

/// The functions of CUDA's part, a library that the executor opened for all to see.
struct CudaPart {
    problem: unsafe extern "C" fn() -> *const c_char,
    devices: unsafe extern "C" fn() -> u32,
    describe: unsafe extern "C" fn(i32, *mut c_char, usize, *mut i32, *mut i32) -> bool,
    rank: unsafe extern "C" fn(i32, *mut i64, *mut u64) -> bool,
    stream: unsafe extern "C" fn(i32, i64) -> bool,
    sync: unsafe extern "C" fn() -> bool,
    begin: unsafe extern "C" fn(*const u64) -> *mut c_void,
    end: unsafe extern "C" fn(*mut c_void) -> bool,
    replay: unsafe extern "C" fn(*mut c_void) -> bool,
    free: unsafe extern "C" fn(*mut c_void),
}

fn cuda_part() -> Result<&'static CudaPart, TchError> {
    static PART: OnceLock<Option<CudaPart>> = OnceLock::new();
    let find = || {
        // SAFETY: the names are those of `cpp/cuda.cpp`, with its types.
        unsafe {
            Some(CudaPart {
                problem: function(c"gaps_cuda_problem")?,
                devices: function(c"gaps_cuda_devices")?,
                describe: function(c"gaps_cuda_describe")?,
                rank: function(c"gaps_cuda_rank")?,
                stream: function(c"gaps_cuda_stream")?,
                sync: function(c"gaps_cuda_sync")?,
                begin: function(c"gaps_graph_begin")?,
                end: function(c"gaps_graph_end")?,
                replay: function(c"gaps_graph_replay")?,
                free: function(c"gaps_graph_free")?,
            })
        }
    };
    let missing = || TchError::Torch("the part that links CUDA's libraries is not open".to_owned());
    PART.get_or_init(find).as_ref().ok_or_else(missing)
}

/// A function that some opened library has.
///
/// # Safety
/// `F` must be its type.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    // SAFETY: looking up a name runs nothing.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: `F` is a function pointer, by the caller's word.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

/// How many CUDA devices there are.
pub fn cuda_devices() -> u32 {
    // SAFETY: it takes nothing.
    cuda_part().map_or(0, |part| unsafe { (part.devices)() })
}

/// A CUDA device's name and capability, and the versions of driver and runtime, as `1000·major + 10·minor`.
pub fn cuda_describe(device: i32) -> Result<(String, i32, i32), TchError> {
    let part = cuda_part()?;
    let (mut text, mut driver, mut runtime) = ([0; 256], 0, 0);
    // SAFETY: `text` has room for as many bytes as it says.
    let done = unsafe { (part.describe)(device, text.as_mut_ptr(), text.len(), &mut driver, &mut runtime) };
    outcome(done, part.problem)?;
    // SAFETY: it ends with a zero.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    Ok((text, driver, runtime))
}

/// What a rank has of a CUDA device: a stream, and a pool of memory that its graphs share.
#[derive(Clone, Copy, Debug)]
pub struct CudaRank {
    device: i32,
    stream: i64,
    pool: [u64; 2],
}

impl CudaRank {
    pub fn new(device: i32) -> Result<CudaRank, TchError> {
        let part = cuda_part()?;
        let (mut stream, mut pool) = (0, [0; 2]);
        // SAFETY: `pool` has room for two; libtorch checks the number of the device.
        outcome(unsafe { (part.rank)(device, &mut stream, pool.as_mut_ptr()) }, part.problem)?;
        Ok(CudaRank { device, stream, pool })
    }

    /// The device's number.
    pub fn device(self) -> i32 {
        self.device
    }

    /// Makes its stream this thread's.
    pub fn enter(self) -> Result<(), TchError> {
        let part = cuda_part()?;
        // SAFETY: the stream is of this device.
        outcome(unsafe { (part.stream)(self.device, self.stream) }, part.problem)
    }
}

/// Waits for this thread's stream.
pub fn cuda_sync() -> Result<(), TchError> {
    let part = cuda_part()?;
    // SAFETY: it takes nothing.
    outcome(unsafe { (part.sync)() }, part.problem)
}

/// A sequence of CUDA kernels that starts with one call.
pub struct Graph(*mut c_void);

// SAFETY: libtorch keeps no state of a thread's in a graph.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `body` asks of this thread's stream; nothing of it runs.
    pub fn capture(rank: CudaRank, body: impl FnOnce() -> Result<(), TchError>) -> Result<Graph, TchError> {
        let part = cuda_part()?;
        // SAFETY: the pool has two numbers.
        let graph = Graph(unsafe { (part.begin)(rank.pool.as_ptr()) });
        outcome(!graph.0.is_null(), part.problem)?;
        let recorded = body();
        // SAFETY: the graph is being captured. A capture has to end even if it failed.
        let ended = outcome(unsafe { (part.end)(graph.0) }, part.problem);
        recorded.and(ended).map(|()| graph)
    }

    /// Runs it on this thread's stream.
    pub fn replay(&self) -> Result<(), TchError> {
        let part = cuda_part()?;
        // SAFETY: the graph was captured.
        outcome(unsafe { (part.replay)(self.0) }, part.problem)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let (false, Ok(part)) = (self.0.is_null(), cuda_part()) {
            // SAFETY: nobody has it after this.
            unsafe { (part.free)(self.0) }
        }
    }
}
