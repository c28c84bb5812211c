//! Which device a run uses, by name, and which there are.
//!
//! In: `cpu`, `wgpu:1`, `torch`, `cuda`. Out: devices, or what was found instead.
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
    /// Processor cores, by libtorch.
    Torch,
    /// The CUDA device of this number, by libtorch.
    Cuda(usize),
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
            #[cfg(all(feature = "torch", unix))]
            Backend::Torch | Backend::Cuda(_) => Ok(Box::new(super::Torch::new(rank, buffers, self, threads)?)),
            #[cfg(not(all(feature = "torch", unix)))]
            Backend::Torch | Backend::Cuda(_) => {
                Err(ExecutorError::Device { device: self.to_string(), rank, problem: TORCH_ABSENT.to_owned() })
            }
        }
    }

    /// Whether it runs on processor cores, which ranks share by threads.
    pub fn is_cpu(self) -> bool {
        match self {
            Backend::Cpu | Backend::Torch => true,
            Backend::Wgpu(_) | Backend::Cuda(_) => false,
        }
    }

    /// Whether it is one of torch's CUDA devices.
    pub fn is_cuda(self) -> bool {
        matches!(self, Backend::Cuda(_))
    }

    /// What this machine has of it.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such device, or it cannot be used, naming those there are.
    pub fn find(self) -> Result<Found, ExecutorError> {
        // Without asking drivers that it does not need, which takes time.
        let all = match self {
            Backend::Cpu => vec![cpu()],
            Backend::Wgpu(_) => wgpu(),
            Backend::Torch => vec![torch()],
            Backend::Cuda(_) => cuda(),
        };
        let named = all.into_iter().find(|found| found.name == self.to_string());
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

/// A device that is not there.
fn absent(name: &str, problem: &str) -> Found {
    Found {
        name: name.to_owned(),
        title: String::new(),
        driver: String::new(),
        library: String::new(),
        software: false,
        memory_bytes: 0,
        problem: Some(problem.to_owned()),
    }
}

/// Why there is nothing of torch in this build.
#[cfg(not(all(feature = "torch", unix)))]
const TORCH_ABSENT: &str = "not built in: scripts/torch builds with the feature `torch`, on Linux";

/// Adapters.
#[cfg(feature = "wgpu")]
fn wgpu() -> Vec<Found> {
    match super::wgpu::adapters() {
        adapters if adapters.is_empty() => {
            vec![absent("wgpu", "no adapter: no driver of Vulkan, Metal or D3D 12")]
        }
        adapters => adapters,
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Vec<Found> {
    vec![absent("wgpu", "not built in: build with the feature `wgpu`")]
}

/// Torch's CPU.
#[cfg(all(feature = "torch", unix))]
fn torch() -> Found {
    super::torch::cpu()
}

#[cfg(not(all(feature = "torch", unix)))]
fn torch() -> Found {
    absent("torch", TORCH_ABSENT)
}

/// Torch's CUDA devices.
#[cfg(all(feature = "torch", unix))]
fn cuda() -> Vec<Found> {
    super::torch::cuda()
}

#[cfg(not(all(feature = "torch", unix)))]
fn cuda() -> Vec<Found> {
    vec![absent("cuda:0", TORCH_ABSENT)]
}

/// All devices of this machine, usable or not.
pub fn found() -> Vec<Found> {
    let mut all = vec![cpu()];
    all.extend(wgpu());
    all.push(torch());
    all.extend(cuda());
    all
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Cpu => f.write_str("cpu"),
            Backend::Wgpu(adapter) => write!(f, "wgpu:{adapter}"),
            Backend::Torch => f.write_str("torch"),
            Backend::Cuda(device) => write!(f, "cuda:{device}"),
        }
    }
}

impl FromStr for Backend {
    type Err = ExecutorError;

    fn from_str(name: &str) -> Result<Self, ExecutorError> {
        let unknown = || {
            ExecutorError::bad_input(
                "device",
                name,
                "there is no such kind",
                "give cpu, wgpu, wgpu:N, torch, cuda or cuda:N",
            )
        };
        match name.split_once(':') {
            None if name == "torch" => Ok(Backend::Torch),
            None if name == "cuda" => Ok(Backend::Cuda(0)),
            Some(("cuda", device)) => device.parse().map(Backend::Cuda).map_err(|_| unknown()),
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
        for (name, backend) in [
            ("cpu", Backend::Cpu),
            ("wgpu:0", Backend::Wgpu(0)),
            ("wgpu:12", Backend::Wgpu(12)),
            ("torch", Backend::Torch),
            ("cuda:3", Backend::Cuda(3)),
        ] {
            assert_eq!(name.parse::<Backend>().unwrap(), backend);
            assert_eq!(backend.to_string(), name);
        }
        assert_eq!("wgpu".parse::<Backend>().unwrap(), Backend::Wgpu(0));
        assert_eq!("cuda".parse::<Backend>().unwrap(), Backend::Cuda(0));
        for name in ["abacus", "wgpu:", "wgpu:x", "cpu:1", "torch:1", "cuda:-1", ""] {
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
