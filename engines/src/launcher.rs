//! Launchers: what starts the script of a folder on every node.
//!
//! In: a launch, an engine. Out: the launcher's file, and how it is used.
//!
//! Invariant: a launcher is its file beside this one and its line in [`LAUNCHERS`]; it tells the script where it is, and nothing else.

use crate::engine::TextFile;
use crate::launch::Launch;

mod kubernetes;
mod skypilot;
mod slurm;
mod torchrun;

/// Every launcher.
pub const LAUNCHERS: &[&dyn Launcher] =
    &[&torchrun::ByHand, &slurm::Slurm, &kubernetes::JobSet, &kubernetes::TrainJob, &skypilot::SkyPilot];

/// What starts a script on every node.
pub trait Launcher: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// What it is, in a line.
    fn title(&self) -> &'static str;

    /// Its file, if it has one; `stamp` says what wrote it.
    fn file(&self, launch: &Launch, stamp: &str) -> Option<TextFile>;

    /// What to type.
    fn usage(&self, launch: &Launch) -> String;
}

/// A launcher by its name.
///
/// # Errors
/// All names, where none is this.
pub fn find(name: &str) -> Result<&'static dyn Launcher, String> {
    let found = LAUNCHERS.iter().find(|launcher| launcher.name() == name);
    let known = || LAUNCHERS.iter().map(|launcher| launcher.name()).collect::<Vec<_>>().join(", ");
    found.copied().ok_or_else(|| format!("unknown launcher `{name}`; known: {}", known()))
}
