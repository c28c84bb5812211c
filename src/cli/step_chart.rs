//! A step's timeline as SVG: a row a stage, its compute queue by what runs on it.
//!
//! In: a trace and its program. Out: SVG without a script.
//!
//! Invariant: a row has as many cells as the chart is wide, and each cell the colour of what runs in most of it, so that the drawing is
//! small however long the step.

use meshwright_hardware::program::{Phase, Program, Stream};
use meshwright_hardware::trace::{Lane, Trace};

/// Cells of a row.
const CELLS: usize = 720;
/// Rows at most: of more stages the first and the last.
const ROWS: usize = 16;
const LEFT: usize = 64;
const ROW: usize = 18;

/// What a cell can be of: the phases, communication on the compute queue, and nothing.
pub const KINDS: [&str; 7] =
    ["forward", "recompute", "backward", "weights' gradients", "optimizer", "communication", ""];
const IDLE: usize = 6;

/// The timeline.
pub fn timeline(trace: &Trace, program: &Program) -> String {
    let step = trace.step_time().0.max(1);
    let lanes: Vec<&Lane> = match trace.lanes.len() {
        count if count > ROWS => {
            let half = ROWS / 2;
            trace.lanes[..half].iter().chain(&trace.lanes[count - half..]).collect()
        }
        _ => trace.lanes.iter().collect(),
    };
    let height = ROW * lanes.len() + 4;
    let width = LEFT + CELLS;
    let mut svg = format!(
        "<svg class=\"timeline\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"A step's timeline\">"
    );
    for (row, lane) in lanes.iter().enumerate() {
        let (_, stage) = program.class_and_stage(lane.role);
        let y = row * ROW;
        svg += &format!("<text x=\"0\" y=\"{}\">stage {stage}</text>", y + ROW - 5);
        let cells = cells(lane, program, step);
        let mut from = 0;
        for (kind, run) in cells.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())) {
            if kind != IDLE {
                let x = LEFT + from;
                svg += &format!("<rect class=\"k{kind}\" x=\"{x}\" y=\"{y}\" width=\"{run}\" height=\"{}\"/>", ROW - 3);
            }
            from += run;
        }
    }
    svg + "</svg>"
}

/// Which kind takes most of each cell of a lane's compute queue.
fn cells(lane: &Lane, program: &Program, step: u64) -> Vec<usize> {
    let mut shares = vec![[0.0_f64; KINDS.len()]; CELLS];
    let scale = CELLS as f64 / step as f64;
    for (span, instr) in lane.spans.iter().zip(&program.roles[lane.role].instrs) {
        if instr.stream != Stream::Compute || span.duration().0 == 0 {
            continue;
        }
        let kind = match instr.phase() {
            Some(Phase::Forward) => 0,
            Some(Phase::Recompute) => 1,
            Some(Phase::Backward) => 2,
            Some(Phase::Weights) => 3,
            Some(Phase::Optimizer) => 4,
            None => 5,
        };
        let (from, to) = (span.start.0 as f64 * scale, span.end.0 as f64 * scale);
        let cells = from as usize..(to.ceil() as usize).min(CELLS);
        for (cell, shares) in shares.iter_mut().enumerate().take(cells.end).skip(cells.start) {
            let inside = to.min(cell as f64 + 1.0) - from.max(cell as f64);
            shares[kind] += inside.max(0.0);
        }
    }
    let most = |shares: [f64; KINDS.len()]| {
        let idle = 1.0 - shares.iter().sum::<f64>();
        let best = (0..IDLE).max_by(|&a, &b| shares[a].total_cmp(&shares[b])).unwrap_or(IDLE);
        if shares[best] > 0.0 && shares[best] >= idle { best } else { IDLE }
    };
    shares.into_iter().map(most).collect()
}
