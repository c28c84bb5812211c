//! Pipeline schedules: in which order a stage runs forward and backward of its chunks' microbatches.
//!
//! In: a schedule, the number of stages, of chunks a stage, of microbatches. Out: a list of [`Action`]s a stage, and what the
//! search may know of a step before its layers are spread over stages.
//!
//! Invariants: each microbatch of each chunk is run forward once, then backward once, then (where backward is split) its
//! weights' gradients once, always in the order of microbatches; all stages together never wait in a circle. A schedule is its
//! file beside this one and its line in the registry: nothing else in the project names one, but for the default.

mod dualpipe_v;
mod gpipe;
mod one_f_one_b;
mod order;
mod peaks;
#[cfg(test)]
mod tests;
mod zb_h1;
mod zb_h2;
mod zb_v;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use order::{Passes, PipelineSchedule, StageWork, StepWork};
pub use peaks::{Peaks, SlotSpan};

/// Makes of the registry the enum, its names in files, and the way to each schedule's [`PipelineSchedule`].
macro_rules! registry {
    ($($(#[$doc:meta])* $schedule:ident = $name:literal => $order:expr;)+) => {
        /// In which order a stage runs its microbatches.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Schedule {
            $($(#[$doc])* #[serde(rename = $name)] $schedule,)+
        }

        impl Schedule {
            /// Every schedule.
            pub const ALL: &[Schedule] = &[$(Schedule::$schedule),+];

            /// Name in files and tables.
            pub fn name(self) -> &'static str {
                match self { $(Schedule::$schedule => $name,)+ }
            }

            /// What is to be known of it.
            pub fn order(self) -> &'static dyn PipelineSchedule {
                match self { $(Schedule::$schedule => &$order,)+ }
            }
        }
    };
}

registry! {
    /// One forward, one backward, after a warm-up (Narayanan et al. 2019): fewer microbatches in flight. With several chunks
    /// a stage it is the interleaved schedule (Narayanan et al. 2021).
    #[default]
    OneFOneB = "1f1b" => one_f_one_b::OneFOneB;
    /// All forward, then all backward (Huang et al. 2019).
    GPipe = "gpipe" => gpipe::GPipe;
    /// 1F1B with the gradients of weights put off into what would be bubbles (Qi et al. 2023).
    ZeroBubble = "zb-h1" => zb_h1::ZbH1;
    /// The same with twice 1F1B's activations, which fill the warm-up too (Qi et al. 2023).
    ZeroBubble2p = "zb-h2" => zb_h2::ZbH2;
    /// Two chunks a stage in the form of a V, with weights put off (DeepSeek-AI 2025).
    DualPipeV = "dualpipe-v" => dualpipe_v::DualPipeV;
    /// The same V with weights right behind backward, and so with 1F1B's activations (Qi et al. 2024).
    ZbV = "zb-v" => zb_v::ZbV;
}

impl std::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Schedule::ALL.iter().map(|schedule| schedule.name()).collect::<Vec<_>>().join(", ");
        let found = Schedule::ALL.iter().copied().find(|schedule| schedule.name() == text);
        found.ok_or_else(|| format!("unknown schedule `{text}`; known: {}", known()))
    }
}

impl Schedule {
    /// Whether the gradients of weights are a pass of their own.
    pub fn splits(self) -> bool {
        self.order().splits()
    }

    /// Every schedule with each number of chunks a stage that it can have, up to `most`.
    pub fn forms(most: usize) -> impl Iterator<Item = (Schedule, usize)> {
        let chunks = move |schedule: Schedule| schedule.order().chunks().take_while(move |chunks| *chunks <= most);
        Schedule::ALL.iter().flat_map(move |&schedule| chunks(schedule).map(move |chunks| (schedule, chunks)))
    }
}

/// What a stage does next, for a chunk and a microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward.
    Forward(usize, usize),
    /// Backward; of inputs alone, if the schedule splits it.
    Backward(usize, usize),
    /// The gradients of weights.
    Weights(usize, usize),
}

/// How microbatches go through stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipeline {
    /// Order of microbatches.
    pub schedule: Schedule,
    /// Stages.
    pub stages: usize,
    /// Chunks a stage.
    pub chunks: usize,
    /// Microbatches a step.
    pub microbatches: usize,
}

impl Pipeline {
    /// What every stage does in a step.
    pub fn orders(&self) -> Vec<Vec<Action>> {
        self.schedule.order().orders(self)
    }

    /// The virtual stage of a stage's chunk: its place in the model's order.
    pub fn virtual_stage(&self, stage: usize, chunk: usize) -> usize {
        chunk * self.stages + if self.goes_up(chunk) { self.stages - 1 - stage } else { stage }
    }

    /// The stage and chunk of a virtual stage.
    pub fn chunk_at(&self, virtual_stage: usize) -> (usize, usize) {
        let (chunk, along) = (virtual_stage / self.stages, virtual_stage % self.stages);
        (if self.goes_up(chunk) { self.stages - 1 - along } else { along }, chunk)
    }

    /// Whether a chunk's virtual stages go from the last stage to the first.
    fn goes_up(&self, chunk: usize) -> bool {
        self.schedule.order().turns() && !chunk.is_multiple_of(2)
    }

    /// Microbatches after which no more are in flight at once than before: the warm-up and a few rounds.
    pub fn settled(&self) -> usize {
        self.schedule.order().settled(self)
    }

    /// What a search makes a step's microbatches a multiple of.
    pub fn round(&self) -> usize {
        self.schedule.order().round(self.stages, self.chunks)
    }

    /// Why the schedule cannot have so many chunks or microbatches on so many stages, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let (name, chunks) = (self.schedule.name(), self.schedule.order().chunks());
        if !chunks.contains(&self.chunks) || (self.stages == 1 && self.chunks > 1) {
            let can = match (*chunks.start(), *chunks.end()) {
                (1, 1) => "one chunk a stage".to_owned(),
                (least, most) if least == most => format!("{least} chunks a stage, on several stages"),
                (1, _) => "one chunk a stage, or more on several stages".to_owned(),
                (least, most) => format!("{least} to {most} chunks a stage, on several stages"),
            };
            return Err(format!("{name} has {can}"));
        }
        let least = self.schedule.order().least(self.stages, self.chunks);
        if self.microbatches < least {
            let (stages, chunks, given) = (self.stages, self.chunks, self.microbatches);
            return Err(format!(
                "{name} of {chunks} chunks on {stages} stages needs {least} microbatches or more, not {given}"
            ));
        }
        Ok(())
    }
}
