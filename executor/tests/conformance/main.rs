//! Every device runs every op as the plain `f64` code of `reference` does.
//!
//! In: for each device, how it is made. Out: for each, a module of the same tests.
//!
//! Invariant: cases come from fixed seeds, and no wildcard arm stands over `Op`, so a new op is found by the compiler.

mod cases;
mod reference;
mod spread;
mod suite;

use meshwright_executor::ExecutorError;
use meshwright_executor::device::{Cpu, Device};
use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::Buffer;

/// The suite for a device that `$make` makes: `fn(Rank, &[Buffer]) -> Result<Box<dyn Device>, ExecutorError>`.
macro_rules! conformance {
    ($device:ident, $make:expr) => {
        mod $device {
            use crate::{cases, suite};

            #[test]
            fn embeddings() {
                suite::ops($make, cases::embeddings());
            }

            #[test]
            fn positions() {
                suite::ops($make, cases::positions());
            }

            #[test]
            fn norms() {
                suite::ops($make, cases::norms());
            }

            #[test]
            fn matmuls() {
                suite::ops($make, cases::matmuls());
            }

            #[test]
            fn attention() {
                suite::ops($make, cases::attention());
            }

            #[test]
            fn activations() {
                suite::ops($make, cases::activations());
            }

            #[test]
            fn sums() {
                suite::ops($make, cases::sums());
            }

            #[test]
            fn losses() {
                suite::ops($make, cases::losses());
            }

            #[test]
            fn optimizers() {
                suite::ops($make, cases::optimizers());
            }

            #[test]
            fn experts() {
                suite::ops($make, cases::experts());
            }

            #[test]
            fn spread() {
                suite::ops($make, cases::spread());
            }

            #[test]
            fn buffers_hold_what_the_host_writes() {
                suite::host($make);
            }

            #[test]
            fn ops_run_in_order() {
                suite::order($make);
            }

            #[test]
            fn a_sum_may_be_written_over_an_operand() {
                suite::in_place($make);
            }

            #[test]
            fn what_does_not_fit_is_refused() {
                suite::refusals($make);
            }
        }
    };
}

fn cpu(rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    Ok(Box::new(Cpu::new(rank, buffers, 2)?))
}

conformance!(cpu, crate::cpu);

/// The best adapter; a machine without one has a software one from Mesa's Vulkan drivers, which `scripts/test` installs.
#[cfg(feature = "wgpu")]
fn wgpu(rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    let device = meshwright_executor::device::Wgpu::new(rank, buffers, 0);
    if let Err(error) = &device {
        eprintln!("{error}\nwithout an adapter, install a software one as scripts/test does: mesa-vulkan-drivers");
    }
    Ok(Box::new(device?))
}

#[cfg(feature = "wgpu")]
conformance!(wgpu, crate::wgpu);

/// Torch's CPU, by the library that `scripts/torch` builds.
#[cfg(all(feature = "torch", unix))]
fn torch(rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    use meshwright_executor::device::{Backend, Torch};
    Ok(Box::new(Torch::new(rank, buffers, Backend::Torch, 2)?))
}

#[cfg(all(feature = "torch", unix))]
conformance!(torch, crate::torch);

#[test]
fn cases_cover_every_class_that_is_calibrated() {
    let classes = |ops: Vec<meshwright_hardware::op::Op>| -> std::collections::BTreeSet<&str> {
        ops.iter().map(|op| op.class()).collect()
    };
    let (tested, calibrated) = (classes(cases::all()), classes(meshwright_executor::calibrate::default_ops()));
    assert!(calibrated.is_subset(&tested), "{calibrated:?} {tested:?}");
}
