//! The compiler for the machine on paper: job + cluster → plan → program.
