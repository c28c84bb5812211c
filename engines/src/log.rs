//! Logs of engines: what a run measured.
//!
//! In: a log's text. Out: [`Logged`]: a line a step, and the steady step among them.
//!
//! Invariant: warm-up and pauses are left out of what is steady, and counted; a figure that no line has is none.

use std::collections::BTreeMap;

mod formats;
mod number;

use formats::{FORMATS, LogFormat};

/// A step as it was logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoggedStep {
    /// Its number.
    pub step: u64,
    /// Seconds.
    pub seconds: Option<f64>,
    /// Tokens a second, of all devices.
    pub tokens: Option<f64>,
    /// Tokens a second, of one device.
    pub device_tokens: Option<f64>,
    /// Sequences a second, of all devices.
    pub samples: Option<f64>,
    /// Loss.
    pub loss: Option<f64>,
    /// Bytes of the device that had most, by what the engine calls its peak.
    pub memory: Option<f64>,
    /// TFLOP/s of one device, by the engine's own count.
    pub tflops: Option<f64>,
}

/// A log.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    /// Which engine's.
    pub engine: String,
    /// Steps in their order.
    pub steps: Vec<LoggedStep>,
    /// Peak memory, where it stands beside the steps.
    pub memory: Option<f64>,
    /// Seconds of a mean step, where the log ends with that.
    pub mean_seconds: Option<f64>,
}

/// What a step is made of, to turn rates into seconds.
#[derive(Clone, Copy, Debug)]
pub struct StepSize {
    /// Tokens.
    pub tokens: f64,
    /// Sequences.
    pub samples: f64,
    /// Devices.
    pub devices: f64,
}

/// The step once it is steady.
#[derive(Clone, Debug, PartialEq)]
pub struct Steady {
    /// Median.
    pub seconds: f64,
    /// Nine in ten lie between.
    pub range: [f64; 2],
    /// Steps that are counted.
    pub counted: usize,
    /// Steps left out at the beginning.
    pub warmup: usize,
    /// Steps left out as pauses: checkpoints, evaluations.
    pub pauses: usize,
}

/// Reads a log; a table with a header is one too.
///
/// # Errors
/// That no line of it is known.
pub fn read(text: &str) -> Result<Logged, String> {
    let plain = plain(text);
    if let Some(table) = table(&plain) {
        return Ok(table);
    }
    let counted = |format: &&LogFormat| plain.lines().filter(|line| format.is_step(line)).count();
    let best = FORMATS.iter().max_by_key(|format| (counted(format), std::cmp::Reverse(format.rank)));
    let best = best.filter(|format| counted(format) > 0).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        format!(
            "no line of it tells of a step: known are logs of {}, and tables with a header (step, step_time, …)",
            names.join(", ")
        )
    })?;
    let mut logged = Logged { engine: best.name.to_owned(), ..Logged::default() };
    let mut by_step: BTreeMap<u64, Vec<LoggedStep>> = BTreeMap::new();
    let (mut order, mut beside) = (0, Vec::new());
    for line in plain.lines() {
        if best.is_step(line) {
            let mut step = best.step(line);
            order += 1;
            if step.step == 0 && !best.numbers(line) {
                step.step = order;
            }
            by_step.entry(step.step).or_default().push(step);
        } else {
            beside.extend(best.memory_beside(line));
            logged.mean_seconds = best.mean(line).or(logged.mean_seconds);
        }
    }
    logged.steps = by_step.into_values().map(together).collect();
    logged.memory = beside.into_iter().reduce(f64::max);
    Ok(logged)
}

/// A text without colours, and with what a progress bar wrote over as lines of its own.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(c) = signs.next() {
        match c {
            '\u{1b}' => {
                if signs.next_if_eq(&'[').is_some() {
                    while signs.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
                }
            }
            '\r' => out.push('\n'),
            c => out.push(c),
        }
    }
    out
}

/// Ranks' lines of one step: times by their median, memory by its most.
fn together(all: Vec<LoggedStep>) -> LoggedStep {
    let of = |get: fn(&LoggedStep) -> Option<f64>| median(&mut all.iter().filter_map(get).collect::<Vec<_>>());
    LoggedStep {
        step: all[0].step,
        seconds: of(|step| step.seconds),
        tokens: of(|step| step.tokens),
        device_tokens: of(|step| step.device_tokens),
        samples: of(|step| step.samples),
        loss: all.iter().find_map(|step| step.loss),
        memory: all.iter().filter_map(|step| step.memory).reduce(f64::max),
        tflops: of(|step| step.tflops),
    }
}

fn median(all: &mut [f64]) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    match all.len() {
        0 => None,
        n if n % 2 == 1 => Some(all[half]),
        _ => Some((all[half - 1] + all[half]) / 2.0),
    }
}

/// A table with a header: CSV, with commas, semicolons or tabs.
fn table(text: &str) -> Option<Logged> {
    let header = text.lines().find(|line| !line.trim().is_empty())?;
    let comma = [',', '\t', ';'].into_iter().max_by_key(|comma| header.matches(*comma).count())?;
    let cells =
        |line: &str| line.split(comma).map(|cell| cell.trim().trim_matches('"').to_lowercase()).collect::<Vec<_>>();
    let names = cells(header);
    let column = |wanted: &[&str]| names.iter().position(|name| wanted.contains(&name.as_str()));
    let seconds = column(&[
        "step_time",
        "step_time_s",
        "seconds",
        "time",
        "elapsed",
        "iteration_time",
        "time_per_step",
        "step_seconds",
    ]);
    let millis =
        column(&["step_time_ms", "ms", "elapsed_ms", "iteration_time_ms", "elapsed_time_per_iteration_ms", "time_ms"]);
    let tokens = column(&["tokens/s", "tokens_per_s", "tokens_per_sec", "tokens_per_second", "throughput"]);
    let device = column(&["tokens/s/gpu", "tok/s/gpu", "tokens_per_sec_per_gpu", "tps", "tokens_per_s_per_device"]);
    let step = column(&["step", "iteration", "iter", "global_step"]);
    if seconds.is_none() && millis.is_none() && tokens.is_none() && device.is_none() {
        return None;
    }
    let loss = column(&["loss", "train_loss", "lm_loss", "lm loss"]);
    let giga = column(&["memory_gib", "mem_gib", "memory (gib)", "peak_memory_gib"]);
    let gigabytes = column(&["memory_gb", "mem_gb", "mem alloc (gb)", "peak_memory_gb"]);
    let bytes = column(&["memory_bytes", "peak_memory_bytes"]);
    let mut logged = Logged { engine: "a table".to_owned(), ..Logged::default() };
    for (order, line) in text.lines().filter(|line| !line.trim().is_empty()).skip(1).enumerate() {
        let row = cells(line);
        let at = |column: Option<usize>| number::leading(row.get(column?)?);
        logged.steps.push(LoggedStep {
            step: at(step).map_or(order as u64 + 1, |step| step as u64),
            seconds: at(seconds).or(at(millis).map(|ms| ms / 1e3)),
            tokens: at(tokens),
            device_tokens: at(device),
            samples: None,
            loss: at(loss),
            memory: at(bytes).or(at(giga).map(|x| x * 1024f64.powi(3))).or(at(gigabytes).map(|x| x * 1e9)),
            tflops: None,
        });
    }
    (!logged.steps.is_empty()).then_some(logged)
}

impl Logged {
    /// Seconds of a step, from whatever its line says.
    fn seconds(step: &LoggedStep, size: StepSize) -> Option<f64> {
        let rate = |tokens: f64, rate: f64| (rate > 0.0).then(|| tokens / rate);
        let seconds = step.seconds;
        let seconds = seconds.or_else(|| rate(size.tokens, step.tokens?));
        let seconds = seconds.or_else(|| rate(size.tokens / size.devices, step.device_tokens?));
        seconds.or_else(|| rate(size.samples, step.samples?)).filter(|seconds| seconds.is_finite() && *seconds > 0.0)
    }

    /// The steady step; nothing where no line tells how long one took.
    pub fn steady(&self, size: StepSize) -> Option<Steady> {
        let all: Vec<f64> = self.steps.iter().filter_map(|step| Self::seconds(step, size)).collect();
        let Some(mut usual) = median(&mut all.clone()) else {
            let seconds = self.mean_seconds?;
            return Some(Steady {
                seconds,
                range: [seconds; 2],
                counted: self.steps.len().max(1),
                warmup: 0,
                pauses: 0,
            });
        };
        // Warm-up: the first, and what follows it while it is far from usual.
        let half = all.len() / 2;
        let far = |seconds: &&f64| **seconds > 1.25 * usual || **seconds < 0.75 * usual;
        let slow = all[..half].iter().take_while(far).count();
        let warmup = slow.max(usize::from(all.len() > 4));
        let kept = &all[warmup..];
        usual = median(&mut kept.to_vec())?;
        let spread = median(&mut kept.iter().map(|seconds| (seconds - usual).abs()).collect::<Vec<_>>())?;
        // Beyond five deviations, by the median's, and by more than a tenth.
        let limit = (5.0 * 1.4826 * spread).max(0.1 * usual);
        let mut steady: Vec<f64> = kept.iter().copied().filter(|seconds| (seconds - usual).abs() <= limit).collect();
        let pauses = kept.len() - steady.len();
        let seconds = median(&mut steady)?;
        let at = |share: f64| steady[((steady.len() - 1) as f64 * share).round() as usize];
        Some(Steady { seconds, range: [at(0.05), at(0.95)], counted: steady.len(), warmup, pauses })
    }

    /// Peak memory of the device that had most, in bytes.
    pub fn peak_memory(&self) -> Option<f64> {
        self.steps.iter().filter_map(|step| step.memory).chain(self.memory).reduce(f64::max)
    }

    /// The first and the last loss.
    pub fn losses(&self) -> Option<[f64; 2]> {
        let mut all = self.steps.iter().filter_map(|step| step.loss);
        let first = all.next()?;
        Some([first, all.next_back().unwrap_or(first)])
    }

    /// Median TFLOP/s of a device, by the engine's own count.
    pub fn tflops(&self) -> Option<f64> {
        median(&mut self.steps.iter().skip(1).filter_map(|step| step.tflops).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: StepSize = StepSize { tokens: 4096.0 * 128.0, samples: 128.0, devices: 64.0 };

    fn measured(text: &str) -> (Logged, Steady) {
        let logged = read(text).unwrap();
        let steady = logged.steady(SIZE).unwrap();
        (logged, steady)
    }

    #[test]
    fn megatrons_warm_up_and_pauses_are_left_out() {
        let line = |step: usize, ms: f64| {
            format!(
                " [2025-03-01 10:00:{step:02}] iteration {step:8}/     100 | consumed samples: {:12} | elapsed time per iteration (ms): {ms:.1} | throughput per GPU (TFLOP/s/GPU): 401.2 | learning rate: 1.0E-05 | global batch size:   128 | lm loss: {:.6E} | loss scale: 1.0 | grad norm: 1.5 | number of skipped iterations:   0 |\n",
                step * 128,
                11.0 - step as f64 / 10.0
            )
        };
        let mut text = line(1, 31_000.0) + &line(2, 9_000.0);
        for step in 3..20 {
            text += &line(step, if step == 10 { 60_000.0 } else { 5_000.0 + step as f64 });
        }
        text += "[Rank 0] (after 10 iterations) memory (MB) | allocated: 20000.0 | max allocated: 61000.5 | reserved: 66000.0 | max reserved: 66000.0\n";
        let (logged, steady) = measured(&text);
        assert_eq!((logged.engine.as_str(), steady.warmup, steady.pauses), ("Megatron-LM", 2, 1));
        assert!((steady.seconds - 5.011).abs() < 0.005, "{steady:?}");
        assert!((logged.peak_memory().unwrap() / (61000.5 * 1048576.0) - 1.0).abs() < 1e-9);
        assert_eq!(logged.losses(), Some([10.9, 9.1]));
    }

    #[test]
    fn torchtitans_colours_are_stripped_and_rates_become_seconds() {
        let mut text = String::new();
        for step in 1..8 {
            text += &format!(
                "[rank0]:[titan] 2025-01-01 00:00:00,000 - root - INFO - \u{1b}[31mstep: {step:2}\u{1b}[0m  \u{1b}[32mloss:  7.1309\u{1b}[0m  \u{1b}[33mmemory: 34.33GiB(36.13%)\u{1b}[0m  \u{1b}[34mtps: 6,789\u{1b}[0m  \u{1b}[36mtflops: 312.20\u{1b}[0m  \u{1b}[35mmfu: 31.58%\u{1b}[0m\n"
            );
        }
        let (logged, steady) = measured(&text);
        assert_eq!(logged.engine, "torchtitan");
        assert!((steady.seconds - SIZE.tokens / SIZE.devices / 6789.0).abs() < 1e-9);
        assert!((logged.peak_memory().unwrap() / 1024f64.powi(3) - 34.33).abs() < 1e-9);
    }

    #[test]
    fn every_engines_line_is_known() {
        let cases = [
            (
                "completed step: 5, seconds: 2.345, TFLOP/s/device: 123.4, Tokens/s/device: 3456.7, total_weights: 65536, loss: 9.1",
                "MaxText",
                2.345,
            ),
            (
                "[2024-01-01 00:00:00,000] [INFO] [timer.py:199:stop] epoch=0/micro_step=10/global_step=10, RunningAvgSamplesPerSec=64.0, CurrSamplesPerSec=64.0, MemAllocated=1.2GB, MaxMemAllocated=33.4GB",
                "DeepSpeed",
                2.0,
            ),
            ("steps: 10 loss: 2.3001 iter time (s): 0.903 samples/sec: 141.206", "DeepSpeed", 0.903),
            (
                "12/01 10:00:00 [INFO|DP=0|PP=0|TP=0]: iteration: 10 / 100 | consumed_tokens: 10.5M | elapsed_time_per_iteration_ms: 1.23K | tokens_per_sec: 426K | tokens_per_sec_per_gpu: 6.66K | global_batch_size: 128 | lm_loss: 8.1 | lr: 0.0003 | cuda_max_memory_reserved: 34.5G",
                "nanotron",
                1.23,
            ),
            (" 10%|█         | 50/500 [01:23<12:30,  1.67s/it]", "Hugging Face Trainer", 1.67),
            (
                "Training epoch 0, iteration 3/999 | lr: 4.5e-07 | global_batch_size: 512 | global_step: 3 | reduced_train_loss: 11.03 | train_step_timing in s: 57.2 | consumed_samples: 2048",
                "NeMo",
                57.2,
            ),
            ("step: 1 loss: 2.3000 step_time: 0.5000 s tokens/s: 1234 memory: 1.00 GiB", "Accelerate", 0.5),
            (
                " samples/sec: 30.467 | iteration 10/ 320000 | elapsed time per iteration (ms): 33610.6 | learning rate: 1E-05 | approx flops per GPU: 45.6TFLOPS | lm_loss: 1.1E+01 |",
                "Megatron-LM",
                33.6106,
            ),
        ];
        for (line, engine, seconds) in cases {
            let (logged, steady) = measured(line);
            assert_eq!(logged.engine, engine, "{line}");
            assert!((steady.seconds / seconds - 1.0).abs() < 1e-9, "{line}: {steady:?}");
        }
        let trainer = "{'loss': 2.31, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.1}\n{'train_runtime': 123.4, 'train_samples_per_second': 5.6, 'train_steps_per_second': 0.5, 'train_loss': 1.2, 'epoch': 3.0}";
        let (logged, steady) = measured(trainer);
        assert_eq!((steady.seconds, logged.losses()), (2.0, Some([2.31, 2.31])));
        let (logged, steady) =
            measured("step,step_time_ms,loss\n1,5000,9.0\n2,1000,8.0\n3,1010,7.0\n4,990,6.0\n5,1000,5.0\n");
        assert_eq!((steady.seconds, steady.warmup, logged.losses()), (1.0, 1, Some([9.0, 5.0])));
        assert!(read("nothing\nof a step\n").unwrap_err().contains("torchtitan"));
    }
}
