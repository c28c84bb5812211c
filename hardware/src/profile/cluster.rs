//! Clusters by name or file: `512x dgx-a100-80gb`, two pools joined by `+`, a calibrated machine's `.toml`, or several
//! equal sites: `4x(125x dgx-h100) @ 10 Gbit/s 50 ms`.
//!
//! In: text, the catalog, files. Out: [`Cluster`].
//!
//! Invariant: what is shown of a cluster of the catalog's is read as the same cluster.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::system::MOST_DEVICES;
use super::{DeviceKind, DeviceProfile, LinkKind, Machine, Plausible, ProfileError, Stack, catalog, slice, user};
use crate::units::{ByteRate, Seconds};

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

impl Cluster {
    /// The most devices that are modelled, of all pools and sites.
    pub const MOST_DEVICES: usize = MOST_DEVICES;

    /// Reads `COUNTx NAME [+ COUNTx NAME …]`, where NAME is a system or a device in its usual system, a profile of the user's folder
    /// ([`user::folder`]), or a path ending in `.toml`; of a torus also `8x8x16 NAME`; or several such sites, `COUNTx(POOLS) @ BANDWIDTH LATENCY`. A file of that very name is a machine's, whatever
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
    let fail = |problem: &str| ProfileError::Cluster { text: text.to_owned(), problem: problem.to_owned() };
    let is_file = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "toml");
    if is_file(part) && Path::new(part).is_file() {
        return Machine::read(Path::new(part));
    }
    if let Some((shape, name)) = part.rsplit_once(' ').and_then(|(shape, name)| Some((slice::sides(shape)?, name))) {
        return shaped(text, &shape, name);
    }
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
    if let Some(path) = user::file_of(name).filter(|_| !catalog.knows(name)) {
        return Ok(Machine::read(&path)?.times(count));
    }
    if is_file(name) {
        return Ok(Machine::read(Path::new(name))?.times(count));
    }
    let device = catalog.device(name).map_err(|_| catalog.unknown(name))?;
    let usual = catalog.usual_system(device).ok_or_else(|| fail("no system in the catalog holds this device"))?;
    Machine::of_devices(text, count, device, usual)
}

/// `8x8x16 tpu-v5p`: a slice of a torus by its sides.
fn shaped(text: &str, sides: &[usize], name: &str) -> Result<Machine, ProfileError> {
    let fail = |problem: String| ProfileError::Cluster { text: text.to_owned(), problem };
    let catalog = catalog();
    let system = match catalog.systems.iter().find(|system| system.name == name) {
        Some(system) => system,
        None => {
            let device = catalog.device(name).map_err(|_| catalog.unknown(name))?;
            catalog.usual_system(device).ok_or_else(|| fail("no system in the catalog holds this device".to_owned()))?
        }
    };
    let words = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    if system.scale_up.kind != LinkKind::Torus {
        return Err(fail(format!(
            "shapes such as {} are shapes of a torus, and `{}` is none: give a count",
            words(sides),
            system.name
        )));
    }
    let dims = slice::of_sides(&system.scale_up, sides).ok_or_else(|| {
        let dims = words(&system.scale_up.dims);
        fail(format!("{} does not fit: `{}` has the dims {dims}, and no side is longer", words(sides), system.name))
    })?;
    let mut system = system.clone();
    system.count = dims.iter().product();
    system.scale_up.dims = dims;
    let device = catalog.device(&system.device)?.clone();
    Ok(Machine { nodes: 1, system, device })
}
