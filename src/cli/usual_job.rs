//! Jobs by name: a job file, or a model with the sequences and the batch that are usual for it.
//!
//! In: a name, and what flags say. Out: a [`Job`], and whether it says how long to train; what was left out or taken for granted
//! goes to stderr.
//!
//! Invariant: a figure that nobody gave is said.

use clap::Args;
use meshwright_hardware::files::read_text;
use meshwright_planner::job::{Job, Model, is_job, says_length};
use meshwright_planner::models;

use crate::answer;
use crate::failure::Failure;

/// What flags say of a model and its batch.
#[derive(Args, Clone, Default)]
pub struct ModelArguments {
    /// Tokens a sequence; for a model by itself what is usual for it
    #[arg(long)]
    pub seq: Option<usize>,
    /// Sequences a step; for a model by itself what is usual for its size
    #[arg(long)]
    pub global_batch: Option<usize>,
    /// Read a config.json as one of this `model_type`, such as `llama`, whatever it says; what else is not modelled is left out
    #[arg(long = "as", value_name = "FAMILY")]
    pub family: Option<String>,
}

/// A job of a job file, or of a model; and whether it says how long to train.
pub fn read_job(name: &str, given: &ModelArguments) -> Result<(Job, bool), Failure> {
    let ModelArguments { seq, global_batch, family } = given;
    if name.ends_with(".toml") {
        let text = read_text(name)?;
        if is_job(&text) {
            refuse_family(name, family)?;
            let mut job = Job::from_toml(name, &text)?;
            job.seq = seq.unwrap_or(job.seq);
            job.global_batch = global_batch.unwrap_or(job.global_batch);
            return Ok((job, says_length(&text)));
        }
    }
    if name.ends_with(".toml") || models::names().any(|known| known == name) {
        refuse_family(name, family)?;
    }
    let (model, notes) = models::load_noted(name, family.as_deref())?;
    let note = |text: &str| answer::note(&format!("{name}: {text}"));
    notes.iter().for_each(|text| note(text));
    let tokens = seq.unwrap_or_else(|| usual_seq(&model));
    let batch = global_batch.unwrap_or_else(|| usual_batch(&model, tokens));
    if seq.is_none() {
        note(&format!("sequences of {tokens} tokens, as is usual; --seq says otherwise"));
    }
    if global_batch.is_none() {
        note(&format!("{batch} sequences a step, as is usual for its size; --global-batch says otherwise"));
    }
    Ok((Job::of(model, tokens, batch), false))
}

fn refuse_family(name: &str, family: &Option<String>) -> Result<(), Failure> {
    match family {
        Some(family) => Err(Failure::input(format!(
            "--as is {family}: it says how a config.json of Hugging Face is read, and `{name}` is none: leave it out"
        ))),
        None => Ok(()),
    }
}

/// Tokens a sequence: as many as positions were learned for, 512 for encoders (Devlin et al. 2019; Raffel et al. 2020), else 4,096
/// (Touvron et al. 2023).
pub fn usual_seq(model: &Model) -> usize {
    let family = model.family.clone().unwrap_or_default();
    match family.positions {
        Some(rows) => rows,
        None if family.bidirectional || family.decoder_layers.is_some() => 512,
        // GPT-3's (Brown et al. 2020).
        None if model.learned_positions() => 2048,
        None => 4096,
    }
}

/// Sequences a step: half a million tokens up to 1 B parameters, a million up to 5 B, two up to 20 B (Brown et al. 2020, table 2.1),
/// else four (Touvron et al. 2023), rounded to a power of two of sequences.
pub fn usual_batch(model: &Model, seq: usize) -> usize {
    let tokens: usize = match model.parameters(seq) {
        0..=1_000_000_000 => 1 << 19,
        1_000_000_001..=5_000_000_000 => 1 << 20,
        5_000_000_001..=20_000_000_000 => 1 << 21,
        _ => 1 << 22,
    };
    (tokens / seq.max(1)).max(1).next_power_of_two()
}
