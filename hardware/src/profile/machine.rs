//! Pools: equal systems of one device, and parts of one.
//!
//! In: a system and a device, and how many. Out: [`Machine`].
//!
//! Invariant: a machine is `nodes` equal systems; a part of a system is itself a smaller system.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::system::MOST_DEVICES;
use super::{DeviceProfile, LinkKind, ProfileError, System, catalog, slice};
use crate::input::Fault;

/// A pool: equal systems of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// How many systems.
    pub nodes: usize,
    /// What each holds.
    pub system: System,
    /// What each system holds `system.count` of.
    pub device: DeviceProfile,
}

impl Machine {
    /// Devices in all nodes.
    pub fn devices(&self) -> usize {
        self.nodes * self.system.count
    }

    /// What [`super::Cluster::parse`] reads as this pool, if the catalog has its system; else how many of which system.
    pub fn words(&self) -> String {
        let usual = catalog().systems.iter().find(|system| system.name == self.system.name);
        match usual {
            // A slice of the same size may have another shape.
            Some(usual) if usual.count != self.system.count && self.system.scale_up.kind == LinkKind::Torus => {
                let dims: Vec<String> = self.system.scale_up.dims.iter().map(usize::to_string).collect();
                format!("{} {}", dims.join("x"), self.device.name)
            }
            Some(usual) if usual.count != self.system.count => format!("{}x {}", self.devices(), self.device.name),
            _ => format!("{}x {}", self.nodes, self.system.name),
        }
    }

    /// The machine of a file's text, if its figures fit together; `parts` says whether its system and device stand in tables of
    /// their own.
    pub(super) fn checked(self, file: &str, text: &str, parts: bool) -> Result<Self, ProfileError> {
        let within = |fault: Fault, table: &str| if parts { fault.within(table) } else { fault };
        let checked = self.system.check().map_err(|fault| within(fault, "system"));
        let checked = checked.and_then(|()| self.device.check().map_err(|fault| within(fault, "device")));
        checked.map_err(|fault| ProfileError::of_fault(file, text, fault))?;
        let devices = self.nodes.checked_mul(self.system.count);
        let fault = if self.nodes == 0 {
            Fault::new("nodes", 0, "a machine has at least one node")
        } else if devices.is_none_or(|devices| devices > MOST_DEVICES) {
            Fault::new("nodes", self.nodes, format!("at most {} devices are modelled", MOST_DEVICES))
        } else if self.system.device != self.device.name {
            let problem = format!("the file's device is `{}`", self.device.name);
            Fault::new("system.device", &self.system.device, problem)
        } else {
            return Ok(self);
        };
        Err(ProfileError::of_fault(file, text, fault))
    }

    /// The machine as a file that [`Machine::from_toml`] and [`super::Cluster::parse`] read back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a machine is tables of strings and numbers")
    }

    /// `count` devices of a SKU in its usual system: whole systems, or a part of one.
    pub(super) fn of_devices(
        text: &str,
        count: usize,
        device: &DeviceProfile,
        usual: &System,
    ) -> Result<Self, ProfileError> {
        let per_node = usual.count;
        if count.is_multiple_of(per_node) {
            return Ok(Machine { nodes: count / per_node, system: usual.clone(), device: device.clone() });
        }
        let fail = |problem| ProfileError::Cluster { text: text.to_owned(), problem };
        if count > per_node {
            let (less, more) = (count - count % per_node, count.next_multiple_of(per_node));
            return Err(fail(format!(
                "{count} devices are no whole number of `{}` of {per_node}; {less} or {more} are",
                usual.name
            )));
        }
        Machine::of_part(count, device, usual).map_err(|fault| fail(format!("{count} devices: {}", fault.problem)))
    }

    /// One node of `count` devices: a system, a part of one, or one as it is with more of them.
    ///
    /// # Errors
    /// Where `count` is zero, or no box in the system's torus.
    pub fn of_part(count: usize, device: &DeviceProfile, whole: &System) -> Result<Self, Fault> {
        if count == 0 {
            return Err(Fault::new("count", count, "a node has at least one device"));
        }
        let mut system = whole.clone();
        if system.scale_up.kind == LinkKind::Torus && count != whole.count {
            system.scale_up.dims = slice::of_count(&whole.scale_up, count).ok_or_else(|| {
                let (dims, near) = (&whole.scale_up.dims, slice::near(&whole.scale_up, count));
                Fault::new("count", count, format!("they are no box in the {dims:?} torus of `{}`; {near}", whole.name))
            })?;
        }
        if system.scale_up.kind == LinkKind::Mesh && count > 1 {
            // A mesh's bandwidth is that of all links of a device together: fewer peers, fewer links.
            let share = (count - 1) as f64 / (whole.count.max(2) - 1) as f64;
            system.scale_up.bandwidth.value = system.scale_up.bandwidth.value * share.min(1.0);
        }
        (system.count, system.device) = (count, device.name.clone());
        Ok(Machine { nodes: 1, system, device: device.clone() })
    }

    /// So many times its nodes.
    pub fn times(self, times: usize) -> Self {
        Machine { nodes: self.nodes * times, ..self }
    }
}
