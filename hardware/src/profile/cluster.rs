//! Clusters by name or file: `512x dgx-a100-80gb`, two pools joined by `+`, a calibrated machine's `.toml`, or several
//! equal sites: `4x(125x dgx-h100) @ 10 Gbit/s 50 ms`.
//!
//! In: text, the catalog, a machine file. Out: [`Machine`] and [`Cluster`].
//!
//! Invariant: a machine is `nodes` equal systems; a part of a system is itself a smaller system.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::system::MOST_DEVICES;
use super::{DeviceKind, DeviceProfile, LinkKind, Plausible, ProfileError, Stack, System, catalog};
use crate::files::read_text;
use crate::input::Fault;
use crate::units::{ByteRate, Seconds};

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

/// One or more pools, of different devices too; one such site, or several equal ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The pools of a site; ranks fill them in order.
    pub pools: Vec<Machine>,
    /// How sites are joined, if there are several.
    pub wan: Option<Wan>,
    /// The software that runs on all devices.
    pub stack: Arc<Stack>,
}

/// Equal sites and what joins them: each has one such link, which all its devices share, to a network that carries what all
/// links bring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wan {
    /// How many sites.
    pub sites: usize,
    /// Bytes a second out of a site; as many come in. What transfers reach, headers and congestion taken off.
    pub bandwidth: ByteRate,
    /// Of one message from site to site.
    pub latency: Seconds,
}

impl Machine {
    /// Devices in all nodes.
    pub fn devices(&self) -> usize {
        self.nodes * self.system.count
    }

    /// What [`Cluster::parse`] reads as this pool, if the catalog has its system; else how many of which system.
    pub fn words(&self) -> String {
        let usual = catalog().systems.iter().find(|system| system.name == self.system.name);
        match usual {
            Some(usual) if usual.count != self.system.count => format!("{}x {}", self.devices(), self.device.name),
            _ => format!("{}x {}", self.nodes, self.system.name),
        }
    }

    /// Reads the machine in a file, whatever the file's name.
    pub fn read(file: &Path) -> Result<Self, ProfileError> {
        let name = file.display().to_string();
        Machine::from_toml(&name, &read_text(file)?)
    }

    /// Reads a machine file; errors name `file`, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, ProfileError> {
        let machine: Machine = toml::from_str(text).map_err(|error| ProfileError::of_toml(file, text, &error))?;
        let checked = machine.system.check().map_err(|fault| fault.within("system"));
        let checked = checked.and_then(|()| machine.device.check().map_err(|fault| fault.within("device")));
        checked.map_err(|fault| ProfileError::of_fault(file, text, fault))?;
        let devices = machine.nodes.checked_mul(machine.system.count);
        let fault = if machine.nodes == 0 {
            Fault::new("nodes", 0, "a machine has at least one node")
        } else if devices.is_none_or(|devices| devices > Cluster::MOST_DEVICES) {
            Fault::new("nodes", machine.nodes, format!("at most {} devices are modelled", Cluster::MOST_DEVICES))
        } else if machine.system.device != machine.device.name {
            let problem = format!("the file's device is `{}`", machine.device.name);
            Fault::new("system.device", &machine.system.device, problem)
        } else {
            return Ok(machine);
        };
        Err(ProfileError::of_fault(file, text, fault))
    }

    /// The machine as a file that [`Machine::from_toml`] and [`Cluster::parse`] read back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a machine is tables of strings and numbers")
    }

    /// `count` devices of a SKU in its usual system: whole systems, or a part of one.
    fn of_devices(text: &str, count: usize, device: &DeviceProfile, usual: &System) -> Result<Self, ProfileError> {
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
            let dims = torus_slice(&system.scale_up.dims, count);
            system.scale_up.dims = dims.ok_or_else(|| {
                let problem = format!("they are no box in the {:?} torus of `{}`", whole.scale_up.dims, whole.name);
                Fault::new("count", count, problem)
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

/// The most cubic box of `count` devices in a torus, dims that divide its own, largest first.
fn torus_slice(dims: &[usize], count: usize) -> Option<Vec<usize>> {
    let Some((&first, rest)) = dims.split_first() else { return (count == 1).then(Vec::new) };
    let fits = |side: &usize| first.is_multiple_of(*side) && count.is_multiple_of(*side);
    let boxes = (1..=first).filter(fits).filter_map(|side| {
        let mut all = vec![side];
        all.extend(torus_slice(rest, count / side)?);
        Some(all)
    });
    boxes.min_by_key(|sides| (sides.iter().sum::<usize>(), std::cmp::Reverse(sides.clone())))
}

impl Cluster {
    /// The most devices that are modelled, of all pools and sites.
    pub const MOST_DEVICES: usize = MOST_DEVICES;

    /// Reads `COUNTx NAME [+ COUNTx NAME …]`, where NAME is a system or a device in its usual system, or a path ending in
    /// `.toml`; or several such sites, `COUNTx(POOLS) @ BANDWIDTH LATENCY`. A file of that very name is a machine's, whatever
    /// signs are in its name. An unknown name's error lists near ones.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        if Path::new(text).is_file() {
            return Ok(Cluster::from(Machine::read(Path::new(text))?));
        }
        let (site, wan) = match text.split_once('@') {
            Some((sites, link)) => {
                let (count, site) = several(text, sites.trim())?;
                let (bandwidth, latency) = wan_link(text, link)?;
                (site, (count > 1).then_some(Wan { sites: count, bandwidth, latency }))
            }
            None if text.contains('(') => {
                let problem = "sites need a link: put `@ 10 Gbit/s 50 ms` behind them".to_owned();
                return Err(ProfileError::Cluster { text: text.to_owned(), problem });
            }
            None => (text, None),
        };
        let pools = site.split('+').map(|part| pool(text, part.trim())).collect::<Result<Vec<_>, _>>()?;
        let cluster = Cluster { pools, wan, stack: Stack::ideal() };
        let devices = cluster.pools.iter().try_fold(0_usize, |sum, pool| sum.checked_add(pool.devices()));
        let all = devices.and_then(|devices| devices.checked_mul(cluster.sites()));
        if all.is_none_or(|all| all > Cluster::MOST_DEVICES) {
            return Err(too_many(text));
        }
        Ok(cluster)
    }

    /// The stack that plans for it are priced with unless another is named: on a measured machine and on processors the
    /// executor's own, whose curves say all; else the one that is stated for all its devices, or the typical one.
    pub fn usual_stack(&self) -> Arc<Stack> {
        let usual = |device: &DeviceProfile| {
            let own = device.calibrated.is_some() || device.kind == DeviceKind::Cpu;
            let stated = catalog().stacks.iter().find(|stack| stack.default_for.contains(&device.name));
            if own { Stack::EXECUTOR } else { stated.map_or(Stack::TYPICAL, |stack| &stack.name) }
        };
        let first = usual(&self.pools[0].device);
        let alike = self.pools.iter().all(|pool| usual(&pool.device) == first);
        Arc::clone(catalog().stack(if alike { first } else { Stack::TYPICAL }).expect("it is embedded"))
    }

    /// The same machines under other software.
    pub fn under(self, stack: Arc<Stack>) -> Self {
        Cluster { stack, ..self }
    }

    /// Devices in all pools of a site.
    pub fn devices(&self) -> usize {
        self.pools.iter().map(Machine::devices).sum()
    }

    /// How many sites.
    pub fn sites(&self) -> usize {
        self.wan.map_or(1, |wan| wan.sites)
    }

    /// The ranks that each pool's devices are.
    pub fn ranks(&self) -> impl Iterator<Item = Range<usize>> {
        let mut first = 0;
        self.pools.iter().map(move |pool| {
            first += pool.devices();
            first - pool.devices()..first
        })
    }

    /// The pool whose device a rank is, if there is one.
    pub fn pool_of(&self, rank: usize) -> Option<usize> {
        self.ranks().position(|ranks| ranks.contains(&rank))
    }
}

impl From<Machine> for Cluster {
    /// One pool at one site.
    fn from(machine: Machine) -> Self {
        Cluster { pools: vec![machine], wan: None, stack: Stack::ideal() }
    }
}

impl std::fmt::Display for Cluster {
    /// What [`Cluster::parse`] reads, of pools from the catalog.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pools = self.pools.iter().map(Machine::words).collect::<Vec<_>>().join(" + ");
        match self.wan {
            None => f.pad(&pools),
            Some(Wan { sites, bandwidth, latency }) => {
                f.pad(&format!("{sites}x({pools}) @ {} {}", bandwidth.exact(), latency.exact()))
            }
        }
    }
}

impl FromStr for Cluster {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        Cluster::parse(text)
    }
}

/// More devices than are modelled.
fn too_many(text: &str) -> ProfileError {
    let problem = format!("at most {} devices are modelled", Cluster::MOST_DEVICES);
    ProfileError::Cluster { text: text.to_owned(), problem }
}

/// `4x(…)`: how many, and what is in the brackets.
fn several<'a>(text: &str, sites: &'a str) -> Result<(usize, &'a str), ProfileError> {
    let fail = |problem: &str| ProfileError::Cluster { text: text.to_owned(), problem: problem.to_owned() };
    let shape = "sites read `4x(125x dgx-h100) @ 10 Gbit/s 50 ms`";
    let (count, rest) = sites.split_once(['x', '×']).ok_or_else(|| fail(shape))?;
    let site = rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(|| fail(shape))?;
    match count.trim().parse() {
        Ok(0) => Err(fail("the count of sites is 0")),
        Ok(count) => Ok((count, site)),
        Err(_) => Err(fail(shape)),
    }
}

/// `10 Gbit/s 50 ms`.
fn wan_link(text: &str, link: &str) -> Result<(ByteRate, Seconds), ProfileError> {
    let words: Vec<&str> = link.split_whitespace().collect();
    let at = |split: usize| -> Option<(ByteRate, Seconds)> {
        Some((words[..split].join(" ").parse().ok()?, words[split..].join(" ").parse().ok()?))
    };
    let found = (1..words.len()).find_map(at).filter(|(bandwidth, latency)| {
        // A latency of nothing is an ideal network's.
        bandwidth.check().is_ok() && *latency <= Seconds::MOST
    });
    found.ok_or_else(|| {
        let problem = format!("`{}` is no bandwidth above zero and latency, such as `10 Gbit/s 50 ms`", link.trim());
        ProfileError::Cluster { text: text.to_owned(), problem }
    })
}

fn pool(text: &str, part: &str) -> Result<Machine, ProfileError> {
    if Path::new(part).extension().is_some_and(|extension| extension == "toml") {
        return Machine::read(Path::new(part));
    }
    let fail = |problem: &str| ProfileError::Cluster { text: text.to_owned(), problem: problem.to_owned() };
    let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
    let (count, name) = match part[digits..].strip_prefix(['x', '×']) {
        Some(name) if digits > 0 => (&part[..digits], name.trim()),
        _ => ("1", part),
    };
    let count = count.parse().ok().filter(|count| *count <= Cluster::MOST_DEVICES).ok_or_else(|| too_many(text))?;
    if count == 0 || name.is_empty() {
        return Err(fail(if count == 0 { "the count is 0" } else { "a name is missing" }));
    }
    let catalog = catalog();
    if let Some(system) = catalog.systems.iter().find(|system| system.name == name) {
        return Ok(Machine { nodes: count, system: system.clone(), device: catalog.device(&system.device)?.clone() });
    }
    let device = catalog.device(name).map_err(|_| catalog.unknown(name))?;
    let usual = catalog.usual_system(device).ok_or_else(|| fail("no system in the catalog holds this device"))?;
    Machine::of_devices(text, count, device, usual)
}
