//! Which devices a run can use, by name.
//!
//! In: `cpu`, `wgpu:1`, `torch`, `cuda`. Out: devices, or what was found instead.
//!
//! Invariant: a name means the same device as long as the machine and its drivers are the same.

use std::str::FromStr;

use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::Buffer;

use super::driver::{Backend, Driver, LocalDevice};
use super::{DEVICES, Device};
use crate::error::ExecutorError;

/// A kind of device.
pub struct Entry {
    /// What `--device` calls it.
    pub name: &'static str,
    /// Whether there may be several, which are named `name:0`, `name:1`, … .
    pub numbered: bool,
    /// Whether it runs on processor cores, which ranks share by threads.
    pub shares_cores: bool,
    /// Whether it is large enough for sizes at which a datacenter's accelerator is busy.
    pub large: bool,
    /// Whether it captures calls that come again, as CUDA graphs do, so that the first rounds tell nothing of later ones.
    pub captures: bool,
    /// Its code, or why there is none in this build.
    pub driver: Result<Driver, &'static str>,
}

impl Entry {
    /// What processors have in common.
    pub(super) const PROCESSOR: Entry = Entry {
        name: "",
        numbered: false,
        shares_cores: true,
        large: false,
        captures: false,
        driver: Err("no driver"),
    };

    /// What GPUs of any size have in common.
    pub(super) const GPU: Entry = Entry { numbered: true, shares_cores: false, ..Entry::PROCESSOR };

    /// One of them.
    fn backend(&self, number: usize) -> Backend {
        Backend { name: self.name, number: self.numbered.then_some(number) }
    }
}

impl Backend {
    /// Its kind.
    pub fn entry(self) -> &'static Entry {
        DEVICES.iter().find(|entry| entry.name == self.name).expect("a device is read from the table")
    }

    /// Allocates a rank's buffers, all zeros, on the device; `threads` are a CPU's.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such device, naming those there are, or memory is short.
    pub fn open(self, rank: Rank, buffers: &[Buffer], threads: usize) -> Result<Box<dyn Device>, ExecutorError> {
        match &self.entry().driver {
            Ok(driver) => (driver.open)(self, rank, buffers, threads).map_err(|problem| {
                let there = self.number() < of_kind(self.entry()).len();
                if there { problem } else { self.missing(rank) }
            }),
            Err(problem) => Err(self.failed(rank, (*problem).to_owned())),
        }
    }

    /// What this machine has of it.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such device, or it cannot be used, naming those there are.
    pub fn find(self) -> Result<LocalDevice, ExecutorError> {
        // Without asking drivers that it does not need, which takes time.
        match of_kind(self.entry()).into_iter().nth(self.number()) {
            Some(LocalDevice { problem: Some(problem), .. }) => Err(self.failed(0, format!("{problem}; {}", listed()))),
            Some(found) => Ok(found),
            None => Err(self.missing(0)),
        }
    }

    /// That there is no such device.
    fn missing(self, rank: Rank) -> ExecutorError {
        self.failed(rank, format!("there is none on this machine; {}", listed()))
    }

    /// The names that can be read, in words: `cpu, wgpu, wgpu:N, …`.
    pub fn names() -> String {
        let names = DEVICES.iter().flat_map(|entry| {
            let numbered = entry.numbered.then(|| format!("{}:N", entry.name));
            [Some(entry.name.to_owned()), numbered].into_iter().flatten()
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// This machine's devices of a kind.
fn of_kind(entry: &'static Entry) -> Vec<LocalDevice> {
    let found = match &entry.driver {
        Ok(driver) => (driver.find)(),
        Err(problem) => vec![LocalDevice::absent(*problem)],
    };
    let named = |(number, found)| LocalDevice { name: entry.backend(number).to_string(), ..found };
    found.into_iter().enumerate().map(named).collect()
}

/// Every device of this machine in words, with what keeps it from being used.
fn listed() -> String {
    let listed = found().into_iter().map(|found| match found.problem {
        None => format!("{} ({})", found.name, found.title),
        Some(problem) => format!("{}, unusable ({problem})", found.name),
    });
    format!("found: {}", listed.collect::<Vec<_>>().join(", "))
}

/// All devices of this machine, usable or not.
pub fn found() -> Vec<LocalDevice> {
    DEVICES.iter().flat_map(of_kind).collect()
}

impl FromStr for Backend {
    type Err = ExecutorError;

    fn from_str(text: &str) -> Result<Self, ExecutorError> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let entry = DEVICES.iter().find(|entry| entry.name == name && (entry.numbered || number.is_none()));
        match (entry, number.map_or(Ok(0), str::parse)) {
            (Some(entry), Ok(number)) => Ok(entry.backend(number)),
            _ => {
                let known = format!("give one of {}", Backend::names());
                Err(ExecutorError::bad_input("device", text, "there is no such kind", &known))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for entry in DEVICES {
            for number in [0, 3, 12].into_iter().take(if entry.numbered { 3 } else { 1 }) {
                let backend = entry.backend(number);
                assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
            }
            assert_eq!(entry.name.parse::<Backend>().unwrap(), entry.backend(0));
            assert!(DEVICES.iter().filter(|other| other.name == entry.name).count() == 1);
        }
        assert!(Backend::names().starts_with("cpu, wgpu, wgpu:N, torch, cuda, cuda:N"));
        assert_eq!("cpu".parse::<Backend>().unwrap(), Backend::CPU);
        assert_eq!("cuda:3".parse::<Backend>().unwrap().to_string(), "cuda:3");
        for name in ["abacus", "wgpu:", "wgpu:x", "cpu:1", "torch:1", "cuda:-1", ""] {
            let error = name.parse::<Backend>().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(&Backend::names()), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_beside_those_that_are() {
        let far: Backend = "wgpu:99".parse().unwrap();
        let error = far.open(0, &[], 1).err().unwrap();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("wgpu:99"), "{error}");
        assert!(Backend::CPU.find().is_ok());
        let error = far.find().unwrap_err().to_string();
        assert!(error.contains("wgpu:99") && error.contains("cpu ("), "{error}");
    }
}
