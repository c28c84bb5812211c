//! Plans in the words of the software that runs them: command lines, configurations and scripts of other engines.
//!
//! In: a plan, and the machines it is for. Out: the texts of a folder that trains by it.
//!
//! Layers, each of which knows only those before it:
//!
//! 1. [`setting`]: names and values as engines spell them, in shell, YAML, JSON and Python.
//! 2. [`launch`]: a plan on so many nodes.
//! 3. [`engine`]s, a file each; [`launcher`]s, a file each.
//! 4. [`export`]: a launch by an engine and a launcher as a folder.
//! 5. [`import`]: the way back, from launch files of these engines and others to a plan; [`log`]: what a run measured.
//!
//! Invariant: no decision of a plan is dropped in silence: what an engine cannot express is a [`meshwright_planner::ability::Lost`]. Nothing here reads or writes files.

pub mod engine;
pub mod export;
pub mod import;
pub mod launch;
pub mod launcher;
pub mod log;
pub mod setting;
