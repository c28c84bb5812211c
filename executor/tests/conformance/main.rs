//! Every device runs every op as the plain `f64` code of the vocabulary does.
//!
//! In: for each device, how it is made. Out: for each, a module of the same tests, one a family of ops.
//!
//! Invariant: ops are the vocabulary's own samples.

mod cases;
mod suite;

use std::collections::BTreeMap;

use meshwright_executor::ExecutorError;
use meshwright_executor::device::{Access, Backend, Body, DEVICES, Device, Region, StepArgs};
use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::op::{Op, Param, Sizes};
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

/// Families of ops, as [`Op::samples`] gives them.
const FAMILIES: [&str; 12] = [
    "embed",
    "norm",
    "matmul",
    "attention",
    "context",
    "rotary",
    "experts",
    "pointwise",
    "adapters",
    "optimizers",
    "loss",
    "vector",
];

/// Formats of weights and activations.
const ALL: [Elem; 3] = [Elem::F32, Elem::Bf16, Elem::F16];

/// A test a family of ops.
macro_rules! families {
    ([$($attribute:tt)*] $make:expr; $family:ident $(, $rest:ident)*) => {
        #[test]
        $($attribute)*
        fn $family() {
            ELEMS.iter().for_each(|&elem| suite::family(&$make, elem, SCORES, stringify!($family)));
        }
        families!([$($attribute)*] $make; $($rest),*);
    };
    ([$($attribute:tt)*] $make:expr;) => {};
}

/// The suite for a device that `$make` makes: `fn(Rank, &[Buffer]) -> Result<Box<dyn Device>, ExecutorError>`; `$elems` are the
/// formats it has, `$scores` what its attention multiplies by, and attributes go before every test.
macro_rules! conformance {
    ($device:ident, $make:expr, $elems:expr, $scores:ident $(, #[$attribute:meta])*) => {
        mod $device {
            use crate::suite;
            use meshwright_hardware::program::Elem;

            const ELEMS: &[Elem] = &$elems;
            const SCORES: suite::Scores = suite::Scores::$scores;

            families!([$(#[$attribute])*] $make; embed, norm, matmul, attention, context, rotary, experts, pointwise, adapters, optimizers, loss, vector);

            #[test]
            $(#[$attribute])*
            fn buffers_hold_what_the_host_writes() {
                ELEMS.iter().for_each(|&elem| suite::host(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn elements_move_as_they_lie() {
                ELEMS.iter().for_each(|&elem| suite::bytes(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn ops_run_in_order() {
                ELEMS.iter().for_each(|&elem| suite::order(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn a_sum_may_be_written_over_an_operand() {
                ELEMS.iter().for_each(|&elem| suite::in_place(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn an_overflow_updates_nothing() {
                ELEMS.iter().for_each(|&elem| suite::overflow(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn what_a_format_cannot_hold_shows() {
                ELEMS.iter().for_each(|&elem| suite::extremes(&$make, elem));
            }

            #[test]
            $(#[$attribute])*
            fn what_does_not_fit_is_refused() {
                suite::refusals(&$make);
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

/// A device of the table that has no line of its own here runs the suite in one test, in all formats.
#[test]
fn every_other_device_runs_the_suite() {
    let lines: String = include_str!("main.rs").split_whitespace().collect();
    for entry in DEVICES.iter().filter(|entry| !lines.contains(&format!("conformance!({},", entry.name))) {
        suite::all(&|rank, buffers| named(entry.name, rank, buffers), &ALL, &FAMILIES);
    }
}

/// A device without a kernel: all ops run by the reference on copies.
struct Bare(Box<dyn Device>);

impl Device for Bare {
    fn kernel(&mut self, _: &Op, _: &[Region], _: Coord, _: &StepArgs) -> Result<bool, ExecutorError> {
        Ok(false)
    }

    fn failed(&self, problem: String) -> ExecutorError {
        self.0.failed(problem)
    }

    fn with_host(&mut self, region: Region, access: Access, body: &mut Body<f32>) -> Result<(), ExecutorError> {
        self.0.with_host(region, access, body)
    }

    fn with_bytes(&mut self, region: Region, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        self.0.with_bytes(region, access, body)
    }

    fn buffer_bytes(&self) -> u64 {
        self.0.buffer_bytes()
    }

    fn scratch_bytes(&self) -> u64 {
        self.0.scratch_bytes()
    }
}

conformance!(bare, |rank, buffers| Ok(Box::new(crate::Bare(crate::named("cpu", rank, buffers)?))), crate::ALL, Full);

#[test]
fn every_family_is_tested() {
    let names: Vec<&str> = Op::samples(&Sizes::edges()).into_iter().map(|(family, _)| family).collect();
    assert_eq!(names, FAMILIES);
}

/// No op is left to the reference by mistake, which is thousands of times slower than a kernel.
fn has_all_kernels(make: suite::Make) {
    let all = Op::samples(&Sizes::edges()).into_iter().flat_map(|(_, ops)| ops).filter(Op::wants_kernels);
    let one_a_class: BTreeMap<&str, Op> = all.map(|op| (op.class(), op)).collect();
    for op in one_a_class.into_values() {
        let operand = |param: Param| Buffer {
            name: param.name.to_owned(),
            elems: param.elems,
            lifetime: Lifetime::Scratch,
            elem: param.takes.elem(Elem::F32),
        };
        let buffers: Vec<Buffer> = op.signature().into_iter().map(operand).collect();
        let regions = buffers.iter().enumerate().map(|(buffer, b)| Region { buffer, start: 0, elems: b.elems });
        let regions: Vec<Region> = regions.collect();
        let mut device = make(0, &buffers).unwrap();
        assert!(device.kernel(&op, &regions, op.second_shard(), &suite::step(0.0)).unwrap(), "{op:?}");
    }
}

#[test]
fn the_cpu_has_a_kernel_for_every_op() {
    has_all_kernels(&|rank, buffers| named("cpu", rank, buffers));
}

#[cfg(feature = "wgpu")]
#[test]
fn adapters_have_a_kernel_for_every_op() {
    has_all_kernels(&wgpu);
}
