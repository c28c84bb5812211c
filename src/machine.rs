//! This machine as a profile: calibrated, and kept so that the next run need not measure again.
//!
//! In: ranks and threads. Out: a [`Machine`] whose device carries measured curves.
//!
//! Invariant: nothing but single ops is ever run for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use meshwright_executor::calibrate::{CalibrateConfig, calibrate, default_ops};
use meshwright_executor::device::{Backend, LocalDevice, device_info, found};
use meshwright_hardware::files::read_text;
use meshwright_hardware::op::Op;
use meshwright_hardware::profile::{
    Cluster, Curve, DeviceKind, DeviceProfile, Efficiency, EfficiencyCurve, Link, LinkKind, Machine, Provenance,
    Sample, Sourced, System,
};
use meshwright_hardware::program::Elem;
use meshwright_hardware::units::{ByteRate, Bytes, FlopRate, Precision, Seconds};
use time::OffsetDateTime;

use crate::answer;
use crate::busy::{Busy, LoadWatch};
use crate::failure::Failure;

/// A driver that emulates a GPU takes a second for so much: larger ops would take minutes and tell nothing new.
const EMULATED_FLOPS: f64 = 1e8;

/// So many ranks are measured at a time, or as many as there are cores: each has an arena, and where they share cores an op takes
/// longer with each.
const AT_ONCE: usize = 8;

/// Operands of an op on a GPU take at most this part of its memory, counted in fp32.
const SHARE_OF_MEMORY: u64 = 6;

/// Ranks and threads of each on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What ranks run on.
    pub device: Backend,
    /// Ranks, each a device.
    pub ranks: usize,
    /// Threads of each on the CPU.
    pub threads: usize,
}

impl Share {
    /// All cores on this many ranks; more ranks than cores have one thread each, and are emulated, as are several ranks
    /// on one adapter.
    pub fn of_ranks(device: Backend, ranks: usize) -> Share {
        let threads = if device.entry().shares_cores { (device_info().cores / ranks).max(1) } else { 1 };
        Share { device, ranks, threads }
    }

    /// As many ranks as cores, up to eight; one on an adapter.
    pub fn usual(device: Backend) -> Share {
        let most = if device.entry().shares_cores { device_info().cores } else { 1 };
        Share::of_ranks(device, [8, 4, 2, 1].into_iter().find(|ranks| most >= *ranks).unwrap_or(1))
    }

    /// Whether ranks share cores or an adapter, so that times say nothing of as many devices.
    pub fn emulated(self) -> bool {
        self.ranks > self.shared()
    }

    /// Ranks to measure at a time: all, as in training, unless they are many more than what they share.
    fn at_once(self) -> usize {
        self.ranks.min(AT_ONCE.max(self.shared()))
    }

    /// How much longer ops take when all ranks run than when `ranks` do: they take turns.
    fn turns(self, ranks: usize) -> f64 {
        let each = |ranks: usize| (ranks as f64 / self.shared() as f64).max(1.0);
        each(self.ranks) / each(ranks)
    }

    /// How many ranks what they run on can serve at once: cores, or one adapter.
    fn shared(self) -> usize {
        if self.device.entry().shares_cores { device_info().cores } else { 1 }
    }

    /// In words: `2 rank(s) of 1 thread(s)`.
    pub fn words(self) -> String {
        if self.device.entry().shares_cores {
            format!("{} rank(s) of {} thread(s)", self.ranks, self.threads)
        } else {
            format!("{} rank(s)", self.ranks)
        }
    }
}

/// Measures this machine for about `budget`, in a format. Where others used it meanwhile, once more, and of both what was quicker
/// is kept; and whether they used it still.
pub fn measure(share: Share, precision: Precision, budget: Duration) -> Result<(Machine, Option<Busy>), Failure> {
    let found = share.device.find()?;
    let watch = LoadWatch::start();
    let mut curves = curves(share, precision, budget, &found)?;
    let mut busy = watch.busy();
    if let Some(first) = busy {
        answer::warn(&format!("{first}; it is measured once more …"));
        let watch = LoadWatch::start();
        let again = self::curves(share, precision, budget, &found)?;
        curves = curves.iter().map(|(class, curve)| (class.clone(), quicker(curve, again.get(class)))).collect();
        busy = watch.busy();
    }
    Ok((machine(share, precision, &found, curves), busy))
}

/// A curve with the less of its times and those of another curve of the same ops.
fn quicker(curve: &Curve, other: Option<&Curve>) -> Curve {
    let others = other.map(Curve::samples).unwrap_or_default();
    let less = |sample: &Sample| {
        let same = others.iter().filter(|other| other.dims == sample.dims && other.work == sample.work);
        Sample { seconds: same.fold(sample.seconds, |least, other| least.min(other.seconds)), ..sample.clone() }
    };
    Curve::new(curve.samples().iter().map(less).collect()).expect("of two times one")
}

/// What ops and messages take here.
fn curves(
    share: Share,
    precision: Precision,
    budget: Duration,
    found: &LocalDevice,
) -> Result<BTreeMap<String, Curve>, Failure> {
    let Share { device, ranks, threads } = share;
    let emulator = found.software && !device.entry().shares_cores;
    let elem = Elem::of(precision);
    let large = device.entry().large;
    let room = if large { found.memory_bytes / (SHARE_OF_MEMORY * ranks as u64) } else { u64::MAX };
    let fits = |op: &Op| (!emulator || op.flops() <= EMULATED_FLOPS) && op.bytes() <= room;
    let ops = default_ops(elem, large).into_iter().filter(fits).collect();
    let (at_once, turns) = (share.at_once(), share.turns(share.at_once()));
    if at_once < ranks {
        answer::progress(&format!(
            "{at_once} of the {ranks} ranks are measured at once, and what they take counts {turns}-fold"
        ));
    }
    let config = CalibrateConfig { device, ranks: at_once, threads_per_rank: threads, elem, ops, budget };
    Ok(calibrate(&config)?.into_iter().map(|(class, curve)| (class, slower(&curve, turns))).collect())
}

/// A curve of times so many times as long.
fn slower(curve: &Curve, times: f64) -> Curve {
    let samples = curve.samples().iter().map(|sample| Sample { seconds: sample.seconds * times, ..sample.clone() });
    Curve::new(samples.collect()).expect("longer times are times")
}

/// The machine of an earlier calibration of less than a week ago, or of one now.
pub fn cached(share: Share, precision: Precision, budget: Duration) -> Result<Machine, Failure> {
    let path = cache_file(share, precision, &share.device.find()?);
    let week = Duration::from_secs(7 * 24 * 3600);
    let age = |path: &PathBuf| path.metadata().ok()?.modified().ok()?.elapsed().ok();
    if let Some(path) = path.as_ref().filter(|path| age(path).is_some_and(|age| age < week))
        && let Ok(text) = read_text(path)
        && let Ok(machine) = Machine::from_toml(&path.display().to_string(), &text)
    {
        return Ok(machine);
    }
    answer::progress(&format!("measuring {} of this machine, {}, {precision} …", share.device, share.words()));
    let (machine, busy) = measure(share, precision, budget)?;
    if let Some(busy) = busy {
        // The next run may find it quiet.
        answer::warn(&format!("while it was measured {busy}"));
    } else if let Some(path) = path {
        // A cache that cannot be written costs time, not correctness.
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = crate::out::write_whole(&path, &machine.to_toml());
    }
    Ok(machine)
}

/// The device of this machine that a cluster is the calibration of, if it is that alone: one node, measured here.
pub fn here(cluster: &Cluster) -> Option<Backend> {
    let [machine] = &cluster.pools[..] else { return None };
    let measured = machine.device.calibrated.as_ref().filter(|_| machine.nodes == 1 && cluster.wan.is_none())?;
    let is = |found: &LocalDevice| {
        let memory = memory_of_rank(found, machine.system.count);
        found.problem.is_none() && measured.machine == words(found) && machine.device.memory.value == memory
    };
    // Drivers of others are asked only where the processor is not what was measured.
    let cpu = Backend::CPU.find().ok().filter(is);
    cpu.or_else(|| found().into_iter().find(is))?.name.parse().ok()
}

/// A device as calibrations name it.
fn words(found: &LocalDevice) -> String {
    format!("{}, {}", found.title, found.driver)
}

/// A rank's even share of a device's memory.
fn memory_of_rank(found: &LocalDevice, ranks: usize) -> Bytes {
    Bytes(if found.memory_bytes > 0 { found.memory_bytes / ranks as u64 } else { 4 << 30 })
}

/// Where a calibration is kept; of this version, and this device, driver and library alone.
fn cache_file(share: Share, precision: Precision, found: &LocalDevice) -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home)?;
    let what = format!("{} {} {} {}", found.name, found.title, found.driver, found.library);
    let model: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = format!("{model}-{}x{}-{precision}-{}.toml", share.ranks, share.threads, env!("CARGO_PKG_VERSION"));
    Some(cache.join("meshwright").join(name))
}

fn machine(share: Share, precision: Precision, found: &LocalDevice, curves: BTreeMap<String, Curve>) -> Machine {
    let source = "measured by meshwright hardware calibrate";
    let best = |classes: &[&str]| {
        let samples = classes.iter().filter_map(|class| curves.get(*class)).flat_map(Curve::samples);
        samples.map(|sample| sample.work / sample.seconds).fold(1.0, f64::max)
    };
    let (flops, bytes) = (best(&["matmul-nt", "matmul-nn"]), best(&["zero", "accumulate", "adamw"]));
    let launch = curves.values().flat_map(Curve::samples).map(|s| s.seconds).fold(1e-3, f64::min);
    let link = best(&["all-gather", "send"]);
    let share_of_one =
        || EfficiencyCurve { points: vec![(1.0, 1.0)], source: "the measured curves say it by op".into() };
    let (name, today) = ("this-machine", OffsetDateTime::now_utc().date());
    let device = DeviceProfile {
        measured_mfu: BTreeMap::new(),
        name: name.into(),
        title: match share.device.entry().shares_cores {
            true => format!("{}, {} thread(s) a rank, by {}", found.title, share.threads, found.library),
            false => format!("{} by {}", found.title, found.driver),
        },
        vendor: "any".into(),
        kind: if found.software { DeviceKind::Cpu } else { DeviceKind::Gpu },
        year: today.year() as u16,
        overlap: false,
        own_instructions: false,
        contention: None,
        host_link: None,
        host_memory: None,
        mtbf: None,
        memory: Sourced::new(
            memory_of_rank(found, share.ranks),
            "what the operating system or the driver says, shared evenly",
        ),
        memory_bandwidth: Sourced::new(ByteRate(bytes), source),
        peak: BTreeMap::from([(precision, Sourced::new(FlopRate(flops), source))]),
        launch: Sourced::new(Seconds(launch), source),
        power: None,
        efficiency: Efficiency { matmul: share_of_one(), memory: share_of_one(), attention: share_of_one() },
        gemm: None,
        calibrated: Some(Provenance {
            date: today.to_string(),
            machine: words(found),
            versions: format!("meshwright {}, {}", env!("CARGO_PKG_VERSION"), found.library),
        }),
        curves,
    };
    let scale_up = Link {
        kind: LinkKind::SharedMemory,
        dims: Vec::new(),
        wrap: None,
        bandwidth: Sourced::new(ByteRate(link), source),
        latency: Sourced::new(Seconds(launch), source),
        efficiency: Sourced::new(1.0, source),
    };
    let title = format!("This machine as {} rank(s)", share.ranks);
    let system = System {
        name: name.into(),
        title,
        device: name.into(),
        count: share.ranks,
        scale_up,
        scale_out: None,
        price: None,
        host_capacity: None,
        host_power: None,
        storage: None,
        restart: None,
    };
    Machine { nodes: 1, system, device }
}
