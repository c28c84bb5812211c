//! What this machine's processor is.
//!
//! In: the system's tables. Out: what a profile says of a host.
//!
//! Invariant: never fails; what the system does not tell is named unknown or zero.

use std::fs;
use std::thread;

/// A host as its system describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The processor's model, as it calls itself.
    pub model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The widest instruction set that kernels use here.
    pub instruction_set: &'static str,
    /// Memory of the machine in bytes; zero if unknown.
    pub memory_bytes: u64,
}

/// Describes the machine that this process runs on.
pub fn device_info() -> DeviceInfo {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model = value_of(&cpu, "model name").or_else(|| value_of(&cpu, "Model")).unwrap_or(std::env::consts::ARCH);
    let total = value_of(&memory, "MemTotal").and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
    DeviceInfo {
        model: model.to_owned(),
        cores: thread::available_parallelism().map_or(1, |n| n.get()),
        instruction_set: instruction_set(),
        memory_bytes: total.unwrap_or(0) * 1024,
    }
}

/// The value in the first line `key : value`.
fn value_of<'a>(table: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = table.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "AVX2"
    } else {
        "SSE2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_by_key() {
        let table = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: other\n";
        assert_eq!(value_of(table, "model name"), Some("Some CPU @ 3 GHz"));
        assert_eq!(value_of(table, "Model"), None);
    }

    #[test]
    fn this_machine_has_cores_and_a_name() {
        let info = device_info();
        assert!(info.cores > 0 && !info.model.is_empty());
    }
}
