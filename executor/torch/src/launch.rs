//! How a kernel of `../cuda` is launched: its text, its arguments, how wide it moves elements, how many threads it has.
//!
//! In: a kernel's name and arguments. Out: the kernel on this thread's stream.
//!
//! Invariant: arguments are those of the kernel, in its order; a caller's word, in `kernels.rs` alone.

use std::ffi::{CStr, CString, c_void};

use tch::{Kind, Tensor};

use crate::cuda;
use crate::view::{Outcome, n};

const SOURCE: &CStr = match CStr::from_bytes_with_nul(
    concat!(
        include_str!("../cuda/common.cu"),
        include_str!("../cuda/rows.cu"),
        include_str!("../cuda/pointwise.cu"),
        include_str!("../cuda/embed.cu"),
        include_str!("../cuda/loss.cu"),
        include_str!("../cuda/adamw.cu"),
        "\0"
    )
    .as_bytes(),
) {
    Ok(source) => source,
    Err(_) => panic!("a source with a zero"),
};

/// Threads of a block at most, as in `common.cu`.
pub const THREADS: usize = 512;
/// Threads of a block of what goes element by element.
pub const ELEMENTWISE: usize = 256;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum KernelArg {
    Int(i32),
    Long(i64),
    Float(f32),
    Five([f32; 5]),
    Address(*mut c_void),
}

impl KernelArg {
    fn place(&mut self) -> *mut c_void {
        match self {
            KernelArg::Int(value) => std::ptr::from_mut(value).cast(),
            KernelArg::Long(value) => std::ptr::from_mut(value).cast(),
            KernelArg::Float(value) => std::ptr::from_mut(value).cast(),
            KernelArg::Five(value) => std::ptr::from_mut(value).cast(),
            KernelArg::Address(value) => std::ptr::from_mut(value).cast(),
        }
    }
}

/// As the kernels' `int`.
pub fn int(count: usize) -> KernelArg {
    KernelArg::Int(i32::try_from(count).expect("a dim"))
}

/// As the kernels' `i64`.
pub fn long(count: usize) -> KernelArg {
    KernelArg::Long(n(count))
}

/// Where a tensor lies.
pub fn at(tensor: &Tensor) -> KernelArg {
    KernelArg::Address(tensor.data_ptr())
}

/// Runs a kernel in the format of weights and activations: blocks by x and y, threads of each.
pub fn run(kind: Kind, name: &str, blocks: [usize; 2], threads: [usize; 2], values: &mut [KernelArg]) -> Outcome {
    let format = match kind {
        Kind::BFloat16 => 1,
        Kind::Half => 2,
        _ => 0, // a word
    };
    let shape = [blocks[0], blocks[1], threads[0], threads[1]].map(|count| count as u32);
    let mut places: Vec<*mut c_void> = values.iter_mut().map(KernelArg::place).collect();
    let name = CString::new(name).expect("a name without zeros");
    // SAFETY: callers, here and in `kernels.rs`, give what the kernel takes, in its order.
    unsafe { cuda::launch(SOURCE, format, &name, shape, &mut places) }
}

/// How many elements of a format a thread moves at once: 16 bytes, where what lies at `tensors` and runs of elements allow it.
pub fn width(kind: Kind, runs: &[usize], tensors: &[&Tensor]) -> usize {
    let wide = 16 / kind.elt_size_in_bytes();
    let fits = runs.iter().all(|run| run.is_multiple_of(wide))
        && tensors.iter().all(|tensor| (tensor.data_ptr() as usize).is_multiple_of(16));
    if fits { wide } else { 1 }
}

/// A kernel's name in a width.
pub fn named(name: &str, width: usize) -> String {
    format!("{name}_{}", if width == 1 { "1" } else { "w" })
}

/// Threads for a row of so many vectors.
pub fn threads(vectors: usize) -> usize {
    vectors.next_multiple_of(32).clamp(32, THREADS)
}

/// Working memory of so many floats on a tensor's device.
pub fn floats(elems: usize, like: &Tensor) -> Outcome<Tensor> {
    Tensor::f_empty([n(elems)], (Kind::Float, like.device()))
}

/// Runs what goes element by element over rows of so many columns.
pub fn elementwise(
    kind: Kind,
    name: &str,
    [rows, cols]: [usize; 2],
    width: usize,
    values: &mut [KernelArg],
) -> Outcome {
    let chunks = cols.div_ceil(ELEMENTWISE * width);
    run(kind, &named(name, width), [rows * chunks, 1], [ELEMENTWISE, 1], values)
}

/// Counts of its axes.
pub fn size(tensor: &Tensor) -> Vec<usize> {
    tensor.size().into_iter().map(|count| count as usize).collect()
}

/// Rows and columns.
pub fn sizes(tensor: &Tensor) -> [usize; 2] {
    size(tensor).try_into().expect("rows and columns")
}
