//! A node, pod or cloud instance: how many devices, joined how, at what price.
//!
//! In: `profiles/systems/*.toml`. Out: [`System`].
//!
//! Invariant: a torus has dims, and they multiply to the system's device count; nothing but a torus has dims.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sourced;
use crate::input::Fault;
use crate::units::{ByteRate, Bytes, Dollars, Seconds, Watts};

/// The most devices that are modelled, of a system, and of all pools and sites.
pub(super) const MOST_DEVICES: usize = 1 << 20;

/// A node, pod or instance: the devices that scale-up links join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Name on the command line and of the file.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Name of the device it holds.
    pub device: String,
    /// Devices a system.
    pub count: usize,
    /// What joins the devices of a system.
    pub scale_up: Link,
    /// What joins systems; none if they cannot be joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_out: Option<Link>,
    /// Price of a device-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Sourced<Dollars>>,
    /// What host, fans and network cards draw for each device, beside the device's own power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_power: Option<Sourced<Watts>>,
    /// Memory of a node's host, or hosts, for each device of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_capacity: Option<Sourced<Bytes>>,
    /// What a device writes of a checkpoint, or reads, while all others do too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Sourced<ByteRate>>,
    /// From a failure to the moment at which the job reads its checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Sourced<Seconds>>,
}

/// A tier of the network as one device sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its shape.
    pub kind: LinkKind,
    /// Devices along each dim of a torus, fastest varying first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dims: Vec<usize>,
    /// A torus's rings close where a slice is a multiple of this long; without it, only where it spans the dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrap: Option<usize>,
    /// Bytes a second out of one device, over all its links of this tier; as many come in. Of what a node's devices share, a
    /// device's part: 8 ports of 400 Gb/s in a node of 8 are 50 GB/s. Files before 2026-12 say `bandwidth`.
    #[serde(rename = "bandwidth_per_device", alias = "bandwidth")]
    pub bandwidth: Sourced<ByteRate>,
    /// One step of a collective, or a message, between two devices.
    pub latency: Sourced<Seconds>,
    /// Share of the bandwidth that large messages reach; at most one.
    pub efficiency: Sourced<f64>,
}

/// The shape of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// Any device reaches any other at full bandwidth.
    Switch,
    /// Links between pairs: a ring through all devices uses all of them, a pair only its own.
    Mesh,
    /// Rings along each dim.
    Torus,
    /// One memory: a message is a copy.
    SharedMemory,
}

/// Devices in a torus.
fn devices(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim))
}

impl System {
    /// What serde cannot see: how figures fit together.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let fault = |key: &str, value: String, problem: &str| Err(Fault::new(key, value, problem));
        if !(1..=MOST_DEVICES).contains(&self.count) {
            let problem = format!("a system has at least one device, and at most {} are modelled", MOST_DEVICES);
            return fault("count", self.count.to_string(), &problem);
        }
        for (key, link) in [("scale_up", Some(&self.scale_up)), ("scale_out", self.scale_out.as_ref())] {
            let Some(link) = link else { continue };
            if link.efficiency.value > 1.0 {
                let (key, value) = (format!("{key}.efficiency.value"), link.efficiency.value);
                return fault(&key, value.to_string(), "a share is at most 1");
            }
            if link.kind == LinkKind::Torus && key == "scale_out" {
                return fault("scale_out.kind", "torus".to_owned(), "only scale_up can be a torus");
            }
            if link.kind != LinkKind::Torus && !link.dims.is_empty() {
                return fault(&format!("{key}.dims"), format!("{:?}", link.dims), "only a torus has dims");
            }
        }
        let dims = &self.scale_up.dims;
        if self.scale_up.kind == LinkKind::Torus && devices(dims) != Some(self.count) {
            return fault("scale_up.dims", format!("{dims:?}"), &format!("dims multiply to `count`, {}", self.count));
        }
        Ok(())
    }
}
