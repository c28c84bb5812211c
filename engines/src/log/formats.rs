//! What lines of each engine's log say of a step: a row an engine.
//!
//! In: a line. Out: a [`LoggedStep`].

use super::LoggedStep;
use super::number::{leading, memory};

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// An engine's lines.
pub struct LogFormat {
    /// Name for people.
    pub name: &'static str,
    /// Of two that know as many lines the lower.
    pub rank: u8,
    /// Of a line of a step each of one of these stands in it.
    marks: &'static [&'static [&'static str]],
    step: &'static [&'static str],
    /// Names of times, with what makes seconds of them.
    seconds: &'static [(&'static str, f64)],
    tokens: &'static [&'static str],
    device_tokens: &'static [&'static str],
    samples: &'static [&'static str],
    loss: &'static [&'static str],
    /// Names of peak memory, with the bytes of its unit where none is said.
    memory: &'static [(&'static str, f64)],
    tflops: &'static [&'static str],
    /// Names of peak memory on lines of their own.
    beside: &'static [(&'static str, f64)],
    /// What a last line says of all steps: steps a second.
    mean: Option<&'static str>,
}

const NONE: LogFormat = LogFormat {
    name: "",
    rank: 9,
    marks: &[],
    step: &[],
    seconds: &[],
    tokens: &[],
    device_tokens: &[],
    samples: &[],
    loss: &[],
    memory: &[],
    tflops: &[],
    beside: &[],
    mean: None,
};

/// Every engine.
pub const FORMATS: &[LogFormat] = &[
    LogFormat {
        name: "Megatron-LM",
        rank: 0,
        marks: &[&["iteration "], &["elapsed time per iteration"]],
        step: &["iteration "],
        seconds: &[("elapsed time per iteration (ms):", 1e-3), ("elapsed time per iteration (s):", 1.0)],
        samples: &["samples per second:"],
        loss: &["lm loss:", "lm_loss:"],
        tflops: &["throughput per GPU (TFLOP/s/GPU):", "TFLOPs:", "approx flops per GPU:"],
        beside: &[("max allocated:", MIB), ("MaxMemAllocated=", GIB)],
        ..NONE
    },
    LogFormat {
        name: "NeMo",
        rank: 1,
        marks: &[&["train_step_timing"]],
        step: &["global_step:", "global_step=", "iteration "],
        seconds: &[
            ("train_step_timing in s:", 1.0),
            ("train_step_timing in s=", 1.0),
            ("train_step_timing:", 1.0),
            ("train_step_timing=", 1.0),
        ],
        loss: &["reduced_train_loss:", "reduced_train_loss="],
        memory: &[("max_memory_allocated:", 1.0), ("peak_memory_usage:", 1.0)],
        ..NONE
    },
    LogFormat {
        name: "nanotron",
        rank: 1,
        marks: &[&["iteration:"], &["elapsed_time_per_iteration_ms", "time_per_iteration_ms"]],
        step: &["iteration:"],
        seconds: &[("time_per_iteration_ms:", 1e-3)],
        tokens: &["tokens_per_sec:"],
        device_tokens: &["tokens_per_sec_per_gpu:"],
        loss: &["lm_loss:"],
        memory: &[("cuda_max_memory_allocated:", 1.0), ("cuda_max_memory_reserved:", 1.0)],
        tflops: &["model_tflops_per_gpu:"],
        beside: &[("Peak allocated", MIB)],
        ..NONE
    },
    LogFormat {
        name: "torchtitan",
        rank: 1,
        marks: &[&["step:"], &["tps:", "wps:"]],
        step: &["step:"],
        device_tokens: &["tps:", "wps:"],
        loss: &["loss:"],
        memory: &[("memory:", GIB)],
        tflops: &["tflops:"],
        ..NONE
    },
    LogFormat {
        name: "MaxText",
        rank: 1,
        marks: &[&["completed step:"], &["seconds:"]],
        step: &["completed step:"],
        seconds: &[("seconds:", 1.0)],
        device_tokens: &["Tokens/s/device:"],
        loss: &["loss:"],
        tflops: &["TFLOP/s/device:"],
        beside: &[("Using (GB)", 1e9)],
        ..NONE
    },
    LogFormat {
        name: "DeepSpeed",
        rank: 2,
        marks: &[&["SamplesPerSec=", "iter time (s):"]],
        step: &["global_step=", "steps:", "micro_step="],
        seconds: &[("iter time (s):", 1.0)],
        samples: &["CurrSamplesPerSec=", "RunningAvgSamplesPerSec=", "SamplesPerSec=", "samples/sec:"],
        loss: &["loss:"],
        memory: &[("MaxMemAllocated=", GIB)],
        beside: &[("Max_MA", GIB), ("Max_CA", GIB)],
        ..NONE
    },
    LogFormat {
        name: "Accelerate",
        rank: 0,
        marks: &[&["step:"], &["step_time:"]],
        step: &["step:"],
        seconds: &[("step_time:", 1.0)],
        tokens: &["tokens/s:"],
        loss: &["loss:"],
        memory: &[("memory:", GIB)],
        ..NONE
    },
    LogFormat {
        name: "llm-foundry",
        rank: 3,
        marks: &[&["throughput/batches_per_sec:", "throughput/device/tokens_per_sec:"]],
        step: &["batch:", "[batch="],
        device_tokens: &["throughput/device/tokens_per_sec:"],
        loss: &["loss/train/total:"],
        memory: &[("memory/peak_allocated_mem:", 1e9), ("memory/max_allocated_mem:", 1e9)],
        ..NONE
    },
    LogFormat {
        name: "Hugging Face Trainer",
        rank: 4,
        marks: &[&["s/it", "it/s", "'loss':", "\"loss\":"]],
        step: &["| "],
        loss: &["'loss':", "\"loss\":"],
        tokens: &["'train_tokens_per_second':"],
        memory: &[
            ("'max_memory_allocated (GB)':", GIB),
            ("'memory/max_mem_active(gib)':", GIB),
            ("'memory/max_active (GiB)':", GIB),
            ("'memory/max_allocated (GiB)':", GIB),
        ],
        mean: Some("train_steps_per_second"),
        ..NONE
    },
];

/// The number behind the first of these names; a name is no part of a longer one.
fn named(line: &str, names: &[&str]) -> Option<f64> {
    names.iter().find_map(|name| leading(behind(line, name)?))
}

fn behind<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let whole = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '/');
    let at =
        line.match_indices(name).find(|(at, _)| whole(*at) || !name.starts_with(char::is_alphabetic)).map(|(at, _)| at);
    // A time's name may be the end of a longer one.
    let at = at.or_else(|| name.contains("time_per_iteration").then(|| line.find(name)).flatten())?;
    Some(&line[at + name.len()..])
}

impl LogFormat {
    /// Whether a line tells of a step.
    pub fn is_step(&self, line: &str) -> bool {
        let any = |marks: &&[&str]| marks.iter().any(|mark| line.contains(mark));
        let all = !self.marks.is_empty() && self.marks.iter().all(any);
        all && self.mean.is_none_or(|mean| !line.contains(mean) && (bar(line).is_some() || line.contains("loss")))
    }

    /// Whether a line numbers its step.
    pub fn numbers(&self, line: &str) -> bool {
        if self.mean.is_some() { bar(line).is_some() } else { named(line, self.step).is_some() }
    }

    /// What a line says of its step.
    pub fn step(&self, line: &str) -> LoggedStep {
        let bar = self.mean.and_then(|_| bar(line));
        let number = if self.mean.is_some() { bar.map(|(step, _)| step) } else { named(line, self.step) };
        LoggedStep {
            step: number.filter(|step| *step >= 0.0).unwrap_or(0.0) as u64,
            seconds: bar
                .and_then(|(_, seconds)| seconds)
                .or_else(|| self.seconds.iter().find_map(|(name, times)| Some(leading(behind(line, name)?)? * times))),
            tokens: named(line, self.tokens),
            device_tokens: named(line, self.device_tokens),
            samples: named(line, self.samples),
            loss: named(line, self.loss),
            memory: self.memory_of(line, self.memory),
            tflops: named(line, self.tflops),
        }
    }

    fn memory_of(&self, line: &str, names: &[(&str, f64)]) -> Option<f64> {
        names.iter().find_map(|(name, unit)| memory(behind(line, name)?, *unit))
    }

    /// Peak memory on a line that tells of no step.
    pub fn memory_beside(&self, line: &str) -> Option<f64> {
        self.memory_of(line, self.beside)
    }

    /// Seconds of a mean step, by the last line.
    pub fn mean(&self, line: &str) -> Option<f64> {
        let at = line.find(self.mean?)?;
        let rate = leading(&line[at + self.mean?.len()..])?;
        (rate > 0.0).then(|| 1.0 / rate)
    }
}

/// A progress bar: `50/500 [01:23<12:30,  1.67s/it]`: the step, and its seconds.
fn bar(line: &str) -> Option<(f64, Option<f64>)> {
    let (front, back) = line.split_once('[')?;
    let (done, _) = front.trim_end().rsplit_once('/')?;
    let step: f64 = done.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let rate = back.split(']').next()?.rsplit(',').find(|part| part.contains("s/it") || part.contains("it/s"))?;
    let value = leading(rate.trim())?;
    let seconds = if rate.contains("it/s") { (value > 0.0).then(|| 1.0 / value) } else { Some(value) };
    Some((step, seconds))
}
