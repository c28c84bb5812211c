//! Lists of steps cut into what is one instruction each.
//!
//! In: steps of a tape. Out: runs of calls up to the next collective; what such a run waits for.
//!
//! Invariant: a call that waits for what is on its way begins a run.

use meshwright_hardware::op::Mode;
use meshwright_hardware::program::{Collective, Phase};

use crate::model::{Step, Value};

/// Cuts steps into what is one instruction each: a collective, or calls up to the next collective. A call that waits for
/// what is on its way round a ring begins a new one, so that those before it do not wait too.
pub fn runs<'a, 'b>(steps: &'a [(Phase, &'b Step)]) -> Vec<&'a [(Phase, &'b Step)]> {
    let (mut all, mut start) = (Vec::new(), 0);
    let mut under_way: Vec<Value> = Vec::new();
    for (at, (phase, step)) in steps.iter().enumerate() {
        let waits = waits_for(step, &under_way);
        // What set out before it has come too.
        under_way.drain(..waits);
        let waits = waits > 0;
        let joins = at > start && !waits && steps[start].0 == *phase && step.is_call() && steps[start].1.is_call();
        if at > start && !joins {
            all.push(&steps[start..at]);
            start = at;
        }
        if let Step::Collective(Collective::Rotate, _, value) = step {
            under_way.push(*value);
        }
    }
    if start < steps.len() {
        all.push(&steps[start..]);
    }
    all
}

/// What of a piece's forward pass comes after the instruction that writes the last of what backward needs.
pub fn after_saves(steps: &[Step], saved: impl Fn(usize) -> bool) -> &[Step] {
    let is_saved = |value: Value| matches!(value, Value::Tensor(t) if saved(t));
    let saves = |step: &Step| match step {
        Step::Call(op, uses) => {
            uses.iter().zip(op.signature()).any(|(at, param)| param.mode != Mode::In && is_saved(at.value))
        }
        Step::Collective(_, _, value) => is_saved(*value),
    };
    let phased: Vec<(Phase, &Step)> = steps.iter().map(|step| (Phase::Forward, step)).collect();
    let (mut done, mut last) = (0, 0);
    for run in runs(&phased) {
        done += run.len();
        if run.iter().any(|(_, step)| saves(step)) {
            last = done;
        }
    }
    &steps[last..]
}

/// How many of the values that are on their way, in the order in which they set out, must have come before a step.
pub fn waits_for(step: &Step, under_way: &[Value]) -> usize {
    let Step::Call(_, uses) = step else { return 0 };
    let awaited = |value: &Value| uses.iter().any(|used| used.value == *value);
    under_way.iter().rposition(awaited).map_or(0, |at| at + 1)
}

impl Step {
    fn is_call(&self) -> bool {
        matches!(self, Step::Call(..))
    }
}
