//! Which device a run uses, by name, and which there are.
//!
//! In: `cpu`, `wgpu`, `wgpu:1`. Out: devices, or what was found instead.
//!
//! Invariant: a name means the same device as long as the machine and its drivers are the same.

use std::fmt;
use std::str::FromStr;

use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::Buffer;

use super::{Cpu, Device, device_info};
use crate::error::ExecutorError;

/// A kind of device, and which of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Processor cores.
    #[default]
    Cpu,
    /// The adapter of this number, by Vulkan, Metal or Direct3D 12.
    Wgpu(usize),
}

/// A device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What `--device` calls it.
    pub name: String,
    /// What it calls itself.
    pub title: String,
    /// Interface and driver, with versions.
    pub driver: String,
    /// The library that runs ops on it, with its version.
    pub library: String,
    /// Whether host memory and cores are all it has.
    pub software: bool,
    /// Bytes of memory: the host's where software is all it is; else the largest buffer, as drivers tell no more.
    pub memory_bytes: u64,
    /// Why it cannot be used, if it cannot.
    pub problem: Option<String>,
}

impl Backend {
    /// Allocates a rank's buffers, all zeros, on the device; `threads` are a CPU's.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such device, naming those there are, or memory is short.
    pub fn open(self, rank: Rank, buffers: &[Buffer], threads: usize) -> Result<Box<dyn Device>, ExecutorError> {
        match self {
            Backend::Cpu => Ok(Box::new(Cpu::new(rank, buffers, threads)?)),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(adapter) => Ok(Box::new(super::Wgpu::new(rank, buffers, adapter)?)),
            #[cfg(not(feature = "wgpu"))]
            Backend::Wgpu(_) => Err(self.missing(rank)),
        }
    }

    /// What this machine has of it.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such device, or it cannot be used, naming those there are.
    pub fn find(self) -> Result<Found, ExecutorError> {
        if self == Backend::Cpu {
            // Without asking drivers of GPUs, which takes time.
            return Ok(cpu());
        }
        let named = found().into_iter().find(|found| found.name == self.to_string());
        match named {
            Some(Found { problem: Some(problem), .. }) => {
                Err(ExecutorError::Device { device: self.to_string(), rank: 0, problem })
            }
            Some(found) => Ok(found),
            None => Err(self.missing(0)),
        }
    }

    /// That there is no such device.
    pub(super) fn missing(self, rank: Rank) -> ExecutorError {
        let listed = found().into_iter().map(|found| match found.problem {
            None => format!("{} ({})", found.name, found.title),
            Some(problem) => format!("{}, unusable ({problem})", found.name),
        });
        let problem = format!("there is none on this machine; found: {}", listed.collect::<Vec<_>>().join(", "));
        ExecutorError::Device { device: self.to_string(), rank, problem }
    }
}

/// The processor.
fn cpu() -> Found {
    let info = device_info();
    Found {
        name: Backend::Cpu.to_string(),
        title: info.model,
        driver: format!("{} core(s), {}", info.cores, info.instruction_set),
        library: format!("meshwright-executor {}", env!("CARGO_PKG_VERSION")),
        software: true,
        memory_bytes: info.memory_bytes,
        problem: None,
    }
}

/// All devices of this machine, usable or not.
pub fn found() -> Vec<Found> {
    let absent = |name: &str, problem: &str| Found {
        name: name.to_owned(),
        title: String::new(),
        driver: String::new(),
        library: String::new(),
        software: false,
        memory_bytes: 0,
        problem: Some(problem.to_owned()),
    };
    let mut all = vec![cpu()];
    #[cfg(feature = "wgpu")]
    match super::wgpu::adapters() {
        adapters if adapters.is_empty() => all.push(absent("wgpu", "no adapter: no driver of Vulkan, Metal or D3D 12")),
        adapters => all.extend(adapters),
    }
    #[cfg(not(feature = "wgpu"))]
    all.push(absent("wgpu", "not built in: build with the feature `wgpu`"));
    all.push(absent("torch", "not built in"));
    all
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Cpu => f.write_str("cpu"),
            Backend::Wgpu(adapter) => write!(f, "wgpu:{adapter}"),
        }
    }
}

impl FromStr for Backend {
    type Err = ExecutorError;

    fn from_str(name: &str) -> Result<Self, ExecutorError> {
        let unknown = || ExecutorError::bad_input("device", name, "there is no such kind", "give cpu, wgpu or wgpu:N");
        match name.split_once(':') {
            None if name == "cpu" => Ok(Backend::Cpu),
            None if name == "wgpu" => Ok(Backend::Wgpu(0)),
            Some(("wgpu", adapter)) => adapter.parse().map(Backend::Wgpu).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, backend) in [("cpu", Backend::Cpu), ("wgpu:0", Backend::Wgpu(0)), ("wgpu:12", Backend::Wgpu(12))] {
            assert_eq!(name.parse::<Backend>().unwrap(), backend);
            assert_eq!(backend.to_string(), name);
        }
        assert_eq!("wgpu".parse::<Backend>().unwrap(), Backend::Wgpu(0));
        for name in ["abacus", "wgpu:", "wgpu:x", "cpu:1", ""] {
            let error = name.parse::<Backend>().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("cpu, wgpu"), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_beside_those_that_are() {
        let error = Backend::Wgpu(99).open(0, &[], 1).err().unwrap();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("wgpu:99") && error.to_string().contains("cpu ("), "{error}");
        assert!(Backend::Cpu.find().is_ok() && Backend::Wgpu(99).find().is_err());
    }
}
