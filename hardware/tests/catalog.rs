//! The built-in profiles: all there, all sound, and what is wrong with a file is said with file, line and key.

use std::collections::BTreeSet;

use meshwright_hardware::profile::{Cluster, DeviceProfile, ProfileError, SharedBy, Stack, System, catalog};
use meshwright_hardware::topology::Topology;
use meshwright_hardware::units::{Bytes, Precision};

const H100: &str = include_str!("../profiles/devices/h100.toml");
const DGX: &str = include_str!("../profiles/systems/dgx-a100-80gb.toml");

fn close(value: f64, golden: f64) -> bool {
    (value / golden - 1.0).abs() < 1e-9
}

/// The files of a folder of profiles: each file's stem and its text.
fn files(folder: &str) -> Vec<(String, toml::Table)> {
    let folder = format!("{}/profiles/{folder}", env!("CARGO_MANIFEST_DIR"));
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), text.parse().unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(file).collect()
}

#[test]
fn every_file_is_embedded_under_its_own_name() {
    let catalog = catalog();
    let devices: Vec<&str> = catalog.devices.iter().map(|device| device.name.as_str()).collect();
    let systems: Vec<&str> = catalog.systems.iter().map(|system| system.name.as_str()).collect();
    let stacks: Vec<&str> = catalog.stacks.iter().map(|stack| stack.name.as_str()).collect();
    for (folder, names) in [("devices", &devices), ("systems", &systems), ("stacks", &stacks)] {
        let files: BTreeSet<String> = files(folder).into_iter().map(|(stem, _)| stem).collect();
        assert_eq!(files, names.iter().map(|name| name.to_string()).collect(), "{folder}");
    }
    // `--cluster` takes a device's name and a system's alike.
    let all: BTreeSet<&str> = devices.iter().chain(&systems).copied().collect();
    assert_eq!(all.len(), devices.len() + systems.len(), "a device and a system have one name");
}

/// The dotted keys of figures and curves without a source.
fn unsourced(at: &str, value: &toml::Value, found: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            let figure = table.contains_key("value") || table.contains_key("points");
            let source = table.get("source").and_then(toml::Value::as_str).unwrap_or_default();
            if figure && source.trim().is_empty() {
                found.push(at.to_owned());
            }
            table.iter().for_each(|(key, value)| unsourced(&format!("{at}.{key}"), value, found));
        }
        toml::Value::Array(all) => all.iter().for_each(|value| unsourced(at, value, found)),
        _ => {}
    }
}

#[test]
fn every_figure_of_every_file_has_a_source() {
    let mut found = Vec::new();
    for folder in ["devices", "systems", "stacks"] {
        for (stem, table) in files(folder) {
            unsourced(&stem, &toml::Value::Table(table), &mut found);
        }
    }
    assert_eq!(found, Vec::<String>::new());
    let without: toml::Table = H100.replace("source = \"NVIDIA H100 data sheet\"", "source = \"\"").parse().unwrap();
    unsourced("h100", &toml::Value::Table(without), &mut found);
    assert!(found.iter().any(|key| key == "h100.power"), "{found:?}");
}

/// No more figures than held-out runs pay for; what a stack shares stands where it is shared, and there alone.
#[test]
fn few_figures_are_fitted_and_each_stands_once() {
    let catalog = catalog();
    let all: usize = catalog.fitted_figures().iter().sum();
    assert!((20..=200).contains(&all), "{all} figures");
    for (stem, table) in files("stacks").into_iter().filter(|(stem, _)| stem != Stack::TYPICAL) {
        let stack = catalog.stack(&stem).unwrap();
        let figures = stack.figures(catalog);
        for (section, most) in [("overheads", 10), ("memory", 4)] {
            let stated = table.get(section).and_then(toml::Value::as_table).cloned().unwrap_or_default();
            assert!(stack.runs() == 0 || stated.len() <= most, "{stem}: {stated:?}");
            let own = figures.iter().filter(|(figure, whose)| figure.section == section && *whose == SharedBy::Own);
            let own: BTreeSet<&str> = own.map(|(figure, _)| figure.name).collect();
            let by_definition = stack.runs() == 0;
            let copied = stated.keys().find(|key| !by_definition && !own.contains(key.as_str()));
            assert_eq!(copied, None, "{stem}: {section} has what it inherits");
            assert!(own.iter().all(|key| stated.contains_key(*key)), "{stem}: {own:?}");
        }
    }
}

#[test]
fn what_a_stack_leaves_out_is_its_familys_else_everyones() {
    let text = "name = \"x\"\ntitle = \"x\"\nfamily = \"xla\"\nframeworks = []\nattention = \"flash\"\ndropout = false\n\
        gradients = \"full\"\nzero = 1\nsequence_parallel = false\nsource = \"s\"\n\n[overheads]\nstream = 3.5\n";
    let catalog = catalog();
    let of = |text: &str| Stack::from_toml("x.toml", text).unwrap();
    let (stack, everyone) = (of(text), catalog.everyone());
    assert_eq!((stack.overheads.stream, stack.memory.context), (3.5, 0.0), "XLA has no context of its own");
    assert_eq!(stack.overheads.host, everyone.overheads.host);
    let unknown = of(&text.replace("xla", "unknown"));
    assert_eq!(unknown.memory, everyone.memory);
    assert!(stack.own_text(&catalog.inherited("xla")).ends_with("source = \"s\"\n\n[overheads]\nstream = 3.5\n"));
    assert_eq!(of(&stack.own_text(&catalog.inherited("xla"))), stack);
    let wrong = Stack::from_toml("x.toml", &text.replace("3.5", "9.5")).unwrap_err().to_string();
    assert!(wrong.contains("overheads.stream") && wrong.contains("0.2 to 6"), "{wrong}");
}

#[test]
fn every_system_holds_a_known_device_and_every_device_has_a_system() {
    for system in &catalog().systems {
        let device = catalog().device(&system.device).unwrap();
        let pair = Topology::of(&Cluster::parse(&format!("2x {}", system.name)).unwrap());
        assert!(pair.span_strided(0, 1, system.count).is_ok());
        assert_eq!(pair.link(0, system.count).is_ok(), system.scale_out.is_some(), "{}", system.name);
        assert!(device.peak_in(Precision::Bf16).is_some(), "{}", device.name);
    }
    for device in &catalog().devices {
        assert!(catalog().usual_system(device).is_some(), "{}", device.name);
        assert!(device.curves.is_empty() && device.calibrated.is_none(), "{} is not calibrated", device.name);
    }
}

/// No kernel of a size that training uses is priced as if it ran at the peak, or at next to nothing.
#[test]
fn shares_of_peak_are_plausible() {
    for device in &catalog().devices {
        let efficiency = &device.efficiency;
        let shares = [efficiency.matmul.share(1e12), efficiency.memory.share(1e9), efficiency.attention.share(1e12)];
        assert!(shares.iter().all(|share| (0.25..0.96).contains(share)), "{}: {shares:?}", device.name);
        assert!(efficiency.matmul.share(1e5) < efficiency.matmul.share(1e12), "{}", device.name);
    }
}

/// Gb/s out of a device, by the words that every network's source has: `8 ports of 400 Gb/s a node`, `50 Gb/s a device`,
/// `200 Gb/s a host of 4`.
fn network_stated(source: &str, count: usize) -> Option<f64> {
    let words: Vec<&str> = source.split_whitespace().map(|word| word.trim_end_matches([':', ',', ';'])).collect();
    let at = words.iter().position(|word| *word == "Gb/s")?;
    let number = |index: Option<usize>| words.get(index?)?.parse::<f64>().ok();
    let ports = if at >= 4 && words[at - 2] == "of" { number(Some(at - 4))? } else { 1.0 };
    let share = match *words.get(at + 2)? {
        "device" => 1.0,
        "node" => count as f64,
        "host" => number(Some(at + 4))?,
        _ => return None,
    };
    Some(number(at.checked_sub(1))? * ports / share)
}

/// Vendors state a node's network, profiles a device's: what each source says, shared out, is the figure.
#[test]
fn networks_are_what_their_sources_share_out() {
    assert_eq!(network_stated("8 ports of 400 Gb/s a node: InfiniBand", 8), Some(400.0));
    assert_eq!(network_stated("EFA, 800 Gb/s a node", 16), Some(50.0));
    assert_eq!(network_stated("2 ports of 100 Gb/s a host of 8, Ethernet", 256), Some(25.0));
    assert_eq!(network_stated("400 Gb/s", 8), None);
    for system in &catalog().systems {
        let Some(out) = &system.scale_out else { continue };
        let source = &out.bandwidth.source;
        let stated = network_stated(source, system.count);
        let stated = stated.unwrap_or_else(|| panic!("{}: not per node, device or host: {source}", system.name));
        let rate = out.bandwidth.value;
        assert!(close(rate.0, stated * 1e9 / 8.0), "{}: {rate} of {source}", system.name);
    }
}

#[test]
fn links_are_per_device_and_files_say_so() {
    let new = System::from_toml("dgx.toml", DGX).unwrap();
    let old = DGX.replace("bandwidth_per_device", "bandwidth");
    assert!(old != DGX && System::from_toml("dgx.toml", &old).unwrap() == new);
    let written = toml::to_string(&new).unwrap();
    assert!(written.contains("bandwidth_per_device") && !written.contains("scale_out.bandwidth]"), "{written}");
    let node = DGX.replace("bandwidth_per_device", "bandwidth_per_node");
    let error = System::from_toml("dgx.toml", &node).unwrap_err().to_string();
    assert!(error.contains("bandwidth_per_node") && error.contains("bandwidth_per_device"), "{error}");
}

#[test]
fn golden_figures() {
    let peaks = [
        ("h100", Precision::Bf16, 989.4e12),
        ("h100", Precision::Fp8, 1978.9e12),
        ("h200", Precision::Bf16, 989.4e12),
        ("b200", Precision::Bf16, 2250e12),
        ("a100-80gb", Precision::Bf16, 312e12),
        ("a100-40gb", Precision::Fp32, 19.5e12),
        ("v100-32gb", Precision::Fp16, 125e12),
        ("mi250x", Precision::Bf16, 191.5e12),
        ("mi300x", Precision::Bf16, 1307.4e12),
        ("tpu-v4", Precision::Bf16, 275e12),
        ("tpu-v5p", Precision::Bf16, 459e12),
        ("trainium2", Precision::Bf16, 667e12),
        ("gh200", Precision::Bf16, 989.4e12),
        ("h100-pcie", Precision::Bf16, 756e12),
        ("h20", Precision::Bf16, 148e12),
        ("l40s", Precision::Bf16, 362e12),
        ("rtx3090", Precision::Bf16, 71e12),
        ("rtx4090", Precision::Fp32, 82.6e12),
        ("a6000", Precision::Int8, 309.7e12),
        ("mi355x", Precision::Fp8, 5033e12),
        ("gaudi2", Precision::Bf16, 432e12),
        ("tpu-v7", Precision::Bf16, 2307e12),
    ];
    for (name, precision, golden) in peaks {
        let peak = catalog().device(name).unwrap().peak[&precision].value;
        assert!(close(peak.0, golden), "{name} {precision:?}: {peak}");
    }
    let bandwidths =
        [("a100-80gb", 2.039e12), ("a100-40gb", 1.555e12), ("h100", 3.35e12), ("h200", 4.8e12), ("v100-16gb", 0.9e12)];
    for (name, golden) in bandwidths {
        let rate = catalog().device(name).unwrap().memory_bandwidth.value;
        assert!(close(rate.0, golden), "{name}: {rate}");
    }
    assert_eq!(catalog().device("a100-80gb").unwrap().memory.value, Bytes(80 << 30));
    let links = [
        ("dgx-1v", 150e9),
        ("dgx-a100-80gb", 300e9),
        ("dgx-h100", 450e9),
        ("dgx-b200", 900e9),
        ("rtx4090-8", 32e9),
        ("h800-8", 200e9),
    ];
    for (name, golden) in links {
        let rate = catalog().system(name).unwrap().scale_up.bandwidth.value;
        assert!(close(rate.0, golden), "{name}: {rate}");
    }
    assert!(close(catalog().system("dgx-a100-80gb").unwrap().scale_out.as_ref().unwrap().bandwidth.value.0, 25e9));
    assert_eq!(Cluster::parse("512x dgx-a100-80gb").unwrap().devices(), 4096);
    assert_eq!(Cluster::parse("tpu-v5p-pod").unwrap().devices(), 8960);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() {
    let text = H100.replace("overlap = true", "overlap = true\ncolour = \"green\"");
    let error = DeviceProfile::from_toml("my/h100.toml", &text).unwrap_err().to_string();
    let line = 1 + text.lines().position(|line| line.starts_with("colour")).unwrap();
    assert!(error.starts_with(&format!("my/h100.toml:{line}:1: ")) && error.contains("colour"), "{error}");
    let nested = DGX.replace("[scale_out]", "[scale_out]\nhops = 3");
    let error = System::from_toml("dgx.toml", &nested).unwrap_err().to_string();
    let line = 1 + nested.lines().position(|line| line.starts_with("hops")).unwrap();
    assert!(error.starts_with(&format!("dgx.toml:{line}:1: ")) && error.contains("hops"), "{error}");
}

#[test]
fn a_figure_needs_a_unit_and_a_source() {
    let bare = H100.replace("3.35 TB/s", "3.35");
    let error = DeviceProfile::from_toml("h100.toml", &bare).unwrap_err().to_string();
    assert!(error.contains("h100.toml:") && error.contains("no unit") && error.contains("memory_bandwidth"), "{error}");
    let unsaid = H100.replace("source = \"NVIDIA H100 data sheet\"", "source = \"\"");
    let error = DeviceProfile::from_toml("h100.toml", &unsaid).unwrap_err().to_string();
    assert!(error.contains("empty `source`") && error.contains("power"), "{error}");
    let contradicting = include_str!("../profiles/systems/tpu-v5e-pod.toml").replace("[16, 16]", "[16, 8]");
    let error = System::from_toml("pod.toml", &contradicting).unwrap_err();
    let line = 1 + contradicting.lines().position(|line| line.starts_with("dims")).unwrap();
    let refused = matches!(&error, ProfileError::Input(input) if input.key.as_deref() == Some("scale_up.dims"));
    assert!(refused && error.to_string().starts_with(&format!("pod.toml:{line}:8: ")), "{error}");
}

#[test]
fn every_device_says_how_often_it_fails() {
    for device in &catalog().devices {
        let mtbf = device.mtbf.as_ref().unwrap_or_else(|| panic!("{} has no mtbf", device.name));
        assert!((10_000.0 * 3600.0..1e6 * 3600.0).contains(&mtbf.value.0), "{}: {}", device.name, mtbf.value);
    }
}

#[test]
fn sites_read_and_what_is_wrong_with_them_is_said() {
    let cluster = Cluster::parse("4x(8x dgx-h100 + 2x dgx-a100-80gb) @ 10 Gbit/s 50 ms").unwrap();
    let wan = cluster.wan.unwrap();
    assert_eq!((wan.sites, cluster.sites(), cluster.pools.len(), cluster.devices()), (4, 4, 2, 80));
    assert!(close(wan.bandwidth.0, 1.25e9) && close(wan.latency.0, 0.05));
    assert_eq!(Cluster::parse("4 × ( 8x h100 )@1.25GB/s 0.05s").unwrap().wan, Some(wan));
    assert_eq!(Cluster::parse("1x(8x h100) @ 10 Gbit/s 50 ms").unwrap(), Cluster::parse("8x h100").unwrap());
    let wrong = [
        ("4x(8x h100)", "@ 10 Gbit/s 50 ms"),
        ("4x(8x h100) @ 10 Gbit/s", "no bandwidth above zero and latency"),
        ("4x(8x h100) @ 50 ms 10 Gbit/s", "no bandwidth above zero and latency"),
        ("4x(8x h100) @ 0 Gbit/s 50 ms", "no bandwidth above zero and latency"),
        ("0x(8x h100) @ 10 Gbit/s 50 ms", "count of sites is 0"),
        ("4x 8x h100 @ 10 Gbit/s 50 ms", "sites read"),
        ("4x(8x h1000) @ 10 Gbit/s 50 ms", "h100"),
    ];
    for (text, says) in wrong {
        let message = Cluster::parse(text).unwrap_err().to_string();
        assert!(message.contains(says), "{text}: {message}");
    }
}
