//! A line of JSON a step: what a run tells while it goes.
//!
//! In: a step's figures. Out: `metrics.jsonl`, and the figures read back from it.
//!
//! Invariant: steps in the file only rise, and each stands there once, however often the run was killed and resumed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use meshwright_hardware::files::{FileError, read_bytes};
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
    missing: usize,
    /// Bytes of whole lines in the file.
    len: u64,
    /// Lines that could not be written yet.
    pending: Vec<u8>,
}

impl MetricsLog {
    /// Opens the file for the steps from `from_step` on: what an earlier run wrote of those is dropped, what came before
    /// stays, byte for byte. The file is replaced whole, so a kill leaves the old one or the new one. A power cut may have taken
    /// lines that a checkpoint counts on: [`MetricsLog::missing`] says how many.
    ///
    /// # Errors
    /// As [`read`], and [`ExecutorError::File`] if the file cannot be written.
    pub fn open(path: &Path, from_step: usize) -> Result<MetricsLog, ExecutorError> {
        // A fresh run needs nothing of what was there, readable or not.
        let bytes = if from_step > 0 && path.exists() { read_file(path)? } else { Vec::new() };
        let earlier = lines(path, &bytes)?;
        let kept: Vec<u8> = earlier
            .iter()
            .filter(|(metrics, _)| metrics.step < from_step)
            .flat_map(|(_, line)| line.iter().copied().chain([b'\n']))
            .collect();
        let len = kept.len() as u64;
        let aside = path.with_extension(format!("tmp-{}", std::process::id()));
        fs::write(&aside, kept).map_err(FileError::write(&aside))?;
        fs::rename(&aside, path).map_err(FileError::write(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(FileError::write(path))?;
        let there: BTreeSet<usize> = earlier.iter().map(|(metrics, _)| metrics.step).collect();
        let missing = from_step - there.range(..from_step).count();
        Ok(MetricsLog { path: path.to_owned(), file, missing, len, pending: Vec::new() })
    }

    /// How many of the steps before those it was opened for are not in the file.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Adds a step. It is with the system when this returns: a kill of the process does not lose it. A line that cannot be
    /// written, as on a full disk, is kept and written with the next one.
    ///
    /// # Errors
    /// [`ExecutorError::File`] if the file cannot be written.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), ExecutorError> {
        self.pending.extend_from_slice(line(metrics).as_bytes());
        self.flush()
    }

    /// Writes the lines that could not be written before.
    ///
    /// # Errors
    /// [`ExecutorError::File`] if the file still cannot be written.
    pub fn flush(&mut self) -> Result<(), ExecutorError> {
        if let Err(error) = self.file.write_all(&self.pending) {
            // No half line: what comes next would be joined to it. If even that fails, a reader says which line is torn.
            let _ = self.file.set_len(self.len);
            return Err(FileError::write(&self.path)(error).into());
        }
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn line(metrics: &StepMetrics) -> String {
    serde_json::to_string(metrics).expect("plain numbers can be written as JSON") + "\n"
}

/// The steps in a file. A last line that a killed run left half-written is dropped.
///
/// # Errors
/// [`ExecutorError::BadInput`] if another line is not a step's, with its number; [`ExecutorError::File`] if the file cannot be
/// read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, ExecutorError> {
    Ok(lines(path, &read_file(path)?)?.into_iter().map(|(metrics, _)| metrics).collect())
}

fn bad(place: String, why: String, fix: &str) -> ExecutorError {
    ExecutorError::bad_input("metrics", place, why, fix)
}

fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    const MOST_BYTES: u64 = 16 << 30;
    read_bytes(path, MOST_BYTES)
}

/// Every step of a file with its line.
fn lines<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(StepMetrics, &'a [u8])>, ExecutorError> {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut steps = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(step) => steps.push((step, *line)),
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
        assert_eq!((steps(&path), log.missing()), (vec![0, 1], 0));
        (2..4).for_each(|step| log.append(&metrics(step)).unwrap());
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        MetricsLog::open(&path, 0).unwrap();
        assert_eq!(steps(&path), [0; 0]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_resumed_run_leaves_old_lines_as_they_are_and_counts_those_that_are_lost() {
        let path = path("bytes");
        // Neither the order of keys nor the spaces are this version's.
        let old = r#"{ "loss":5.5, "step":0,"tokens_per_s":1,"step_time_s":0.1,"lr":1.60e-4,"grad_norm":1e0,"peak_memory_bytes":9}"#;
        fs::write(&path, format!("{old}\n{}{}", line(&metrics(2)), line(&metrics(4)))).unwrap();
        let log = MetricsLog::open(&path, 4).unwrap();
        assert_eq!(log.missing(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{old}\n{}", line(&metrics(2))));
        fs::remove_file(path).unwrap();
    }

    proptest::proptest! {
        #[test]
        fn every_figure_reads_back_to_the_bit(loss in 1e-30f64..1e30, lr: f64, grad_norm: f64) {
            let there = StepMetrics { loss, lr, grad_norm, ..metrics(0) };
            let back: StepMetrics = serde_json::from_str(&line(&there)).unwrap();
            let bits = |m: &StepMetrics| [m.loss, m.lr, m.grad_norm].map(f64::to_bits);
            proptest::prop_assert_eq!(bits(&back), bits(&there));
        }
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
        let refused = |code: u8, place: String| {
            let error = read(&path).unwrap_err();
            assert!(error.exit_code() == code && error.to_string().contains(&place), "{error}");
        };
        refused(1, path.display().to_string());
        fs::write(&path, format!("{}not json\n{}", line(&metrics(0)), line(&metrics(1)))).unwrap();
        refused(2, format!("{}:2", path.display()));
        fs::remove_file(path).unwrap();
    }
}
