//! Memory: what ranks held, and whether a machine has what a program declares.
//!
//! In: a program and a device. Out: nothing, or an error with both figures, before anything is allocated.
//!
//! Invariant: where the system does not say what is free, nothing is refused.

use std::fs;
use std::path::Path;

use meshwright_hardware::program::Program;
use meshwright_hardware::units::Bytes;

use crate::device::{Backend, LocalDevice, Memory};
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
/// tells it; or a buffer larger than the device allows.
///
/// # Errors
/// [`ExecutorError::Device`] with both figures, or if there is no such device.
pub fn check_memory(program: &Program, device: Backend) -> Result<(), ExecutorError> {
    let short = |problem: String| ExecutorError::Device { device: device.to_string(), rank: 0, problem };
    fits(program, &device.find()?, host_free()).map_err(|problem| {
        short(format!("memory is short: {problem}; take a smaller microbatch or model, recompute more, or shard more"))
    })
}

/// Whether a device has what a program's ranks declare, where the host has so much free.
fn fits(program: &Program, device: &LocalDevice, host_free: Option<u64>) -> Result<(), String> {
    let buffers = program.roles.iter().flat_map(|role| &role.buffers);
    if let (Some(most), Some(buffer)) = (device.largest_buffer, buffers.max_by_key(|buffer| buffer.bytes()))
        && buffer.bytes() > most
    {
        let (name, need, most) = (&buffer.name, Bytes(buffer.bytes()), Bytes(most));
        return Err(format!("buffer `{name}` takes {need}, and the device allows {most} (its max_buffer_size)"));
    }
    let (has, what) = match device.memory {
        Memory::Host => (host_free, "free on this machine"),
        Memory::Own => (Some(device.memory_bytes), "all the device has"),
        Memory::Untold => (None, ""),
    };
    let mesh = program.mesh;
    let of_rank = |rank| program.roles[program.role_of(mesh.coord_of(rank))].bytes();
    let declared = (0..mesh.ranks()).map(of_rank).fold(0, u64::saturating_add);
    match has {
        Some(has) if declared > has => {
            Err(format!("{} rank(s) declare {}, and {} is {what}", mesh.ranks(), Bytes(declared), Bytes(has)))
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
    fn what_a_device_does_not_have_is_refused_with_both_figures() {
        use meshwright_hardware::classes::Classes;
        use meshwright_hardware::mesh::Mesh;
        use meshwright_hardware::program::{Buffer, Elem, Lifetime, RankProgram};

        let buffer = |name: &str, mebi: usize| {
            let (elems, lifetime) = (mebi << 18, Lifetime::Persistent);
            Buffer { name: name.to_owned(), elems, lifetime, elem: Elem::F32 }
        };
        let buffers = vec![buffer("weights", 3), buffer("gradients", 5)];
        let roles = vec![RankProgram { buffers, instrs: Vec::new() }];
        let mesh = Mesh { dp: 2, ..Mesh::ONE };
        let program = Program { mesh, classes: Classes::ONE, blocks: Vec::new(), roles };
        let mebi = |n: u64| n << 20;
        let of = |memory, has: u64, largest: Option<u64>| LocalDevice {
            memory,
            memory_bytes: mebi(has),
            largest_buffer: largest.map(mebi),
            ..LocalDevice::default()
        };
        let refused =
            |device: LocalDevice, host: u64| fits(&program, &device, Some(mebi(host))).err().unwrap_or_default();
        let both = ["2 rank(s) declare 16 MiB", "15 MiB is"];
        for (device, host) in [(of(Memory::Host, 99, None), 15), (of(Memory::Own, 15, Some(5)), 99)] {
            assert!(both.iter().all(|part| refused(device.clone(), host).contains(part)), "{}", refused(device, host));
        }
        let long = refused(of(Memory::Untold, 4, Some(4)), 99);
        assert!(long.contains("`gradients` takes 5 MiB") && long.contains("allows 4 MiB"), "{long}");
        for device in [of(Memory::Host, 1, None), of(Memory::Own, 16, Some(5)), of(Memory::Untold, 5, Some(5))] {
            assert_eq!(fits(&program, &device, Some(mebi(16))), Ok(()));
        }
        assert_eq!(fits(&program, &of(Memory::Host, 1, None), None), Ok(()), "nobody says what is free");
    }

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
