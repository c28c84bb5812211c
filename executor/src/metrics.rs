//! A line of JSON a step: what a run tells while it goes.
//!
//! In: a step's figures. Out: `metrics.jsonl`, and the figures read back from it.
//!
//! Invariant: steps in the file only rise, and each stands there once, however often the run was killed and resumed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::ExecutorError;

/// The figures of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 0.
    pub step: usize,
    /// Mean loss over the global batch before the update, nats a token; not a number once training has diverged.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Tokens trained on a second, by this step alone.
    pub tokens_per_s: f64,
    /// Seconds from the start of the first rank to the end of the last.
    pub step_time_s: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of the whole gradient before clipping; not a number once training has diverged.
    #[serde(deserialize_with = "number_or_nan")]
    pub grad_norm: f64,
    /// What gradients were multiplied by, so that small ones do not vanish in fp16; one in other formats.
    #[serde(default = "unscaled")]
    pub loss_scale: f64,
    /// Steps so far, this one included, that updated nothing because their gradient was not finite.
    #[serde(default)]
    pub skipped: usize,
    /// Bytes that the rank that held most has held so far.
    pub peak_memory_bytes: u64,
}

fn unscaled() -> f64 {
    1.0
}

/// JSON has no word for what is not a number: it is written as null.
fn number_or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A file that grows by a line a step.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the file for the steps from `from_step` on: what an earlier run wrote of those is dropped, what came before
    /// stays. The file is replaced whole, so a kill leaves the old one or the new one.
    ///
    /// # Errors
    /// As [`read`], and [`ExecutorError::Io`] if the file cannot be written.
    pub fn open(path: &Path, from_step: usize) -> Result<MetricsLog, ExecutorError> {
        // A fresh run needs nothing of what was there, readable or not.
        let earlier = if from_step > 0 && path.exists() { read(path)? } else { Vec::new() };
        let kept: String = earlier.iter().filter(|line| line.step < from_step).map(line).collect();
        let aside = path.with_extension(format!("tmp-{}", std::process::id()));
        fs::write(&aside, kept).map_err(ExecutorError::io(&aside))?;
        fs::rename(&aside, path).map_err(ExecutorError::io(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(ExecutorError::io(path))?;
        Ok(MetricsLog { path: path.to_owned(), file })
    }

    /// Adds a step. It is with the system when this returns: a kill of the process does not lose it.
    ///
    /// # Errors
    /// [`ExecutorError::Io`] if the file cannot be written.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), ExecutorError> {
        self.file.write_all(line(metrics).as_bytes()).map_err(ExecutorError::io(&self.path))
    }
}

fn line(metrics: &StepMetrics) -> String {
    serde_json::to_string(metrics).expect("plain numbers can be written as JSON") + "\n"
}

/// The steps in a file. A last line that a killed run left half-written is dropped.
///
/// # Errors
/// [`ExecutorError::BadInput`] if there is no such file or another line is not a step's, with its number;
/// [`ExecutorError::Io`] if the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, ExecutorError> {
    let bad = |place: String, why: String, fix: &str| ExecutorError::bad_input("metrics", place, why, fix);
    let bytes = fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            bad(path.display().to_string(), "there is no such file".to_owned(), "give the folder of a run")
        }
        _ => ExecutorError::Io { path: path.to_owned(), source },
    })?;
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut steps = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(step) => steps.push(step),
            Err(_) if i + 1 == lines.len() => {}
            Err(e) => {
                let place = format!("{}:{}", path.display(), i + 1);
                return Err(bad(place, e.to_string(), "remove that line or the file"));
            }
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("meshwright-metrics-{name}-{}.jsonl", std::process::id()))
    }

    fn metrics(step: usize) -> StepMetrics {
        StepMetrics {
            step,
            loss: 1.0 / (step + 3) as f64,
            tokens_per_s: 1e4 / 3.0,
            step_time_s: 0.1,
            lr: 1e-3,
            grad_norm: 2.0 / 3.0,
            loss_scale: 65536.0,
            skipped: 2,
            peak_memory_bytes: (1 << 40) + 1,
        }
    }

    fn steps(path: &Path) -> Vec<usize> {
        read(path).unwrap().iter().map(|metrics| metrics.step).collect()
    }

    #[test]
    fn what_is_appended_reads_back_to_the_bit_while_the_run_goes_on() {
        let path = path("back");
        let mut log = MetricsLog::open(&path, 0).unwrap();
        for step in 0..3 {
            log.append(&metrics(step)).unwrap();
            assert_eq!(read(&path).unwrap(), (0..=step).map(metrics).collect::<Vec<_>>());
        }
        assert!(fs::read_to_string(&path).unwrap().starts_with(r#"{"step":0,"loss":"#));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_resumed_run_drops_the_steps_it_does_again_and_a_torn_line() {
        let path = path("resume");
        let mut log = MetricsLog::open(&path, 0).unwrap();
        (0..5).for_each(|step| log.append(&metrics(step)).unwrap());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        let mut log = MetricsLog::open(&path, 2).unwrap();
        assert_eq!(steps(&path), [0, 1]);
        (2..4).for_each(|step| log.append(&metrics(step)).unwrap());
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        MetricsLog::open(&path, 0).unwrap();
        assert_eq!(steps(&path), [0; 0]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_diverged_loss_reads_back_as_not_a_number() {
        let path = path("nan");
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(&StepMetrics { loss: f64::NAN, grad_norm: f64::INFINITY, ..metrics(0) }).unwrap();
        let back = read(&path).unwrap();
        assert!(back.len() == 1 && back[0].loss.is_nan() && back[0].grad_norm.is_nan());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_is_missing_or_spoilt_is_refused_by_name_and_line() {
        let path = path("spoilt");
        let refused = |place: String| {
            let error = read(&path).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(&place), "{error}");
        };
        refused(path.display().to_string());
        fs::write(&path, format!("{}not json\n{}", line(&metrics(0)), line(&metrics(1)))).unwrap();
        refused(format!("{}:2", path.display()));
        fs::remove_file(path).unwrap();
    }
}
