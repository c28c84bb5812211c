//! `hardware show` and `hardware check`: profiles of the catalog's and of one's own, as they were read.
//!
//! In: a name, or a file. Out: its text, and what it comes to for a device and for a node; or all of its faults.

use std::path::Path;

use meshwright_engines::setting::shell_word;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::read_text;
use meshwright_hardware::profile::{Cluster, Link, LinkKind, Machine, catalog, user};
use meshwright_hardware::units::Precision;
use serde_json::json;

use crate::answer;
use crate::failure::Failure;

/// Prints a profile: a file's with what it inherits, the catalog's with its sources.
pub fn show(name: &str, json: bool) -> Result<(), Failure> {
    let path = if name.ends_with(".toml") { Some(Path::new(name).to_owned()) } else { None };
    let path = path.or_else(|| user::file_of(name).filter(|_| !catalog().knows(name)));
    if let Some(path) = path {
        let machine = Machine::read(&path)?;
        if json {
            answer::print("profile", figures(&machine));
            return Ok(());
        }
        println!("{}\n{}", machine.to_toml(), summary(&machine));
        return Ok(());
    }
    let text = catalog().text(name)?;
    let machine = Cluster::parse(name).ok().and_then(|cluster| cluster.pools.into_iter().next());
    match machine {
        Some(machine) if json => answer::print("profile", figures(&machine)),
        _ if json => answer::print("profile", json!({ "name": name, "text": text })),
        Some(machine) => print!("{text}\n{}", summary(&machine)),
        None => print!("{text}"),
    }
    Ok(())
}

/// Prints all profiles for scripts: devices, systems, stacks and the user's own.
pub fn list_json() {
    let catalog = catalog();
    let stacks: Vec<&str> = catalog.stacks.iter().map(|stack| stack.name.as_str()).collect();
    let all = json!({ "devices": catalog.devices, "systems": catalog.systems, "stacks": stacks, "own": user::names() });
    answer::print("hardware", all);
}

/// Says every fault of a file, or what it comes to.
pub fn check(file: &str, json: bool) -> Result<(), Failure> {
    let text = read_text(file)?;
    match user::check(file, &text) {
        Ok(machine) if json => {
            let mut all = figures(&machine);
            all["faults"] = json!([]);
            answer::print("check", all);
            Ok(())
        }
        Ok(machine) => {
            print!("{}", summary(&machine));
            println!("{file} has no fault\nnext: meshwright plan llama3-8b --cluster {}", shell_word(file));
            Ok(())
        }
        Err(faults) => {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            if json {
                answer::print("check", json!({ "faults": all }));
            }
            let count = if all.len() == 1 { "a fault".to_owned() } else { format!("{} faults", all.len()) };
            Err(Failure::new(Exit::Input, format!("{file} has {count}\n{}", all.join("\n"))))
        }
    }
}

/// What a machine comes to, for a device and for a node.
fn summary(machine: &Machine) -> String {
    let Machine { nodes, system, device } = machine;
    let peaks = device.peak.iter().map(|(format, peak)| format!("{format} {}", peak.value)).collect::<Vec<_>>();
    let mut text =
        format!("{} × {} of {} × {}: {} devices\n", nodes, system.title, system.count, device.title, machine.devices());
    text += &format!("{:<13} {:<24} {}\n", "", "a device", "a node");
    let mut line = |what: &str, device: String, node: String| text += &format!("{what:<13} {device:<24} {node}\n");
    let count = system.count as f64;
    line("memory", device.memory.value.to_string(), (device.memory.value * system.count as u64).to_string());
    line(
        "its bandwidth",
        device.memory_bandwidth.value.to_string(),
        (device.memory_bandwidth.value * count).to_string(),
    );
    line("links", link(&system.scale_up), (system.scale_up.bandwidth.value * count).to_string());
    match &system.scale_out {
        Some(out) => line("network", link(out), (out.bandwidth.value * count).to_string()),
        None => line("network", "none: nodes cannot be joined".to_owned(), String::new()),
    }
    if let Some(power) = &device.power {
        let host = system.host_power.as_ref().map_or(0.0, |host| host.value.0);
        let each = power.value.0 + host;
        line("power", format!("{each:.0} W with its host"), format!("{:.1} kW", each * count / 1e3));
    }
    if let Some(price) = &system.price {
        line("price", format!("{} an hour", price.value), format!("{} an hour", price.value * count));
    }
    text + &format!("peaks         {}\n", peaks.join(", "))
}

/// A link's bandwidth as data sheets say it too.
fn link(link: &Link) -> String {
    let rate = link.bandwidth.value;
    let kind = match link.kind {
        LinkKind::Switch => "",
        LinkKind::Mesh => ", mesh",
        LinkKind::Torus => ", torus",
        LinkKind::SharedMemory => ", shared",
    };
    format!("{rate} ({:.0} Gb/s){kind}", rate.0 * 8.0 / 1e9)
}

/// The same as [`summary`] for scripts.
pub fn figures(machine: &Machine) -> serde_json::Value {
    let Machine { nodes, system, device } = machine;
    let bandwidth = |link: &Link| link.bandwidth.value.0;
    json!({
        "name": system.name,
        "device": device.name,
        "nodes": nodes,
        "devices_per_node": system.count,
        "devices": machine.devices(),
        "memory_bytes_per_device": device.memory.value.0,
        "memory_bytes_per_second_per_device": device.memory_bandwidth.value.0,
        "links_bytes_per_second_per_device": bandwidth(&system.scale_up),
        "network_bytes_per_second_per_device": system.scale_out.as_ref().map(bandwidth),
        "network_bytes_per_second_per_node": system.scale_out.as_ref().map(|out| bandwidth(out) * system.count as f64),
        "bf16_flops_per_second_per_device": device.peak_in(Precision::Bf16).map(|peak| peak.0),
        "usd_per_device_hour": system.price.as_ref().map(|price| price.value.0),
    })
}
