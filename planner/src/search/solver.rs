//! The solver of linear programs: microlp, in Rust; HiGHS where the feature `highs` asks for it.
//!
//! In: a program of good_lp. Out: its model in the solver's hands.
//!
//! Invariant: exactly one solver is compiled into the programs, so that answers do not depend on what else is there.

#[cfg(feature = "highs")]
pub use good_lp::{highs as solver, solvers::highs::HighsProblem as Model};
#[cfg(not(feature = "highs"))]
pub use good_lp::{microlp as solver, solvers::microlp::MicroLpProblem as Model};
