//! Engines: software that trains, each with what it can express and how it spells it.
//!
//! In: a [`Launch`] that was made to fit. Out: settings by name, files, and the environment they run in.
//!
//! Invariant: an engine is its file beside this one and its line in [`ENGINES`]; nothing else in the project names one.

use meshwright_hardware::profile::DeviceKind;
use meshwright_planner::plan::Plan;

use crate::launch::Launch;
use crate::setting::Section;
use meshwright_planner::ability::{Ability, Losses};

mod accelerate;
mod deepspeed;
mod hugging_face;
mod maxtext;
mod megatron;
mod script;
mod torchtitan;

pub use script::{SCRIPT, stamp};

/// Every engine.
pub const ENGINES: &[&dyn Engine] = &[
    &megatron::MegatronLm,
    &torchtitan::Torchtitan,
    &deepspeed::DeepSpeed,
    &maxtext::MaxText,
    &accelerate::Accelerate,
];

/// What is to be known of an engine beside its words.
#[derive(Debug)]
pub struct About {
    /// Name on the command line.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// The release whose words are written, by its package.
    pub version: &'static str,
    /// When that release's parser was read.
    pub dated: &'static str,
    /// How names of software stacks that are this engine begin.
    pub stacks: &'static [&'static str],
    /// The stack of its newest measured runs: what a launch file of it is priced by where none is named.
    pub usual_stack: &'static str,
    /// Devices that it runs on.
    pub devices: &'static [DeviceKind],
    /// What it can express.
    pub ability: Ability,
    /// Where a measured step stands in its log, and how it reads.
    pub log: &'static str,
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Path in the folder.
    pub name: String,
    /// All of it.
    pub text: String,
}

impl TextFile {
    /// A file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> TextFile {
        TextFile { name: name.into(), text: text.into() }
    }
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: &'static str,
    /// Value.
    pub value: String,
    /// Why it has that.
    pub why: &'static str,
}

/// What only the user knows: a variable that the script reads, with what stands in its place until it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// Name of the variable.
    pub name: &'static str,
    /// What it has until then.
    pub until: &'static str,
    /// What to put there.
    pub what: &'static str,
}

/// Software that trains.
pub trait Engine: Sync {
    /// What is to be known of it.
    fn about(&self) -> &'static About;

    /// The plan in its words.
    fn settings(&self, launch: &Launch) -> Vec<Section>;

    /// Its files, among them [`SCRIPT`], which starts what one node runs.
    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile>;

    /// Variables that it needs.
    fn environment(&self, launch: &Launch) -> Vec<Variable>;

    /// What the user is to set.
    fn yours(&self) -> &'static [Placeholder];

    /// What differs from what was priced although nothing is lost.
    fn notes(&self, launch: &Launch) -> Vec<String>;
}

/// An engine by its name.
///
/// # Errors
/// All names, where none is this.
pub fn find(name: &str) -> Result<&'static dyn Engine, String> {
    let found = ENGINES.iter().find(|engine| engine.about().name == name);
    let known = || ENGINES.iter().map(|engine| engine.about().name).collect::<Vec<_>>().join(", ");
    found.copied().ok_or_else(|| format!("unknown engine `{name}`; known: {}", known()))
}

/// The engine that a software stack is, if it is one of these.
pub fn of_stack(stack: &str) -> Option<&'static dyn Engine> {
    let longest = |engine: &&dyn Engine| {
        engine.about().stacks.iter().filter(|start| stack.starts_with(**start)).map(|start| start.len()).max()
    };
    let best = ENGINES.iter().filter(|engine| longest(engine).is_some()).max_by_key(|engine| longest(engine));
    best.copied()
}

/// A launch's plan made to fit an engine, with what that takes.
pub fn fit(engine: &dyn Engine, launch: &Launch) -> (Plan, Losses) {
    let (mut near, mut losses) = (launch.plan.clone(), Losses::default());
    let on = launch.hardware.as_ref().filter(|hardware| !engine.about().devices.contains(&hardware.kind));
    if let Some(hardware) = on {
        losses.never(format!("devices of this kind (`{}`)", hardware.device));
    }
    engine.about().ability.fit(&mut near, &mut losses);
    (near, losses)
}

#[cfg(test)]
mod tests {
    use meshwright_hardware::profile::catalog;

    use super::*;

    #[test]
    fn stacks_lead_to_the_engine_that_they_were_measured_with() {
        let of = |stack: &str| of_stack(stack).map(|engine| engine.about().name);
        assert_eq!(of("megatron-core"), Some("megatron-lm"));
        assert_eq!(of("megatron-deepspeed-2023"), Some("deepspeed"));
        assert_eq!((of("torchtitan"), of("maxtext"), of("typical")), (Some("torchtitan"), Some("maxtext"), None));
        for engine in ENGINES.iter().map(|engine| engine.about()) {
            assert_eq!(of(engine.usual_stack), Some(engine.name));
            assert!(catalog().stack(engine.usual_stack).is_ok());
        }
        for start in ENGINES.iter().flat_map(|engine| engine.about().stacks) {
            assert!(
                catalog().stacks.iter().any(|stack| stack.name.starts_with(start)),
                "{start} begins no stack's name"
            );
        }
    }
}
