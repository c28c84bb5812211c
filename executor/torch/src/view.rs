//! Regions as tensors.
//!
//! In: buffers, regions. Out: views of them in the shapes that ops give their arguments.
//!
//! Invariant: a view lies in its region.

use meshwright_executor::device::Region;
use tch::{Device, Kind, TchError, Tensor};

/// What ops give.
pub type Outcome<T = ()> = Result<T, TchError>;

/// An op's arguments, by their place in its signature.
pub struct TensorArgs<'a> {
    pub buffers: &'a [Tensor],
    pub regions: &'a [Region],
}

/// As libtorch counts.
pub fn n(count: usize) -> i64 {
    count as i64
}

impl TensorArgs<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    fn memory(&self, argument: usize) -> &Tensor {
        &self.buffers[self.regions[argument].buffer]
    }

    /// What an argument's elements are; numbers of tokens and places are said to be floats.
    pub fn kind(&self, argument: usize) -> Kind {
        self.memory(argument).kind()
    }

    /// Whether an argument's elements are of two bytes.
    pub fn is_half(&self, argument: usize) -> bool {
        self.kind(argument) != Kind::Float
    }

    /// Whether arguments lie on a CUDA device.
    pub fn is_cuda(&self) -> bool {
        matches!(self.memory(0).device(), Device::Cuda(_))
    }

    /// An argument, row-major.
    pub fn of<const D: usize>(&self, argument: usize, size: [usize; D]) -> Outcome<Tensor> {
        let mut stride = [1; D];
        for axis in (1..D).rev() {
            stride[axis - 1] = stride[axis] * size[axis];
        }
        self.strided(argument, size, stride, 0)
    }

    /// A part of an argument, from its element `first` on.
    pub fn strided<const D: usize>(
        &self,
        argument: usize,
        size: [usize; D],
        stride: [usize; D],
        first: usize,
    ) -> Outcome<Tensor> {
        let Region { buffer, start, elems } = self.regions[argument];
        let last: usize = size.iter().zip(stride).map(|(size, stride)| size.saturating_sub(1) * stride).sum();
        assert!(first + last < elems.max(1), "argument {argument}: {size:?} by {stride:?} from {first} in {elems}");
        self.buffers[buffer].f_as_strided(&size.map(n)[..], &stride.map(n)[..], Some(n(start + first)))
    }

    /// A whole argument.
    pub fn flat(&self, argument: usize) -> Outcome<Tensor> {
        self.of(argument, [self.regions[argument].elems])
    }

    /// Numbers of tokens or places, as signed integers: −1 is none.
    pub fn numbers(&self, argument: usize) -> Outcome<Tensor> {
        self.flat(argument)?.f_view_dtype(Kind::Int)
    }
}
