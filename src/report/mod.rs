//! Predicted, replayed and measured, side by side: per instruction, for the step, for memory and throughput.
//!
//! In: a program and its three traces. Out: [`Report`], which renders as a table, CSV, JSON and a page.
//!
//! Invariant: an instruction of a role (a stage, in one class of replicas) has one row; lanes are averaged over the role's
//! ranks, and every figure
//! in any rendering comes from [`Report`].

mod html;
mod spread;
mod table;

use std::io;

use meshwright_hardware::program::{Kind, Program};
use meshwright_hardware::trace::{Lane, Trace};
use meshwright_planner::predict::{FIGURES, Figure, Figures};
use serde_json::{Value, json};

pub use spread::Spread;

/// What a report is made from.
pub struct Inputs<'a> {
    /// What was run.
    pub program: &'a Program,
    /// One lane a stage.
    pub predicted: &'a Trace,
    /// One lane a rank.
    pub replayed: &'a Trace,
    /// One lane a rank.
    pub measured: &'a Trace,
    /// Predicted, replayed and measured.
    pub figures: [Figures; 3],
    /// Step and loss, in nats a token.
    pub losses: &'a [(u64, f64)],
    /// Length of every step, in seconds.
    pub step_times_s: Vec<f64>,
    /// What guessing by frequency alone would lose.
    pub unigram_entropy: Option<f64>,
    /// Headline.
    pub title: &'a str,
    /// What was run on what: label and text.
    pub subtitle: Vec<(String, String)>,
}

/// One instruction of a stage; times in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Stage.
    pub role: usize,
    /// Its place in the stage's list.
    pub index: usize,
    /// What it does.
    pub name: String,
    /// Phase of the step, or `communication`.
    pub phase: &'static str,
    /// Microbatch, if it serves one.
    pub microbatch: Option<u32>,
    /// Layer, if it serves one.
    pub layer: Option<u32>,
    /// When it was predicted to start.
    pub predicted_start: f64,
    /// Predicted, replayed and measured length, waiting for others included.
    pub nanos: [f64; 3],
    /// Whether it may wait for other ranks.
    pub waits: bool,
}

/// Instructions of one name and phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What they do.
    pub name: String,
    /// How many a step, over all stages.
    pub count: usize,
    /// Predicted, replayed and measured nanoseconds a step, over all stages.
    pub nanos: [f64; 3],
    /// Whether they may wait for other ranks.
    pub waits: bool,
}

/// A comparison.
#[derive(Clone, Debug)]
pub struct Report {
    /// Headline.
    pub title: String,
    /// What was run on what.
    pub subtitle: Vec<(String, String)>,
    /// What the profile foretold, what the simulator makes of measured durations, what happened.
    pub figures: [Figures; 3],
    /// How the run's steps varied.
    pub spread: Option<Spread>,
    /// One an instruction.
    pub rows: Vec<Row>,
    /// By name, longest measured first.
    pub groups: Vec<Group>,
    /// Step and loss.
    pub losses: Vec<(u64, f64)>,
    /// What guessing by frequency alone would lose.
    pub unigram_entropy: Option<f64>,
    /// Predicted, replayed, measured.
    traces: [Trace; 3],
}

/// How far `predicted` is off, in per cent of `measured`.
pub fn error_pct(predicted: f64, measured: f64) -> f64 {
    if measured == 0.0 { 0.0 } else { (predicted - measured) / measured * 100.0 }
}

impl Report {
    /// Joins the traces.
    pub fn of(inputs: &Inputs) -> Report {
        let rows: Vec<Row> = (0..inputs.program.roles.len()).flat_map(|role| rows(inputs, role)).collect();
        Report {
            title: inputs.title.to_owned(),
            subtitle: inputs.subtitle.clone(),
            figures: inputs.figures.clone(),
            spread: Spread::of(inputs.step_times_s.clone()),
            groups: groups(&rows),
            rows,
            losses: inputs.losses.to_vec(),
            unigram_entropy: inputs.unigram_entropy,
            traces: [inputs.predicted.clone(), inputs.replayed.clone(), inputs.measured.clone()],
        }
    }

    /// How far the predicted step time is off, in per cent of the measured one.
    pub fn step_error_pct(&self) -> f64 {
        let [predicted, _, measured] = &self.figures;
        error_pct(predicted.step_time_s, measured.step_time_s)
    }

    /// A figure as predicted, replayed and measured; and the prediction's error in per cent, where it is told.
    fn compared(&self, figure: &Figure) -> ([f64; 3], Option<f64>) {
        let values = self.figures.each_ref().map(figure.get);
        (values, figure.relative.then(|| error_pct(values[0], values[2])))
    }

    /// The comparison for scripts.
    pub fn json(&self) -> Value {
        let figures = |of: &Figures| -> Value {
            FIGURES.iter().map(|figure| (figure.key.to_owned(), figure.unit.json((figure.get)(of)))).collect()
        };
        let [predicted, replayed, measured] = &self.figures;
        let errors = |of: &Figures| -> Value {
            let relative = FIGURES.iter().filter(|figure| figure.relative);
            relative.map(|f| (f.key.to_owned(), json!(error_pct((f.get)(of), (f.get)(measured))))).collect()
        };
        let groups = self.groups.iter().map(|g| {
            let [predicted, replayed, measured] = g.nanos.map(|nanos| nanos / 1e9);
            json!({ "name": g.name, "count": g.count, "predicted_s": predicted, "replayed_s": replayed,
                "measured_s": measured, "error_pct": error_pct(predicted, measured) })
        });
        json!({
            "title": self.title,
            "predicted": figures(predicted),
            "replayed": figures(replayed),
            "measured": figures(measured),
            "error_pct": errors(predicted),
            "replay_error_pct": errors(replayed),
            "steps": self.spread.map(|spread| spread.json()),
            "instructions": groups.collect::<Vec<_>>(),
            "final_loss": self.losses.last().map(|(_, loss)| loss),
            "unigram_entropy": self.unigram_entropy,
        })
    }

    /// One line a figure; that of step time with the 95 % confidence interval of the run's median.
    ///
    /// # Errors
    /// The writer's.
    pub fn figures_csv(&self, to: impl io::Write) -> csv::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record(["figure", "predicted", "replayed", "measured", "error_pct", "ci95_low", "ci95_high"])?;
        for figure in FIGURES {
            let (values, error) = self.compared(figure);
            let [predicted, replayed, measured] = values.map(|value| figure.unit.json(value).to_string());
            let error = error.map_or_else(String::new, |error| format!("{error:.2}"));
            let interval = self.spread.and_then(|spread| spread.confidence_s).filter(|_| figure.key == "step_time_s");
            let [low, high] = interval.map_or_else(Default::default, |ends| ends.map(|end| end.to_string()));
            writer.write_record([figure.key, &predicted, &replayed, &measured, &error, &low, &high])?;
        }
        writer.flush()?;
        Ok(())
    }

    /// One line an instruction.
    ///
    /// # Errors
    /// The writer's.
    pub fn csv(&self, to: impl io::Write) -> csv::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record([
            "stage",
            "instruction",
            "name",
            "phase",
            "microbatch",
            "layer",
            "predicted_start_us",
            "predicted_us",
            "replayed_us",
            "measured_us",
            "error_pct",
        ])?;
        let or_none = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        for row in &self.rows {
            let micros = |nanos: f64| format!("{:.3}", nanos / 1e3);
            let [predicted, replayed, measured] = row.nanos;
            writer.write_record([
                row.role.to_string(),
                row.index.to_string(),
                row.name.clone(),
                row.phase.to_owned(),
                or_none(row.microbatch),
                or_none(row.layer),
                micros(row.predicted_start),
                micros(predicted),
                micros(replayed),
                micros(measured),
                format!("{:.2}", error_pct(predicted, measured)),
            ])?;
        }
        writer.flush()?;
        Ok(())
    }
}

/// The rows of a stage.
fn rows(inputs: &Inputs, role: usize) -> Vec<Row> {
    let of = |trace: &Trace| -> Vec<Lane> { trace.lanes.iter().filter(|lane| lane.role == role).cloned().collect() };
    let lanes = [inputs.predicted, inputs.replayed, inputs.measured].map(of);
    let mean = |lanes: &[Lane], index: usize| {
        lanes.iter().map(|lane| lane.spans[index].duration().0 as f64).sum::<f64>() / lanes.len().max(1) as f64
    };
    let instrs = inputs.program.roles[role].instrs.iter().enumerate();
    let kept = instrs.filter(|(_, instr)| !matches!(instr.kind, Kind::Free { .. }));
    kept.map(|(index, instr)| Row {
        role,
        index,
        name: instr.name(inputs.program).to_owned(),
        phase: instr.phase().map_or("communication", |phase| phase.name()),
        microbatch: instr.microbatch,
        layer: instr.layer,
        predicted_start: lanes[0].first().map_or(0.0, |lane| lane.spans[index].start.0 as f64),
        nanos: [mean(&lanes[0], index), mean(&lanes[1], index), mean(&lanes[2], index)],
        waits: matches!(instr.kind, Kind::Recv { .. } | Kind::Collective { .. }),
    })
    .collect()
}

fn groups(rows: &[Row]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let group = match groups.iter_mut().find(|group| group.name == row.name) {
            Some(group) => group,
            None => {
                groups.push(Group { name: row.name.clone(), count: 0, nanos: [0.0; 3], waits: row.waits });
                groups.last_mut().expect("just added")
            }
        };
        group.count += 1;
        (0..3).for_each(|i| group.nanos[i] += row.nanos[i]);
    }
    groups.sort_by(|a, b| b.nanos[2].total_cmp(&a.nanos[2]));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwright_hardware::classes::Classes;
    use meshwright_hardware::mesh::Mesh;
    use meshwright_hardware::program::{Block, Input, Instr, Phase, RankProgram, Stream, View};
    use meshwright_hardware::trace::{Origin, Span};
    use meshwright_hardware::units::Nanos;

    fn figures((step_time_s, peak_memory_bytes): (f64, u64)) -> Figures {
        let tokens_per_s = 1000.0 / step_time_s;
        Figures {
            step_time_s,
            tokens_per_s,
            tokens_per_s_per_device: tokens_per_s / 2.0,
            mfu: 1e-3 / step_time_s,
            peak_memory_bytes,
            fits: true,
            headroom_bytes: 0,
            bubble_fraction: 0.1,
            pools: Vec::new(),
        }
    }

    fn report() -> Report {
        let view = View { buffer: 0, offset: 0, elems: 4, shard: None };
        let instr = |kind| Instr { kind, stream: Stream::Compute, waits: Vec::new(), microbatch: Some(0), layer: None };
        let load = instr(Kind::Load { input: Input::Tokens, into: view });
        let run = instr(Kind::Run { block: 0, phase: Phase::Forward, args: vec![view] });
        let role = RankProgram { buffers: Vec::new(), instrs: vec![load, run] };
        let block = Block { name: "<b>&</script>".to_owned(), params: Vec::new(), calls: Vec::new() };
        let mesh = Mesh { dp: 2, pp: 1, tp: 1, ..Mesh::ONE };
        let program = Program { mesh, classes: Classes::ONE, blocks: vec![block], roles: vec![role] };
        let lane = |rank, load: u64, run: u64| Lane {
            rank,
            role: 0,
            spans: vec![
                Span { start: Nanos(0), end: Nanos(load) },
                Span { start: Nanos(load), end: Nanos(load + run) },
            ],
        };
        let trace = |origin, lanes| Trace { origin, lanes };
        Report::of(&Inputs {
            program: &program,
            predicted: &trace(Origin::Predicted, vec![lane(0, 100_000, 900_000)]),
            replayed: &trace(Origin::Replayed, vec![lane(0, 100_000, 1_000_000), lane(1, 100_000, 1_200_000)]),
            measured: &trace(Origin::Measured, vec![lane(0, 100_000, 1_000_000), lane(1, 100_000, 1_150_000)]),
            figures: [(1e-3, 1 << 20), (1.3e-3, 1 << 20), (1.25e-3, (1 << 20) + 4096)].map(figures),
            losses: &[(0, 5.5), (1, 4.0)],
            step_times_s: (1..=100).map(|i| f64::from(i) * 1e-3).collect(),
            unigram_entropy: Some(3.0),
            title: "t <i>",
            subtitle: vec![("plan".to_owned(), "dp 2".to_owned())],
        })
    }

    #[test]
    fn figures_and_errors_are_those_of_the_traces() {
        let json = report().json();
        assert_eq!(json["predicted"]["step_time_s"], 1e-3);
        assert_eq!(json["measured"]["step_time_s"], 1.25e-3);
        assert_eq!(json["error_pct"]["step_time_s"], -20.0);
        assert_eq!(json["error_pct"]["tokens_per_s"], 25.0);
        assert!((json["replay_error_pct"]["step_time_s"].as_f64().unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(json["measured"]["peak_memory_bytes"], (1 << 20) + 4096);
    }

    #[test]
    fn every_figure_is_in_every_rendering() {
        let (report, mut csv) = (report(), Vec::new());
        report.figures_csv(&mut csv).unwrap();
        let (table, page, json) = (report.table(), report.html(), report.json());
        let csv = String::from_utf8(csv).unwrap();
        for figure in FIGURES {
            assert!(table.contains(&format!("\n{} ", figure.title)), "{} in {table}", figure.title);
            assert!(page.contains(&format!("<th>{}</th>", figure.title)), "{} in the page", figure.title);
            assert!(csv.contains(&format!("\n{},", figure.key)), "{} in {csv}", figure.key);
            for of in ["predicted", "replayed", "measured"] {
                assert!(json[of][figure.key].is_number(), "{of} {} in {json}", figure.key);
            }
        }
        assert!(csv.contains("\npeak_memory_bytes,1048576,1048576,1052672,-0.39,,\n"), "{csv}");
    }

    #[test]
    fn the_spread_of_steps_is_told() {
        let spread = report().spread.unwrap();
        assert_eq!((spread.steps, spread.median_s), (100, 0.0505));
        assert!((spread.p5_s - 0.005).abs() < 1e-3 && (spread.p95_s - 0.095).abs() < 1e-3, "{spread:?}");
        let (table, page, json, mut csv) = (report().table(), report().html(), report().json(), Vec::new());
        let said = "of 100 steps, half took less than 50.5 ms (95 % confidence: 40.0 ms to 61.0 ms), nine in ten";
        assert!(table.contains(said) && page.contains(said), "{table}");
        assert_eq!(json["steps"]["median_ci95_s"], json!([0.04, 0.061]));
        report().figures_csv(&mut csv).unwrap();
        assert!(String::from_utf8(csv).unwrap().lines().nth(1).unwrap().ends_with(",0.04,0.061"));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn ranks_of_a_stage_are_averaged_and_names_are_grouped() {
        let report = report();
        assert_eq!(report.rows[1].nanos, [900_000.0, 1_100_000.0, 1_075_000.0]);
        assert_eq!(report.groups[0].count, 1);
        assert!(report.groups[0].nanos[2] > report.groups[1].nanos[2]);
    }

    #[test]
    fn the_table_has_the_three_columns_and_the_error() {
        let table = report().table();
        assert!(table.contains("predicted") && table.contains("replayed") && table.contains("measured"));
        assert!(table.contains("-20.0 %"), "{table}");
    }

    #[test]
    fn the_csv_has_a_line_an_instruction() {
        let mut text = Vec::new();
        report().csv(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).unwrap().contains(",900.000,1100.000,1075.000,-16.28"), "{text}");
    }

    #[test]
    fn the_page_stands_alone_and_escapes_names() {
        let page = report().html();
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(page.contains("t &lt;i&gt;") && !page.contains("t <i>"));
        assert_eq!(page.matches("</script>").count(), 1);
    }
}
