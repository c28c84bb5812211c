//! `hardware`: the catalog, and this machine's calibration.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use meshwright_executor::device::{Backend, found};
use meshwright_hardware::profile::catalog;
use meshwright_hardware::units::Precision;

use super::train::runs_in;
use crate::failure::Failure;
use crate::machine::{Share, measure};
use crate::out::write_whole;

/// Subcommands of `hardware`.
#[derive(Subcommand)]
pub enum Hardware {
    /// All accelerators, systems and software stacks that ship with Meshwright, and this machine's devices
    List,
    /// One profile, with the source of every figure
    Show {
        /// A device's, a system's or a stack's name
        name: String,
    },
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
    },
}

impl Hardware {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Hardware::List => list(),
            Hardware::Show { name } => show(&name),
            Hardware::Calibrate { device, ranks, precision, seconds, output } => {
                if ranks == Some(0) || !(seconds > 0.0 && seconds < 3600.0) {
                    return Err(Failure::input("--ranks must be above zero and --seconds between 0 and 3600"));
                }
                if !runs_in(precision) {
                    return Err(Failure::input(format!(
                        "--precision {precision}: devices train in fp32, bf16 and fp16"
                    )));
                }
                let share = ranks.map_or_else(|| Share::usual(device), |ranks| Share::of_ranks(device, ranks));
                eprintln!("measuring {device}, {}, {precision}, for about {seconds:.0} s …", share.words());
                let machine = measure(share, precision, Duration::from_secs_f64(seconds))?;
                write_whole(&output, &machine.to_toml())?;
                let peak = machine.device.peak.values().next().map(|peak| peak.value.to_string()).unwrap_or_default();
                println!("{}: {peak} and {} a rank", machine.system.title, machine.device.memory_bandwidth.value);
                println!(
                    "next: meshwright plan demo-10m --cluster {} --seq 256 --global-batch 8 --precision {precision}",
                    output.display()
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
        let peak = device.peak_in(Precision::Bf16);
        let peak = peak.map(|peak| peak.to_string()).unwrap_or_default();
        let (memory, bandwidth) = (device.memory.value.to_string(), device.memory_bandwidth.value.to_string());
        println!("{:<14} {:<34} {memory:>9} {bandwidth:>10} {peak:>14}", device.name, device.title);
    }
    println!("\n{:<18} {:<44} devices", "system", "");
    for system in &catalog.systems {
        println!("{:<18} {:<44} {} × {}", system.name, system.title, system.count, system.device);
    }
    println!("\n{:<26} software stack, as published runs are estimated", "stack");
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

fn show(name: &str) -> Result<(), Failure> {
    let catalog = catalog();
    let system = catalog.systems.iter().find(|system| system.name == name);
    let stack = catalog.stacks.iter().find(|stack| stack.name == name);
    let text = match (system, stack) {
        (Some(system), _) => toml::to_string(system),
        (None, Some(stack)) => toml::to_string(stack),
        (None, None) => toml::to_string(catalog.device(name)?),
    };
    print!("{}", text.expect("a profile is tables of strings and numbers"));
    Ok(())
}
