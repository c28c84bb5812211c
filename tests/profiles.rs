//! Profiles of one's own, as their user writes them: by how they differ from a known one, and every fault at once.

mod place;

use place::{Place, json};

const BOX: &str = r#"
inherit = "dgx-h100"
name = "our-box"
title = "Our H100 boxes"
count = 4
device = "h100"

[scale_out]
bandwidth_per_device = { value = "3.125 GB/s", source = "one port of 100 Gb/s a node of 4" }
"#;

fn folder(place: &Place) -> std::path::PathBuf {
    place.0.join("config/meshwright/profiles")
}

/// A place with a folder of the user's profiles, of which one is `our-box`.
fn place(name: &str) -> Place {
    let place = Place::new(&format!("profiles-{name}"), "none", "");
    std::fs::create_dir_all(folder(&place)).unwrap();
    std::fs::write(folder(&place).join("our-box.toml"), BOX).unwrap();
    place
}

fn run(place: &Place, arguments: &[&str]) -> std::process::Output {
    place.command(arguments).env("XDG_CONFIG_HOME", place.0.join("config")).output().unwrap()
}

#[test]
fn a_file_says_how_a_machine_differs_from_a_known_one() {
    let place = place("inherit");
    place.write("box.toml", BOX);
    for name in ["box.toml", "our-box"] {
        let shown = json(&run(&place, &["hardware", "show", name, "--json"]));
        assert_eq!((shown["devices_per_node"].as_u64(), shown["device"].as_str()), (Some(4), Some("h100")));
        assert_eq!(shown["network_bytes_per_second_per_device"].as_f64(), Some(3.125e9));
        assert_eq!(shown["network_bytes_per_second_per_node"].as_f64(), Some(12.5e9), "100 Gb/s");
        assert_eq!(shown["links_bytes_per_second_per_device"].as_f64(), Some(450e9), "as inherited");
    }
    let plan = ["--seq", "2048", "--global-batch", "64", "--json"];
    let of = |cluster: &str| json(&run(&place, &[&["plan", "llama2-7b", "--cluster", cluster], &plan[..]].concat()));
    let (ours, theirs) = (of("8x our-box"), of("8x box.toml"));
    assert_eq!(ours["step_time_s"], theirs["step_time_s"]);
    assert!(ours["step_time_s"].as_f64() > of("4x dgx-h100")["step_time_s"].as_f64(), "of a slower network");
    let listed = String::from_utf8(run(&place, &["hardware", "list"]).stdout).unwrap();
    assert!(listed.contains("our-box") && listed.contains("4 × NVIDIA H100"), "{listed}");
}

#[test]
fn machines_name_their_device_and_systems_what_they_change() {
    let place = place("machine");
    let machine = "nodes = 16\ndevice = \"h200\"\n[system]\ninherit = \"dgx-h100\"\nname = \"ours\"\n";
    place.write("machine.toml", machine);
    let shown = json(&run(&place, &["hardware", "show", "machine.toml", "--json"]));
    assert_eq!((shown["devices"].as_u64(), shown["device"].as_str()), (Some(128), Some("h200")));
    place.write(
        "device.toml",
        "inherit = \"h100\"\nname = \"h100-slow\"\nmemory_bandwidth = { value = \"2 TB/s\", source = \"ours\" }\n",
    );
    let shown = json(&run(&place, &["hardware", "show", "device.toml", "--json"]));
    assert_eq!(shown["memory_bytes_per_second_per_device"].as_f64(), Some(2e12));
}

#[test]
fn every_fault_of_a_file_is_said_at_once_with_its_line() {
    let place = place("faults");
    let faulty = BOX
        .replace("count = 4", "count = \"four\"")
        .replace("3.125 GB/s", "3.125 GBps")
        .replace("title =", "titel =")
        .replace("[scale_out]", "[scale_up]\nlatency = { value = \"2 us\", source = \"\" }\n\n[scale_out]\nspeed = 3");
    place.write("box.toml", &faulty);
    let said = ["box.toml has 5 faults", "titel", "box.toml:5:", "GBps", "empty `source`", "speed"];
    place.refused(&["hardware", "check", "box.toml"], 2, &said);
    place.write("new.toml", "name = \"new\"\ntitle = \"New\"\ncount = 8\n");
    place.refused(&["hardware", "check", "new.toml"], 2, &["missing field `device`", "missing field `scale_up`"]);
    place.write("unknown.toml", "inherit = \"dgx-h1000\"\n");
    place.refused(&["hardware", "check", "unknown.toml"], 2, &["unknown.toml:1:", "dgx-h1000", "near names: dgx-h100"]);
    place.write("good.toml", BOX);
    let output = place.run(&["hardware", "check", "good.toml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("no fault") && text.contains("25 Gb/s"), "{text}");
}
