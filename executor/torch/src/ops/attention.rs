//! Fused attention: on the CPU `cpp/attention.cpp`; on CUDA cuDNN's for 2-byte elements of usual widths, else CUTLASS's.
//!
//! In: queries, keys and values where they lie in packed rows. Out: results where they belong.
//!
//! Query heads that share keys are laid out as `[key heads, query heads of each]`, a sequence at a time, with the keys
//! repeated by a stride of zero, where a kernel asks for as many key heads as query heads.
//!
//! Invariant: scores are never stored.

use meshwright_hardware::op::AttentionDims;
use tch::{Device, Kind, Tensor};

use super::copy;
use crate::ffi::{self, Fused, Masking};
use crate::kernels;
use crate::view::{Outcome, TensorArgs};

/// Where rows of heads lie in an argument.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows {
    pub argument: usize,
    /// First element.
    pub first: usize,
    /// Elements from a sequence to the next, and from a token to the next.
    pub sequence: usize,
    pub token: usize,
}

/// Sizes of attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSizes {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
}

impl AttentionSizes {
    /// Query heads of a key head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Sequences of a part, of which there are so many.
    fn parts(self, kernel: AttentionBackend) -> usize {
        if self.repeats(kernel) { self.batch } else { 1 }
    }

    /// Whether cuDNN has a kernel for them, of elements of two bytes.
    fn are_cudnns(self) -> bool {
        self.width.is_multiple_of(8) && self.width <= 128 && self.queries > 1
    }

    /// Whether a kernel needs keys to be repeated.
    fn repeats(self, kernel: AttentionBackend) -> bool {
        self.group() > 1 && kernel == AttentionBackend::Cuda(Fused::Cutlass)
    }
}

/// What runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttentionBackend {
    Cpu,
    Cuda(Fused),
}

fn kernel(x: &TensorArgs, sizes: AttentionSizes, masking: Masking<'_>) -> AttentionBackend {
    let elements = &x.buffers[x.regions[0].buffer];
    let narrow = elements.kind() != Kind::Float;
    match elements.device() {
        Device::Cuda(_) if narrow && masking.mask.is_none() && sizes.are_cudnns() => {
            AttentionBackend::Cuda(Fused::Cudnn)
        }
        Device::Cuda(_) => AttentionBackend::Cuda(Fused::Cutlass),
        _ => AttentionBackend::Cpu,
    }
}

/// Heads of one part, `[batch, heads, tokens, width]`, or `[key heads, group, tokens, width]` of one sequence.
fn heads(
    x: &TensorArgs,
    rows: HeadRows,
    sizes: AttentionSizes,
    part: usize,
    of: Of,
    kernel: AttentionBackend,
) -> Outcome<Tensor> {
    let HeadRows { argument, first, sequence, token } = rows;
    let AttentionSizes { batch, queries, keys, heads, kv_heads, width } = sizes;
    let tokens = if of == Of::Queries { queries } else { keys };
    if !sizes.repeats(kernel) {
        let heads = if of == Of::Queries { heads } else { kv_heads };
        return x.strided(argument, [batch, heads, tokens, width], [sequence, width, token, 1], first);
    }
    let group = sizes.group();
    let (of_group, group_stride, head_stride) = match of {
        Of::Queries => (group, width, group * width),
        Of::Keys => (group, 0, width),
        Of::KeysOnce => (1, 0, width),
    };
    let size = [kv_heads, of_group, tokens, width];
    x.strided(argument, size, [head_stride, group_stride, token, 1], first + part * sequence)
}

/// Which heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Queries,
    /// As many as query heads.
    Keys,
    /// Each once.
    KeysOnce,
}

/// Each query's lse, of one part: `[batch, heads, tokens]`.
fn lines(
    x: &TensorArgs,
    argument: usize,
    sizes: AttentionSizes,
    part: usize,
    kernel: AttentionBackend,
) -> Outcome<Tensor> {
    let AttentionSizes { batch, queries, heads, kv_heads, .. } = sizes;
    if !sizes.repeats(kernel) {
        return x.strided(argument, [batch, heads, queries], [queries * heads, 1, heads], 0);
    }
    let group = sizes.group();
    x.strided(argument, [kv_heads, group, queries], [group, 1, heads], part * queries * heads)
}

/// Where results of attention lie: `[rows, heads · width]`.
pub fn results(argument: usize, sizes: AttentionSizes) -> HeadRows {
    let token = sizes.heads * sizes.width;
    HeadRows { argument, first: 0, sequence: sizes.queries * token, token }
}

/// Attention of `[q, k, v]` into arguments `out` and `lse`.
pub fn attend(
    x: &TensorArgs,
    sizes: AttentionSizes,
    qkv: [HeadRows; 3],
    masking: Masking<'_>,
    out: usize,
    lse: usize,
) -> Outcome {
    let kernel = kernel(x, sizes, masking);
    for part in 0..sizes.parts(kernel) {
        let of = |rows, of| heads(x, rows, sizes, part, of, kernel);
        let (q, k, v) = (of(qkv[0], Of::Queries)?, of(qkv[1], Of::Keys)?, of(qkv[2], Of::Keys)?);
        let out = of(results(out, sizes), Of::Queries)?;
        let lse = lines(x, lse, sizes, part, kernel)?;
        match kernel {
            AttentionBackend::Cpu => ffi::cpu_attention([&q, &k, &v], masking, [&out, &lse])?,
            AttentionBackend::Cuda(fused) => {
                let [made, made_lse] = ffi::cuda_attention(fused, [&q, &k, &v], masking)?;
                copy_heads(&out, &made)?;
                copy(&lse, &tokens_of(fused, &made_lse, sizes)?)?;
            }
        }
    }
    Ok(())
}

/// `to = from`, of heads.
fn copy_heads(to: &Tensor, from: &Tensor) -> Outcome {
    if kernels::copy_heads(to, from)? { Ok(()) } else { copy(to, from) }
}

/// A kernel's lse as `[batch, heads, tokens]`: cuDNN's has one more axis, CUTLASS's is padded.
fn tokens_of(fused: Fused, lse: &Tensor, sizes: AttentionSizes) -> Outcome<Tensor> {
    match fused {
        Fused::Cudnn => lse.f_squeeze_dim(3),
        Fused::Cutlass => lse.f_narrow(2, 0, sizes.queries as i64),
    }
}

/// Arguments of attention's gradient.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    pub out: usize,
    pub lse: usize,
    pub dout: usize,
    /// Where gradients of queries, keys and values go.
    pub to: [HeadRows; 3],
    /// Whether that of queries is added.
    pub adds: bool,
}

/// Gradients of attention.
pub fn attend_grad(
    x: &TensorArgs,
    sizes: AttentionSizes,
    qkv: [HeadRows; 3],
    masking: Masking<'_>,
    g: Gradient,
) -> Outcome {
    let kernel = kernel(x, sizes, masking);
    for part in 0..sizes.parts(kernel) {
        let of = |rows, of| heads(x, rows, sizes, part, of, kernel);
        let given = [of(qkv[0], Of::Queries)?, of(qkv[1], Of::Keys)?, of(qkv[2], Of::Keys)?];
        let [out, dout] = [g.out, g.dout].map(|argument| of(results(argument, sizes), Of::Queries));
        let (out, dout, lse) = (out?, dout?, lines(x, g.lse, sizes, part, kernel)?);
        let once = if sizes.repeats(kernel) { Of::KeysOnce } else { Of::Keys };
        let to = [of(g.to[0], Of::Queries)?, of(g.to[1], once)?, of(g.to[2], once)?];
        let [q, k, v] = &given;
        match kernel {
            AttentionBackend::Cpu => {
                ffi::cpu_attention_grad([q, k, v, &out, &lse, &dout], masking, g.adds, to.each_ref())?;
            }
            AttentionBackend::Cuda(fused) => {
                let made = on_cuda(fused, [q, k, v, &out, &lse, &dout], masking)?;
                if g.adds {
                    super::store(&to[0], &made[0], true)?;
                } else {
                    copy_heads(&to[0], &made[0])?;
                }
                for (to, made) in to[1..].iter().zip(&made[1..]) {
                    copy_heads(to, &summed(made, to)?)?;
                }
            }
        }
    }
    Ok(())
}

/// Gradients of repeated keys, summed over the heads that share them.
fn summed(made: &Tensor, to: &Tensor) -> Outcome<Tensor> {
    if made.size()[1] == to.size()[1] {
        return Ok(made.shallow_clone());
    }
    made.f_sum_dim_intlist(1, true, made.kind())
}

/// CUDA's kernels give what they make, `[batch, heads, tokens, width]`.
fn on_cuda(fused: Fused, [q, k, v, out, lse, dout]: [&Tensor; 6], masking: Masking<'_>) -> Outcome<[Tensor; 3]> {
    let lse = lse.f_contiguous()?;
    match fused {
        Fused::Cutlass => {
            // As long as the kernel pads it.
            let tokens = lse.size()[2];
            let lse = lse.f_constant_pad_nd([0, (32 - tokens % 32) % 32])?;
            ffi::cutlass_attention_grad([q, k, v, out, &lse, dout], masking)
        }
        Fused::Cudnn => {
            let none = Tensor::new();
            // Without dropout the state of the random numbers is not read.
            let state = Tensor::f_zeros([1], (Kind::Int64, q.device()))?;
            let (lse, queries, keys) = (lse.f_unsqueeze(3)?, q.size()[2], k.size()[2]);
            let (dq, dk, dv) = Tensor::f_internal_scaled_dot_product_cudnn_attention_backward(
                dout,
                q,
                k,
                v,
                out,
                &lse,
                &state,
                &state,
                &none,
                &none,
                &none,
                queries,
                keys,
                0.0,
                masking.causal,
                None,
            )?;
            Ok([dq, dk, dv])
        }
    }
}

/// Queries, keys and values in packed rows.
fn packed(argument: usize, d: &AttentionDims) -> [HeadRows; 3] {
    let token = d.qkv_cols();
    let first = [0, d.heads, d.heads + d.kv_heads].map(|heads| heads * d.head_dim);
    first.map(|first| HeadRows { argument, first, sequence: d.seq * token, token })
}

fn sizes(d: &AttentionDims) -> AttentionSizes {
    let AttentionDims { batch, seq, heads, kv_heads, head_dim, .. } = *d;
    AttentionSizes { batch, queries: seq, keys: seq, heads, kv_heads, width: head_dim }
}

/// Whether cuDNN runs it for elements of two bytes: it moves 16 bytes at a time, and does not say so where it cannot.
pub fn is_cudnn(d: &AttentionDims, x: &TensorArgs) -> bool {
    let aligned = |i: usize| x.flat(i).is_ok_and(|part| (part.data_ptr() as usize).is_multiple_of(16));
    sizes(d).are_cudnns() && (0..x.len()).all(|i| !x.is_half(i) || aligned(i))
}

pub fn forward(x: &TensorArgs, d: &AttentionDims) -> Outcome {
    attend(x, sizes(d), packed(0, d), Masking { causal: d.causal, mask: None }, 1, 2)
}

pub fn backward(x: &TensorArgs, d: &AttentionDims) -> Outcome {
    let gradient = Gradient { out: 1, lse: 2, dout: 3, to: packed(4, d), adds: false };
    attend_grad(x, sizes(d), packed(0, d), Masking { causal: d.causal, mask: None }, gradient)
}
