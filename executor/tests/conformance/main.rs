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
use meshwright_executor::device::{Backend, DEVICES, Device};
use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::{Buffer, Elem};

/// Formats of weights and activations.
const ALL: [Elem; 3] = [Elem::F32, Elem::Bf16, Elem::F16];

/// The suite for a device that `$make` makes: `fn(Rank, &[Buffer]) -> Result<Box<dyn Device>, ExecutorError>`; `$elems` are the
/// formats it has, `$scores` what its attention multiplies by, and attributes go before every test.
macro_rules! conformance {
    ($device:ident, $make:expr, $elems:expr, $scores:ident $(, #[$attribute:meta])*) => {
        mod $device {
            use crate::{cases, suite};
            use meshwright_hardware::program::Elem;

            const ELEMS: &[Elem] = &$elems;
            const SCORES: suite::Scores = suite::Scores::$scores;

            #[test]
            $(#[$attribute])*
            fn embeddings() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::embeddings()));
            }

            #[test]
            $(#[$attribute])*
            fn positions() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::positions()));
            }

            #[test]
            $(#[$attribute])*
            fn norms() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::norms()));
            }

            #[test]
            $(#[$attribute])*
            fn matmuls() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::matmuls()));
            }

            #[test]
            $(#[$attribute])*
            fn attention() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::attention()));
            }

            #[test]
            $(#[$attribute])*
            fn activations() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::activations()));
            }

            #[test]
            $(#[$attribute])*
            fn sums() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::sums()));
            }

            #[test]
            $(#[$attribute])*
            fn losses() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::losses()));
            }

            #[test]
            $(#[$attribute])*
            fn optimizers() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::optimizers()));
            }

            #[test]
            $(#[$attribute])*
            fn experts() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::experts()));
            }

            #[test]
            $(#[$attribute])*
            fn spread() {
                ELEMS.iter().for_each(|&elem| suite::ops($make, elem, SCORES, cases::spread()));
            }

            #[test]
            $(#[$attribute])*
            fn buffers_hold_what_the_host_writes() {
                ELEMS.iter().for_each(|&elem| suite::host($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn elements_move_as_they_lie() {
                ELEMS.iter().for_each(|&elem| suite::bytes($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn ops_run_in_order() {
                ELEMS.iter().for_each(|&elem| suite::order($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn a_sum_may_be_written_over_an_operand() {
                ELEMS.iter().for_each(|&elem| suite::in_place($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn an_overflow_updates_nothing() {
                ELEMS.iter().for_each(|&elem| suite::overflow($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn what_a_format_cannot_hold_shows() {
                ELEMS.iter().for_each(|&elem| suite::extremes($make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn what_does_not_fit_is_refused() {
                suite::refusals($make);
            }
        }
    };
}

/// A device of the table, by name.
fn named(name: &str, rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    name.parse::<Backend>()?.open(rank, buffers, 2)
}

conformance!(cpu, |rank, buffers| crate::named("cpu", rank, buffers), crate::ALL, Full);

/// The best adapter; a machine without one has a software one from Mesa's Vulkan drivers, which `scripts/test` installs.
#[cfg(feature = "wgpu")]
fn wgpu(rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    named("wgpu", rank, buffers).inspect_err(|error| {
        eprintln!("{error}\nwithout an adapter, install a software one as scripts/test does: mesa-vulkan-drivers");
    })
}

#[cfg(feature = "wgpu")]
conformance!(wgpu, crate::wgpu, crate::ALL, Full);

/// The same adapter, as if it had no words of 16 bits and no subgroups.
#[cfg(feature = "wgpu")]
fn plain(rank: Rank, buffers: &[Buffer]) -> Result<Box<dyn Device>, ExecutorError> {
    Ok(Box::new(meshwright_executor::device::Wgpu::plain(rank, buffers, "wgpu".parse()?)?))
}

#[cfg(feature = "wgpu")]
conformance!(wgpu_plain, crate::plain, [Elem::F32, Elem::Bf16], Full);

/// Torch's CPU, by the library that `scripts/torch` builds.
#[cfg(all(feature = "torch", unix))]
conformance!(torch, |rank, buffers| crate::named("torch", rank, buffers), crate::ALL, Full);

/// Torch's first CUDA device.
#[cfg(all(feature = "torch", unix))]
conformance!(
    cuda,
    |rank, buffers| crate::named("cuda", rank, buffers),
    crate::ALL,
    Narrow,
    #[ignore = "needs an NVIDIA GPU: -- --ignored cuda"]
);

#[test]
fn every_device_runs_the_suite() {
    for entry in DEVICES {
        let line = format!("conformance!({},", entry.name);
        let found = include_str!("main.rs").split_whitespace().collect::<String>().contains(&line);
        assert!(found, "{} has no line `conformance!({}, …)` here", entry.name, entry.name);
    }
}

#[test]
fn cases_cover_every_class_that_is_calibrated() {
    let classes = |ops: Vec<meshwright_hardware::op::Op>| -> std::collections::BTreeSet<&str> {
        ops.iter().map(|op| op.class()).collect()
    };
    let (tested, calibrated) =
        (classes(cases::all()), classes(meshwright_executor::calibrate::default_ops(Elem::F32, false)));
    assert!(calibrated.is_subset(&tested), "{calibrated:?} {tested:?}");
}
