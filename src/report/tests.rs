//! A report of two ranks: what every rendering says of it.

use super::*;
use meshwright_hardware::classes::Classes;
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::program::{Block, Input, Instr, Phase, RankProgram, Stream, View};
use meshwright_hardware::trace::{Origin, Span};
use meshwright_hardware::units::Nanos;
use meshwright_planner::predict::FIGURES;

fn figures((step_time_s, peak_memory_bytes): (f64, u64)) -> Figures {
    let tokens_per_s = 1000.0 / step_time_s;
    Figures {
        step_time_s,
        tokens_per_s,
        tokens_per_s_per_device: tokens_per_s / 2.0,
        mfu: 1e-3 / step_time_s,
        peak_memory_bytes,
        idle_fraction: 0.1,
        ..Figures::default()
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
        spans: vec![Span { start: Nanos(0), end: Nanos(load) }, Span { start: Nanos(load), end: Nanos(load + run) }],
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
        curves: vec![StepCurve { title: "rate of <learning>", points: vec![(0, 1.0)], level: Some(("usual", 2.0)) }],
        plan: "zero = 1 # </script>".to_owned(),
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
    let said = "of 100 steps, half took less than 50.5 ms (95 % confidence: 40 ms to 61 ms), nine in ten";
    assert!(table.contains(said) && page.contains(said), "{table}");
    assert_eq!(json["steps"]["median_ci95_s"], serde_json::json!([0.04, 0.061]));
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
