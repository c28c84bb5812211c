//! Memory: what ranks held, and whether a machine has what a program declares.
//!
//! In: a program and a device. Out: nothing, or an error with both figures, before anything is allocated.
//!
//! Invariant: where the system does not say what is free, nothing is refused.

use std::fs;
use std::path::Path;

use meshwright_hardware::program::Program;
use meshwright_hardware::units::Bytes;

use crate::device::Backend;
use crate::error::ExecutorError;

/// Bytes a rank held at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankMemory {
    /// For declared buffers.
    pub buffers: u64,
    /// For kernels' working memory.
    pub scratch: u64,
    /// For messages on their way.
    pub staging: u64,
}

impl RankMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.buffers + self.scratch + self.staging
    }
}

/// Refuses a program whose ranks declare more than their device has: free memory of the host, all memory of a GPU whose driver
/// tells it.
///
/// # Errors
/// [`ExecutorError::Device`] with both figures, or if there is no such device.
pub fn check_memory(program: &Program, device: Backend) -> Result<(), ExecutorError> {
    let found = device.find()?;
    let (has, what) = match (found.software, device.entry().tells_memory) {
        (true, _) => (host_free(), "free on this machine"),
        (false, true) => (Some(found.memory_bytes), "all the device has"),
        // Its driver tells no more than the largest buffer.
        (false, false) => (None, ""),
    };
    let mesh = program.mesh;
    let of_rank = |rank| program.roles[program.role_of(mesh.coord_of(rank))].bytes();
    let declared = (0..mesh.ranks()).map(of_rank).fold(0, u64::saturating_add);
    match has {
        Some(has) if declared > has => {
            let (ranks, need, has) = (mesh.ranks(), Bytes(declared), Bytes(has));
            let do_so = "take a smaller microbatch or model, recompute more, or shard more";
            let problem = format!("memory is short: {ranks} rank(s) declare {need}, and {has} is {what}; {do_so}");
            Err(ExecutorError::Device { device: device.to_string(), rank: 0, problem })
        }
        _ => Ok(()),
    }
}

/// Bytes that this process can still have: of the host, its control groups and its address space; none where nobody says.
pub fn host_free() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kilobytes = |text: &str, key: &str| figure(text, key).map(|n| n.saturating_mul(1024));
    let of_host = kilobytes(&read("/proc/meminfo"), "MemAvailable:");
    let limit = figure(&read("/proc/self/limits"), "Max address space");
    let mapped = kilobytes(&read("/proc/self/status"), "VmSize:").unwrap_or(0);
    let of_space = limit.map(|limit| limit.saturating_sub(mapped));
    let of_groups =
        read("/proc/self/cgroup").lines().filter_map(|line| group_free(Path::new("/sys/fs/cgroup"), line)).min();
    [of_host, of_space, of_groups].into_iter().flatten().min()
}

/// What a control group (a line of `/proc/self/cgroup`) and those above it leave: their limit less what is used and cannot be
/// dropped. Version 2 has one tree, version 1 one for memory.
fn group_free(root: &Path, line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let (root, [most, used], dropped) = match controllers {
        "" => (root.to_owned(), ["memory.max", "memory.current"], "inactive_file"),
        "memory" => (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes"], "total_inactive_file"),
        _ => return None,
    };
    // In a container the path may be one of the host's: then only its own root is there.
    let own = root.join(path.trim_start_matches('/'));
    let free = |folder: &Path| -> Option<u64> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let dropped = read("memory.stat").and_then(|stat| figure(&stat, dropped)).unwrap_or(0);
        Some(number(most)?.saturating_sub(number(used)?.saturating_sub(dropped)))
    };
    own.ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(free).min()
}

/// The first number of the line that starts with `key`.
fn figure(table: &str, key: &str) -> Option<u64> {
    let mut values = table.lines().filter_map(|line| line.strip_prefix(key));
    let value = values.find(|rest| rest.starts_with(char::is_whitespace))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_the_whole_key() {
        let table =
            "MemTotal:  1 kB\nMemAvailable:   23 kB\nMax address space         unlimited     unlimited   bytes\n";
        assert_eq!(figure(table, "MemAvailable:"), Some(23));
        assert_eq!(figure(table, "Mem"), None);
        assert_eq!(figure(table, "Max address space"), None, "no limit");
    }

    #[test]
    fn the_tightest_group_counts_and_what_can_be_dropped_is_free() {
        let root = std::env::temp_dir().join(format!("meshwright-groups-{}", std::process::id()));
        let inner = root.join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        let write = |folder: &Path, most: &str, used: &str, stat: &str| {
            fs::write(folder.join("memory.max"), most).unwrap();
            fs::write(folder.join("memory.current"), used).unwrap();
            fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        write(&root.join("outer"), "1000\n", "900\n", "anon 5\ninactive_file 300\n");
        write(&inner, "max\n", "10\n", "");
        assert_eq!(group_free(&root, "0::/outer/inner"), Some(400));
        write(&inner, "100\n", "10\n", "");
        assert_eq!(group_free(&root, "0::/outer/inner"), Some(90));
        assert_eq!(group_free(&root, "4:cpu,cpuacct:/outer/inner"), None);
        assert_eq!(group_free(&root, "0::/not/here"), None);
        fs::remove_dir_all(root).unwrap();
    }
}
