//! What a machine is: accelerators, the systems they are built into, clusters of systems.
//!
//! In: strict TOML, embedded ([`catalog`]) or a user's. Out: [`DeviceProfile`], [`System`], [`Machine`], [`Cluster`].
//!
//! Invariant: every figure is positive, has a unit and says where it is from; an unknown key is an error.

mod allocator;
mod assumed;
mod catalog;
mod cluster;
mod curve;
mod device;
mod dispatch;
mod error;
mod evidence;
mod inherited;
mod intervals;
mod loss;
mod machine;
mod plausible;
mod shared_by;
mod slice;
mod stack;
mod system;
pub mod user;

pub use allocator::Allocator;
pub use assumed::assumed;
pub use catalog::{Catalog, catalog};
pub use cluster::{Cluster, Wan};
pub use curve::{Curve, EfficiencyCurve, Sample};
pub use device::{DeviceKind, DeviceProfile, Efficiency, Gemm, Provenance};
pub use dispatch::{Routing, TokenDispatch};
pub use error::ProfileError;
pub use evidence::Evidence;
pub use inherited::{StackFigure, StackFigures};
pub use intervals::{Band, CalibratedBands, Intervals, Support};
pub use loss::LossKernel;
pub use machine::Machine;
pub use plausible::Plausible;
pub use shared_by::SharedBy;
pub use stack::{AttentionKernel, FitErrors, GradientSums, Knob, Overheads, Stack};
pub use system::{Link, LinkKind, System};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value and where it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(bound = "T: JsonSchema")]
#[serde(try_from = "SourcedText<T>", bound(deserialize = "T: Deserialize<'de> + Plausible"))]
pub struct Sourced<T> {
    /// The value; within what its [`Plausible`] may be, so above zero.
    pub value: T,
    /// Publication, measurement or assumption it is from; never empty.
    pub source: String,
}

/// [`Sourced`] before it is checked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourcedText<T> {
    /// The value, with its unit.
    value: T,
    /// Publication, measurement or assumption it is from.
    source: String,
}

impl<T: Plausible> TryFrom<SourcedText<T>> for Sourced<T> {
    type Error = String;

    fn try_from(text: SourcedText<T>) -> Result<Self, Self::Error> {
        if text.source.trim().is_empty() {
            return Err("empty `source`: say which document, measurement or assumption the value is from".to_owned());
        }
        let refused = |problem| format!("`value` is {}: {problem}; leave out what is not known", text.value.written());
        text.value.check().map_err(refused)?;
        Ok(Sourced { value: text.value, source: text.source })
    }
}

impl<T> Sourced<T> {
    /// A figure from code: a calibration or a test.
    pub fn new(value: T, source: impl Into<String>) -> Self {
        Sourced { value, source: source.into() }
    }
}
