//! The links inside a node: a switch, a mesh of pairs, a torus or one memory.
//!
//! In: a profile's [`Link`], then which of the node's devices. Out: their [`Path`] and, in a torus, [`Ring`]s.
//!
//! Invariant: devices fill a torus's dims in order, the first dim fastest.

use crate::profile::{Link, LinkKind};
use crate::units::{ByteRate, Seconds};

/// What a message goes over: its time is `latency + bytes / bandwidth`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Of one message between two devices.
    pub latency: Seconds,
    /// Out of one device, as many come in; after efficiency.
    pub bandwidth: ByteRate,
}

/// A group's ring, or open line, along one dim of a torus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ring {
    /// Devices on it.
    pub size: usize,
    /// Whether its ends are linked: two links of the dim for each device, not one.
    pub closed: bool,
    /// A step to the neighbour: latency over all hops, bandwidth less what interleaved groups take.
    pub path: Path,
}

/// The links inside a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tier {
    kind: LinkKind,
    dims: Vec<usize>,
    wrap: Option<usize>,
    pub(super) path: Path,
}

impl From<&Link> for Path {
    fn from(link: &Link) -> Path {
        Path { latency: link.latency.value, bandwidth: link.bandwidth.value * link.efficiency.value }
    }
}

impl From<&Link> for Tier {
    fn from(link: &Link) -> Tier {
        Tier { kind: link.kind, dims: link.dims.clone(), wrap: link.wrap, path: link.into() }
    }
}

impl Path {
    /// The path whose every part is the worse of two.
    pub(super) fn slower(self, other: Path) -> Path {
        Path { latency: self.latency.max(other.latency), bandwidth: self.bandwidth.min(other.bandwidth) }
    }
}

impl Tier {
    /// The links of `size` devices of a node: `(first, stride)` where they are a progression.
    pub(super) fn group(&self, size: usize, shape: Option<(usize, usize)>, per_node: usize) -> (Path, Vec<Ring>) {
        let Path { latency, bandwidth } = self.path;
        match self.kind {
            LinkKind::Switch | LinkKind::SharedMemory => (self.path, Vec::new()),
            _ if size == 1 => (self.path, Vec::new()),
            // Each device uses its links to the others of the group.
            LinkKind::Mesh => {
                let share = (size - 1) as f64 / (per_node - 1) as f64;
                (Path { latency, bandwidth: bandwidth * share }, Vec::new())
            }
            LinkKind::Torus => {
                let line = || vec![Ring { size, closed: false, path: self.one_link() }];
                let rings = shape.and_then(|(first, stride)| self.rings(first, stride, size)).unwrap_or_else(line);
                let bandwidth = rings.iter().map(|ring| ring.path.bandwidth).sum();
                (Path { latency, bandwidth }, rings)
            }
        }
    }

    fn one_link(&self) -> Path {
        Path { latency: self.path.latency, bandwidth: self.path.bandwidth / (2 * self.dims.len()) as f64 }
    }

    /// Whether the dim's last device is linked to its first.
    fn closes(&self, dim: usize) -> bool {
        self.wrap.is_none_or(|wrap| dim.is_multiple_of(wrap))
    }

    /// The box that a progression of devices makes, a ring a dim; none if it makes no box.
    fn rings(&self, first: usize, mut stride: usize, size: usize) -> Option<Vec<Ring>> {
        let (mut rings, mut left, mut below) = (Vec::new(), size, 1);
        for &dim in &self.dims {
            let cell = below;
            below *= dim;
            if left == 1 || stride.is_multiple_of(below) {
                continue;
            }
            if !stride.is_multiple_of(cell) || stride > below {
                return None;
            }
            let (step, at) = (stride / cell, first / cell % dim);
            let room = (dim - at).div_ceil(step);
            let along = left.min(room);
            if left > room {
                // It goes on in the next dim, which leaves a box only if it fills this one.
                if !dim.is_multiple_of(step) || along != dim / step || !left.is_multiple_of(along) {
                    return None;
                }
                stride = below;
            }
            left /= along;
            let closed = along * step == dim && self.closes(dim);
            let (hop, links) = (self.one_link(), if closed { 2.0 } else { 1.0 });
            // `step` groups lie interleaved along the dim and share its links.
            let path = Path { latency: hop.latency * step as f64, bandwidth: hop.bandwidth * (links / step as f64) };
            rings.extend((along > 1).then_some(Ring { size: along, closed, path }));
        }
        (left == 1).then_some(rings)
    }

    /// What a message between two devices of a node goes over.
    pub(super) fn pair(&self, a: usize, b: usize, per_node: usize) -> Path {
        let Path { latency, bandwidth } = self.path;
        match self.kind {
            LinkKind::Switch | LinkKind::SharedMemory => self.path,
            LinkKind::Mesh => Path { latency, bandwidth: bandwidth / (per_node - 1) as f64 },
            LinkKind::Torus => {
                let (mut hops, mut cell) = (0, 1);
                for &dim in &self.dims {
                    let apart = (a / cell % dim).abs_diff(b / cell % dim);
                    hops += if self.closes(dim) { apart.min(dim - apart) } else { apart };
                    cell *= dim;
                }
                Path { latency: latency * hops as f64, ..self.one_link() }
            }
        }
    }
}
