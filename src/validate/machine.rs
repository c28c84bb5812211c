//! Where a row's run took place: its device, node and links, and its software stack.
//!
//! In: a row's words. Out: catalog entries, with the links that the row states in place of the usual ones.
//!
//! Invariant: an accelerator or framework that is not known is a reason to skip, never a guess.

use std::sync::Arc;

use meshwright_hardware::input::Fault;
use meshwright_hardware::profile::{
    AttentionKernel, DeviceProfile, LinkKind, Machine, ProfileError, Sourced, Stack, catalog,
};
use meshwright_hardware::units::ByteRate;

use super::accelerator;
use super::record::Skip;

/// The devices of a run as nodes.
pub struct RunMachine {
    /// Its nodes, with as many devices as the run had.
    pub machine: Machine,
    /// Slices of a pod that only the data-centre network joins.
    pub slices: usize,
}

/// What all-reduces of 4 GB reach of Omni-Path's line rate: 10.6 of 50 GB/s a node between V100s, 5.1 between A100s
/// (bigscience-workshop/bigscience, experiments/bandwidth, Jean Zay), as no GPU's memory is read directly.
const OMNI_PATH: f64 = 0.21;

/// Finds the accelerator and builds nodes of it: of a TPU's torus a slice, along a side of which a group of `inner` neighbours
/// lies; else as few equal nodes as hold so many devices, each whole or a part of one.
pub fn machine(
    accelerator: &str,
    devices: usize,
    per_node: Option<usize>,
    interconnect: &str,
    inner: usize,
) -> Result<RunMachine, Skip> {
    let no_profile = Skip { reason: "accelerator has no profile", detail: accelerator.to_owned() };
    let (device, system) = accelerator::named(accelerator).ok_or(no_profile)?;
    let unknown = |error: ProfileError| Skip { reason: "accelerator has no profile", detail: error.to_string() };
    let device = catalog().device(device).map_err(unknown)?;
    let mut system = catalog().system(system).map_err(unknown)?.clone();
    let torus = system.scale_up.kind == LinkKind::Torus;
    let slices = slices_of(interconnect).unwrap_or(1).max(1);
    let mut machine = if torus && device.name.starts_with("tpu") && devices.is_multiple_of(slices) {
        (system.count, system.device) = (devices / slices, device.name.clone());
        system.scale_up.dims = near_cube(system.count, system.scale_up.dims.len());
        system.scale_up.dims.sort_by_key(|side| !side.is_multiple_of(inner) && !inner.is_multiple_of(*side));
        Machine { nodes: slices, system, device: device.clone() }
    } else {
        // Racks are stated by their trays: what scale-up links join is the system's.
        let stated = per_node.filter(|_| !torus && system.count <= 16);
        let most = stated.unwrap_or(system.count).clamp(1, devices.max(1));
        let parts = (devices.div_ceil(most)..=devices).find(|nodes| devices.is_multiple_of(*nodes)).unwrap_or(1);
        let part = |fault: Fault| Skip::fault("its devices are no equal parts of nodes", &fault);
        Machine::of_part(devices / parts, device, &system).map_err(part)?.times(parts)
    };
    if let (Some(stated), Some(out)) = (scale_out(interconnect, machine.system.count), &mut machine.system.scale_out) {
        out.bandwidth = Sourced::new(ByteRate(stated), "as the run's source states");
    }
    if let Some(out) = machine.system.scale_out.as_mut().filter(|_| interconnect.contains("Omni-Path")) {
        let source = format!("{}; of which {OMNI_PATH} is reached", out.bandwidth.source);
        out.bandwidth = Sourced::new(ByteRate(out.bandwidth.value.0 * OMNI_PATH), &source);
    }
    Ok(RunMachine { machine, slices })
}

/// Sides of a slice of a torus, as equal as its size allows, largest first.
fn near_cube(chips: usize, dims: usize) -> Vec<usize> {
    if dims <= 1 {
        return vec![chips];
    }
    let root = (chips as f64).powf(1.0 / dims as f64).round() as usize;
    let side = (1..=chips).filter(|side| chips.is_multiple_of(*side)).min_by_key(|side| side.abs_diff(root.max(1)));
    let side = side.unwrap_or(1);
    let mut sides = near_cube(chips / side, dims - 1);
    sides.push(side);
    sides.sort_unstable_by_key(|side| std::cmp::Reverse(*side));
    sides
}

/// `… 4 slice(s) over DCN`, `DCN, 2 slices`, `DCN between 2 pods`.
fn slices_of(text: &str) -> Option<usize> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let named = |word: &str| word.starts_with("slice") || word.starts_with("pods");
    words.windows(2).find(|pair| named(pair[1]) && pair[0].parse::<usize>().is_ok()).and_then(|p| p[0].parse().ok())
}

/// Bytes a second out of a device between nodes, where the text says so: `8x200 Gbps`, `4x InfiniBand HDR (800 Gb/s per
/// node`, `400Gb per GPU`, `1600 Gbps RoCE per node`, `8x HDR200`.
fn scale_out(text: &str, per_node: usize) -> Option<f64> {
    let out = text.split_once('/').map_or(text, |(_, out)| out).to_lowercase();
    let rate = |named: &str| match () {
        () if named.contains("ndr") => Some(400.0),
        () if named.contains("hdr") => Some(200.0),
        () if named.contains("edr") || named.contains("omni-path") => Some(100.0),
        () => None,
    };
    let numbers = numbers(&out);
    let gigabits = numbers.iter().find(|(value, after)| {
        let after = after.trim_start_matches([' ', '-']);
        *value >= 25.0 && (after.starts_with("gb") || after.starts_with("g/"))
    });
    let times = numbers.iter().find(|(value, after)| *value <= 16.0 && after.starts_with('x'));
    // `8x 400 Gb/s`: of each; `4x HDR (800 Gb/s per node`: of all.
    let of_each = times.is_some_and(|(_, after)| after[1..].trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let bits = match (gigabits, times) {
        (Some((value, _)), _) if out.contains("per gpu") => *value * per_node as f64,
        (Some((value, after)), Some((times, _))) if of_each || !(after.contains("per node") && *value >= 400.0) => {
            value * times
        }
        (Some((value, _)), _) => *value,
        (None, Some((times, _))) => rate(&out)? * times,
        (None, None) => return None,
    };
    Some(bits * 1e9 / 8.0 / per_node as f64)
}

/// Every number of a text with what follows it.
fn numbers(text: &str) -> Vec<(f64, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(|c: char| c.is_ascii_digit()).map(|i| at + i) {
        let end = text[start..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(text.len(), |i| start + i);
        let before = text[..start].chars().next_back();
        if !before.is_some_and(|c| c.is_ascii_alphabetic() && c != 'x') {
            found.extend(text[start..end].trim_end_matches('.').parse().ok().map(|value| (value, &text[end..])));
        }
        at = end;
    }
    found
}

/// What a row says of the software that ran it.
#[derive(Clone, Copy, Debug)]
pub struct SaidStack<'a> {
    /// The framework, in the source's words.
    pub framework: &'a str,
    /// The model's name, in which tests say what they ask for.
    pub model: &'a str,
    /// How attention ran, where that is said.
    pub attention: Option<AttentionKernel>,
    /// The year.
    pub year: u16,
    /// What it ran on.
    pub device: &'a DeviceProfile,
}

/// The stack whose longest word stands in a framework's description, of a fitting year; of several, the one whose attention is as
/// said, or whose words stand in the model's name; else the newest of that family of hardware; of an unknown framework on GPUs the
/// typical one of its time.
pub fn stack(said: &SaidStack) -> Arc<Stack> {
    let &SaidStack { framework, model, attention, year, device } = said;
    let dated = |stack: &Stack| stack.years.is_none_or(|[first, last]| (first..=last).contains(&year));
    let in_name = |stack: &Stack| stack.models.iter().all(|word| model.contains(word.as_str()));
    let named = |stack: &Stack| attention.is_some() || in_name(stack);
    let matched = |stack: &Stack| {
        let words = stack.frameworks.iter().filter(|word| framework.contains(word.as_str()));
        let as_said = attention.is_none_or(|attention| stack.attention == attention);
        Some((words.map(String::len).max()?, as_said, stack.models.len()))
    };
    let fits = catalog().stacks.iter().filter(|stack| dated(stack) && named(stack) && matched(stack).is_some());
    let found = fits.max_by_key(|stack| matched(stack)).map(Arc::clone);
    found.unwrap_or_else(|| {
        let usual = match device.name.as_str() {
            name if name.starts_with("tpu") => "maxtext",
            name if name.starts_with("trainium") => "neuronx",
            _ if framework.to_lowercase().contains("megatron") || framework.to_lowercase().contains("nemo") => {
                "megatron-core"
            }
            _ if year < 2022 => Stack::TYPICAL_2021,
            _ => Stack::TYPICAL,
        };
        Arc::clone(catalog().stack(usual).expect("it is embedded"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_sources_write_them() {
        let each = |text| scale_out(text, 8).map(|bytes| bytes / 1e9);
        assert_eq!(each("NVLink3 / 8x200 Gbps RoCE per node, 3-level Clos"), Some(25.0));
        assert_eq!(each("NVLink/NVSwitch / 4x InfiniBand HDR (800 Gb/s per node per config)"), Some(12.5));
        assert_eq!(each("NVLink4 / InfiniBand NDR 400Gb per GPU"), Some(50.0));
        assert_eq!(each("NVLink / 1600 Gbps RoCE per node"), Some(25.0));
        assert_eq!(each("NVLink3+NVSwitch / 8x HDR200 InfiniBand per node (Selene)"), Some(25.0));
        assert_eq!(each("NVLink3 / 4x Omni-Path 100Gb/s per node (Jean Zay A100)"), Some(6.25));
        assert_eq!(each("NVLink3 / 4x100Gb RoCE per node"), Some(6.25));
        assert_eq!(each("NVLink4 / 8x 400 Gb/s InfiniBand per node"), Some(50.0));
        assert_eq!(each("NVLink3 / InfiniBand (details in paper arXiv:2311.05610, not in repo)"), None);
        assert_eq!(each("NVL72 NVLink5 / ConnectX-8 800Gb per GPU"), Some(100.0));
    }

    #[test]
    fn the_longest_word_of_a_fitting_year_names_the_stack() {
        let a100 = catalog().device("a100-80gb").unwrap();
        let said =
            SaidStack { framework: "Megatron-Core main", model: "GPT", attention: None, year: 2025, device: a100 };
        let name = |framework, year| stack(&SaidStack { framework, year, ..said }).name.clone();
        assert_eq!(name("Megatron-LM", 2021), "megatron-2021");
        assert_eq!(name("Megatron-LM", 2024), "megatron-core");
        assert_eq!(name("Megatron-Core with MoE Parallel Folding", 2025), "megatron-moe-2025");
        assert_eq!(name("Megatron-LM fork (zero-bubble), schedule ZB-V", 2024), "megatron-zero-bubble");
        assert_eq!(name("Megatron-Bridge/Megatron-Core 26.04", 2026), "megatron-bridge-2026");
        assert_eq!(name("something new", 2026), Stack::TYPICAL);
        assert_eq!(name("something old", 2021), Stack::TYPICAL_2021);
        let test = |model| stack(&SaidStack { model, ..said }).name.clone();
        assert_eq!(test("gpt3_mcore_te_tp2_pp2_resume_torch_dist"), "megatron-core-ci");
        assert_eq!(test("gpt3_mcore_te_tp2_pp2"), "megatron-core-ci-unfused");
        // What the test's file says of attention is more than what its name lets one guess.
        let flash = SaidStack { attention: Some(AttentionKernel::Flash), ..said };
        assert_eq!(stack(&flash).name, "megatron-core-ci");
        assert_eq!(
            stack(&SaidStack { framework: "Megatron-LM fork (zero-bubble)", ..flash }).name,
            "megatron-zero-bubble"
        );
    }
}
