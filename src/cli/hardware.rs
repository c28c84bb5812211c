//! `hardware`: the catalog, and this machine's calibration.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use meshwright_engines::setting::shell_word;
use meshwright_executor::device::{Backend, found};
use meshwright_hardware::profile::{Cluster, Sourced, catalog, user};
use meshwright_hardware::units::Precision;

use super::profiles;
use super::progress::ProgressLine;
use super::schema::SchemaCommand;
use super::train::runs_in;
use crate::answer;
use crate::failure::Failure;
use crate::machine::{Share, measure};
use crate::out::write_whole;

/// Ranks that a machine is measured as, at most.
const MOST_RANKS: usize = 4096;

/// Subcommands of `hardware`.
#[derive(Subcommand)]
pub enum Hardware {
    /// All accelerators, systems and software stacks that ship with Meshwright, your own profiles, and this machine's devices
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// One profile as it is read, with the source of every figure, and what it comes to for a device and for a node
    Show {
        /// A device's, a system's or a stack's name, or a file
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say every fault of a profile of your own, each with its line
    Check {
        /// The file: a machine, a system or a device, by itself or as it differs from a known one (`inherit = "dgx-h100"`)
        file: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Every key of a profile with what it means and its unit, as JSON Schema; the same as `schema profile`
    Schema,
    /// Measure this machine's ops and messages, and write its profile
    Calibrate {
        #[arg(long, default_value_t, help = super::devices("What to measure"))]
        device: Backend,
        /// Ranks to measure at the same time; unless given, as many as cores, up to eight, or one on an adapter
        #[arg(long)]
        ranks: Option<usize>,
        /// What weights and activations are: fp32, bf16 or fp16; plans in that format are predicted from the profile
        #[arg(long, default_value_t = Precision::Fp32)]
        precision: Precision,
        /// About how long
        #[arg(long, default_value_t = 15.0)]
        seconds: f64,
        /// Where to write the profile
        #[arg(short, long, default_value = "machine.toml")]
        output: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Hardware {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Hardware::List { json: true } => {
                profiles::list_json();
                Ok(())
            }
            Hardware::List { json: false } => list(),
            Hardware::Show { name, json } => profiles::show(&name, json),
            Hardware::Check { file, json } => profiles::check(&file, json),
            Hardware::Schema => SchemaCommand::of_profile().run(),
            Hardware::Calibrate { device, ranks, precision, seconds, output, json } => {
                if let Some(ranks) = ranks.filter(|ranks| !(1..=MOST_RANKS).contains(ranks)) {
                    return Err(Failure::input(format!("--ranks is {ranks}: it must be 1 to {MOST_RANKS}")));
                }
                if !(seconds > 0.0 && seconds <= 3600.0) {
                    return Err(Failure::input(format!(
                        "--seconds is {seconds}: it must be above 0, and 3600 at most"
                    )));
                }
                if !runs_in(precision) {
                    return Err(Failure::input(format!(
                        "--precision {precision}: devices train in fp32, bf16 and fp16"
                    )));
                }
                let share = ranks.map_or_else(|| Share::usual(device), |ranks| Share::of_ranks(device, ranks));
                answer::progress(&format!(
                    "measuring {device}, {}, {precision}, for about {seconds:.0} s …",
                    share.words()
                ));
                let budget = Duration::from_secs_f64(seconds);
                let (machine, busy) = ProgressLine::during("measuring", budget, || measure(share, precision, budget))?;
                write_whole(&output, &machine.to_toml())?;
                if json {
                    let mut all = profiles::figures(&machine);
                    // A calibration is of one format.
                    all.as_object_mut().expect("figures are a table").remove("bf16_flops_per_second_per_device");
                    all["output"] = output.display().to_string().into();
                    all["precision"] = precision.to_string().into();
                    all["flops_per_second_per_device"] = machine.device.peak_in(precision).map(|peak| peak.0).into();
                    all["busy"] = serde_json::to_value(busy).expect("it is numbers");
                    answer::print("calibration", all);
                    return Ok(());
                }
                let peak = machine.device.peak.values().next().map(|peak| peak.value.to_string()).unwrap_or_default();
                println!("{}: {peak} and {} a rank", machine.system.title, machine.device.memory_bandwidth.value);
                busy.iter().for_each(|busy| println!("while it was measured {busy}"));
                println!(
                    "next: meshwright plan demo-10m --cluster {} --seq 256 --global-batch 8 --precision {precision}",
                    shell_word(&output.display().to_string())
                );
                Ok(())
            }
        }
    }
}

fn list() -> Result<(), Failure> {
    let catalog = catalog();
    println!("{:<14} {:<34} {:>9} {:>10} {:>14}", "device", "", "memory", "bandwidth", "bf16 or fp32");
    for device in &catalog.devices {
        let best = device.peak_figure(Precision::Bf16);
        let peak = best.map(|peak| peak.value.to_string()).unwrap_or_default();
        let (memory, bandwidth) = (device.memory.value.to_string(), device.memory_bandwidth.value.to_string());
        let assumed = assumed_of(&[
            ("memory", device.memory.is_assumed()),
            ("bandwidth", device.memory_bandwidth.is_assumed()),
            ("peak", best.is_some_and(Sourced::is_assumed)),
        ]);
        println!("{:<14} {:<34} {memory:>9} {bandwidth:>10} {peak:>14}{assumed}", device.name, device.title);
    }
    println!("\n{:<21} {:<40} {:>20} {:>10} {:>10} {:>8}", "system", "", "devices", "links", "network", "$/hour");
    println!("{:<21} {:<40} {:>20} {:>10} {:>10} {:>8}", "", "", "", "a device", "a device", "a device");
    for system in &catalog.systems {
        let devices = format!("{} × {}", system.count, system.device);
        let (up, out) = (&system.scale_up.bandwidth, system.scale_out.as_ref().map(|out| &out.bandwidth));
        let network = out.map_or("–".to_owned(), |out| out.value.to_string());
        let price = system.price.as_ref().map_or("–".to_owned(), |price| price.value.to_string());
        let assumed = assumed_of(&[
            ("links", up.is_assumed()),
            ("network", out.is_some_and(Sourced::is_assumed)),
            ("price", system.price.as_ref().is_some_and(Sourced::is_assumed)),
        ]);
        let (name, title, up) = (&system.name, &system.title, up.value.to_string());
        println!("{name:<21} {title:<40} {devices:>20} {up:>10} {network:>10} {price:>8}{assumed}");
    }
    own_profiles();
    println!("\n{:<26} software stack; `meshwright stacks` shows their figures", "stack");
    for stack in &catalog.stacks {
        println!("{:<26} {}", stack.name, stack.title);
    }
    println!("\n{:<14} this machine's devices, as `--device` names them", "this machine");
    for found in found() {
        match found.problem {
            None => println!("{:<14} usable: {}; {}; {}", found.name, found.title, found.driver, found.library),
            Some(problem) if found.title.is_empty() => println!("{:<14} cannot be used: {problem}", found.name),
            Some(problem) => println!("{:<14} cannot be used: {}: {problem}", found.name, found.title),
        }
    }
    Ok(())
}

/// The profiles in the user's folder.
fn own_profiles() {
    let names = user::names();
    let Some(folder) = user::folder().filter(|_| !names.is_empty()) else { return };
    println!("\n{:<26} your own, in {}", "profile", folder.display());
    for name in names {
        let said = match Cluster::parse(&name) {
            _ if catalog().knows(&name) => "hidden: a built-in profile has this name".to_owned(),
            Ok(cluster) => format!("{} × {}", cluster.devices(), cluster.pools[0].device.title),
            Err(error) => format!("cannot be read: {error}"),
        };
        println!("{name:<26} {said}");
    }
}

/// Which figures of a line are assumed, all or in part, in words that follow it.
fn assumed_of(figures: &[(&str, bool)]) -> String {
    let names: Vec<&str> = figures.iter().filter(|(_, assumed)| *assumed).map(|(name, _)| *name).collect();
    if names.is_empty() { String::new() } else { format!("   assumed: {}", names.join(", ")) }
}
