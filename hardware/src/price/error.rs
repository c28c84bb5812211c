//! Why something has no price.
//!
//! In: what a profile lacks, or a step of years. Out: a message with what would do.

use crate::simulate::SimulateError;
use crate::topology::TopologyError;
use crate::units::Precision;

/// Why something has no price.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PriceError {
    /// The device multiplies neither this format nor one that stands in for it.
    #[error("`{device}` does not multiply {precision}; its formats are {formats} (`peak` of its profile)")]
    NoPeak {
        /// The device.
        device: String,
        /// The format.
        precision: Precision,
        /// Those that it has.
        formats: String,
    },
    /// A device that was measured in another format.
    #[error("`{device}` was measured in {measured}; measure it with --precision {precision}, or plan in {measured}")]
    Measured {
        /// The device.
        device: String,
        /// In which format.
        measured: Precision,
        /// Wanted.
        precision: Precision,
    },
    /// The mesh needs more devices than there are.
    #[error("the plan has {ranks} ranks, the cluster {devices} devices; use a cluster of {ranks} or more")]
    TooFew {
        /// Ranks of the mesh.
        ranks: usize,
        /// Devices of the cluster.
        devices: usize,
    },
    /// Nothing is known of the way to the host's memory.
    #[error(
        "`{device}` has no `host_link`, over which the plan moves activations; give its profile one, or offload none"
    )]
    NoHostLink {
        /// The device.
        device: String,
    },
    /// A step of years: the simulator's clock ends.
    #[error(
        "a step takes some {years:.0e} years on `{device}`: a figure of its profile or a size of the job is far off, or it is no \
         device for it"
    )]
    Endless {
        /// The first lane's device.
        device: String,
        /// All ranks' work, one after the other.
        years: f64,
    },
    /// Two ranks have no way to each other.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The program does not simulate.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}
