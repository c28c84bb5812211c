//! Which accelerator a row means.
//!
//! In: its name as the row's source writes it. Out: a device and the system it usually stands in, by their names in the catalog.
//!
//! Invariant: every word of a name is known of that very part, so that no part passes for another whose name it contains; a
//! name with any other word has no profile.

/// A part by the words of its name.
struct NamedAccelerator {
    /// Words that its name has.
    needs: &'static [&'static str],
    /// Words that its name may have beside them.
    may: &'static [&'static str],
    /// Device in the catalog.
    device: &'static str,
    /// System in the catalog.
    system: &'static str,
}

const fn part(
    needs: &'static [&'static str],
    may: &'static [&'static str],
    device: &'static str,
    system: &'static str,
) -> NamedAccelerator {
    NamedAccelerator { needs, may, device, system }
}

/// Words that say nothing of the part.
const VENDORS: &[&str] = &[
    "nvidia", "amd", "intel", "google", "aws", "habana", "tesla", "geforce", "instinct", "cloud", "gpu", "hgx", "dgx",
];

/// The first whose needs are met is meant; a part with more needs stands before those with fewer.
const PARTS: &[NamedAccelerator] = &[
    part(&["gb300"], &["288gb", "nvl72", "per"], "gb300", "gb300-nvl72"),
    part(&["gb200"], &["186gb", "192gb", "nvl72", "per"], "gb200", "gb200-nvl72"),
    part(&["b300"], &["sxm", "270gb", "288gb"], "b300", "hgx-b300"),
    part(&["b200"], &["sxm", "180gb", "192gb"], "b200", "dgx-b200"),
    part(&["gh200", "144gb"], &["hbm3e", "grace", "hopper"], "gh200-144gb", "gh200-144gb-nvl2"),
    part(&["gh200"], &["96gb", "hbm3", "grace", "hopper"], "gh200", "gh200-4"),
    part(&["h200", "nvl"], &["141gb", "hbm3e"], "h200-nvl", "h200-nvl-4"),
    part(&["h200"], &["sxm", "sxm5", "141gb", "hbm3e"], "h200", "dgx-h200"),
    part(
        &["h100", "96gb"],
        &["sxm", "sxm5", "hbm2e", "500w", "95gb", "reported"],
        "h100-96gb",
        "grand-teton-h100-96gb",
    ),
    part(&["h100", "pcie"], &["80gb", "hbm2e"], "h100-pcie", "h100-pcie-8"),
    part(&["h100", "nvl"], &["94gb", "hbm3"], "h100-nvl", "h100-nvl-8"),
    part(&["h100"], &["sxm", "sxm5", "80gb", "hbm3"], "h100", "dgx-h100"),
    part(&["h800"], &["sxm", "sxm5", "80gb", "hbm3"], "h800", "h800-8"),
    part(&["h20"], &["sxm", "sxm5", "96gb", "hbm3"], "h20", "h20-8"),
    part(&["a800"], &["sxm", "sxm4", "80gb", "hbm2e"], "a800", "a800-8"),
    part(&["a100", "40gb"], &["sxm", "sxm4", "hbm2"], "a100-40gb", "dgx-a100-40gb"),
    part(&["a100"], &["sxm", "sxm4", "80gb", "hbm2e"], "a100-80gb", "dgx-a100-80gb"),
    part(&["v100", "16gb"], &["sxm2", "hbm2"], "v100-16gb", "dgx-1v"),
    part(&["v100", "sxm3"], &["32gb", "hbm2"], "v100-32gb", "dgx-2"),
    part(&["v100"], &["sxm2", "32gb", "hbm2"], "v100-32gb", "dgx-1v"),
    part(&["l40s"], &["48gb", "pcie"], "l40s", "l40s-8"),
    part(&["l4"], &["24gb", "pcie"], "l4", "l4-8"),
    part(&["a10g"], &["24gb", "pcie"], "a10g", "a10g-8"),
    part(&["rtx", "4090"], &["24gb"], "rtx4090", "rtx4090-8"),
    part(&["rtx", "3090"], &["24gb"], "rtx3090", "rtx3090-8"),
    part(&["rtx", "6000", "ada"], &["48gb", "generation"], "rtx6000-ada", "rtx6000-ada-8"),
    part(&["rtx", "a6000"], &["48gb"], "a6000", "a6000-8"),
    part(&["mi355x"], &["288gb", "oam"], "mi355x", "mi355x-8"),
    part(&["mi350x"], &["288gb", "oam"], "mi350x", "mi350x-8"),
    part(&["mi325x"], &["256gb", "oam"], "mi325x", "mi325x-8"),
    part(&["mi300x"], &["192gb", "oam"], "mi300x", "mi300x-8"),
    part(&["mi250x"], &["per", "one", "gcd", "64gb"], "mi250x", "mi250x-node"),
    part(&["mi250"], &["per", "one", "gcd", "64gb"], "mi250", "mi250-8"),
    part(&["gaudi3"], &["128gb", "oam"], "gaudi3", "gaudi3-8"),
    part(&["gaudi2"], &["96gb", "oam"], "gaudi2", "gaudi2-8"),
    part(&["tpuv3"], &["chip", "per", "one"], "tpu-v3", "tpu-v3-pod"),
    part(&["tpuv4"], &["chip", "per", "one"], "tpu-v4", "tpu-v4-pod"),
    part(&["tpuv5e"], &["chip", "per", "one"], "tpu-v5e", "tpu-v5e-pod"),
    part(&["tpuv5p"], &["chip", "per", "one"], "tpu-v5p", "tpu-v5p-pod"),
    part(&["tpuv6e"], &["trillium", "chip", "per", "one"], "tpu-v6e", "tpu-v6e-pod"),
    part(&["tpuv7"], &["ironwood", "chip", "per", "one"], "tpu-v7", "tpu-v7-pod"),
    part(&["tpu7x"], &["ironwood", "chip", "per", "one"], "tpu-v7", "tpu-v7-pod"),
    part(&["trn1", "neuroncore"], &["v2", "half", "of", "a", "trainium1", "chip"], "trainium1-core", "trn1-32xl-cores"),
    part(&["trn1"], &["chip", "trainium1"], "trainium1", "trn1-32xl"),
    part(&["trainium1"], &["chip"], "trainium1", "trn1-32xl"),
    part(&["trn2"], &["chip", "trainium2"], "trainium2", "trn2-48xl"),
    part(&["trainium2"], &["chip"], "trainium2", "trn2-48xl"),
];

/// The names in the catalog of the device and the system that a name means; none if any word of it is not that part's.
pub fn named(accelerator: &str) -> Option<(&'static str, &'static str)> {
    let words = words(accelerator);
    let has = |word: &&str| words.iter().any(|known| known == word);
    let part = PARTS.iter().find(|part| part.needs.iter().all(has))?;
    let known = |word: &String| [part.needs, part.may, VENDORS].iter().any(|all| all.contains(&word.as_str()));
    words.iter().all(known).then_some((part.device, part.system))
}

/// Lower-case words, in which `80 GB`, `RTX4090`, `TPU v5e` and `Gaudi 2` are written as `80gb`, `rtx 4090`, `tpuv5e` and `gaudi2`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let plain = name.to_lowercase().replace("rtx", "rtx ");
    for word in plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let joined = words.last_mut().filter(|before| match before.as_str() {
            "tpu" | "gaudi" | "trainium" => true,
            before => word == "gb" && before.bytes().all(|c| c.is_ascii_digit()),
        });
        match joined {
            Some(before) => before.push_str(word),
            None => words.push(word.to_owned()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use meshwright_hardware::profile::catalog;

    use super::*;

    /// Every name in the tables of published runs, and the profile that it means.
    const PUBLISHED: &[(&str, Option<&str>)] = &[
        ("A100-80GB", Some("a100-80gb")),
        ("A100-SXM4-40GB", Some("a100-40gb")),
        ("A100-SXM4-80GB", Some("a100-80gb")),
        ("A800-80GB", Some("a800")),
        ("A800-SXM4-80GB", Some("a800")),
        ("B200", Some("b200")),
        ("B300", Some("b300")),
        ("GB200", Some("gb200")),
        ("GB300", Some("gb300")),
        ("Gaudi1", None), // its maker publishes no peak
        ("Gaudi2", Some("gaudi2")),
        ("H100-SXM-96GB-HBM2e-500W", Some("h100-96gb")),
        ("H100-SXM-96GB-HBM2e-500W (95GB reported)", Some("h100-96gb")),
        ("H100-SXM5-80GB", Some("h100")),
        ("H200-NVL-141GB", Some("h200-nvl")),
        ("H200-SXM5-141GB", Some("h200")),
        ("H800-SXM5-80GB", Some("h800")),
        ("L40S", Some("l40s")),
        ("MI300X", Some("mi300x")),
        ("MI325X", Some("mi325x")),
        ("MI350X", Some("mi350x")),
        ("MI355X", Some("mi355x")),
        ("RTX 4090-24GB", Some("rtx4090")),
        ("RTX A6000-48GB", Some("a6000")),
        ("TPUv4", Some("tpu-v4")),
        ("TPUv5e", Some("tpu-v5e")),
        ("TPUv5p", Some("tpu-v5p")),
        ("TPUv6e", Some("tpu-v6e")),
        ("Trn1-NeuronCore-v2 (half of a Trainium1 chip)", Some("trainium1-core")),
        ("V100-SXM2-16GB", Some("v100-16gb")),
        ("V100-SXM2-32GB", Some("v100-32gb")),
        ("V100-SXM3-32GB", Some("v100-32gb")),
    ];

    /// What else may stand there, lookalikes above all.
    const OTHERS: &[(&str, Option<&str>)] = &[
        ("NVIDIA H100 80GB HBM3", Some("h100")),
        ("H100 PCIe 80 GB", Some("h100-pcie")),
        ("H100-NVL-94GB", Some("h100-nvl")),
        ("NVIDIA GH200 96GB", Some("gh200")),
        ("GH200 144GB (HBM3e)", Some("gh200-144gb")),
        ("H20-SXM-96GB", Some("h20")),
        ("NVIDIA GeForce RTX4090", Some("rtx4090")),
        ("RTX 3090", Some("rtx3090")),
        ("RTX 6000 Ada", Some("rtx6000-ada")),
        ("AMD Instinct MI250", Some("mi250")),
        ("MI250X per GCD", Some("mi250x")),
        ("Intel Gaudi 3", Some("gaudi3")),
        ("TPU v3 (per chip)", Some("tpu-v3")),
        ("TPU7x (Ironwood)", Some("tpu-v7")),
        ("Trn2", Some("trainium2")),
        ("A100-PCIe-80GB", None),
        ("RTX A1000 laptop", None),
        ("RTX 4090 laptop", None),
        ("H800-PCIe-80GB", None),
        ("H20-141GB", None),
        ("H2000", None),
        ("B2000", None),
        ("RTX A600", None),
        ("GB300 (DGX Station, half module)", None),
        ("", None),
    ];

    #[test]
    fn names_mean_their_own_profiles() {
        for (name, device) in PUBLISHED.iter().chain(OTHERS) {
            assert_eq!(named(name).map(|(device, _)| device), *device, "{name}");
        }
        for part in PARTS {
            assert!(catalog().device(part.device).is_ok() && catalog().system(part.system).is_ok(), "{}", part.device);
        }
    }

    #[test]
    fn every_published_name_is_in_the_table() {
        let table: BTreeSet<&str> = PUBLISHED.iter().map(|(name, _)| *name).collect();
        let mut found = BTreeSet::new();
        for file in ["runs.csv", "runs-2.csv"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published").join(file);
            let mut reader = csv::Reader::from_path(path).unwrap();
            let column = reader.headers().unwrap().iter().position(|name| name == "accelerator").unwrap();
            found.extend(reader.records().map(|row| row.unwrap()[column].to_owned()));
        }
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), table);
    }
}
