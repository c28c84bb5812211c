//! Backward in two passes: gradients of inputs, which other stages wait for, and gradients of weights, which nobody does
//! (Qi et al. 2023).
//!
//! In: a [`Backward`]. Out: [`SplitBackward`]: both passes, and the copies that the first makes for the second.
//!
//! Invariant: both passes one after the other leave the same gradients as the whole.

use std::collections::HashMap;

use meshwright_hardware::op::{Layout, Mode, Op};

use super::backward::Backward;
use super::tape::{Step, Use, Value};

/// A backward pass cut in two.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SplitBackward {
    /// Gradients of inputs.
    pub inputs: Vec<Step>,
    /// Gradients of weights.
    pub weights: Vec<Step>,
    /// Elements of each [`Value::Held`].
    pub held: Vec<usize>,
}

impl Backward {
    /// Cuts it in two.
    pub fn split(&self) -> SplitBackward {
        let mut split = SplitBackward::default();
        let mut copies: HashMap<Use, Value> = HashMap::new();
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Call(op, args) if is_of_weights(op) => {
                    let later = &self.steps[at + 1..];
                    let sizes = op.signature();
                    let keep = |(&arg, size): (&Use, usize)| {
                        if !changes(later, arg.value) {
                            return arg;
                        }
                        let copy = *copies.entry(arg).or_insert_with(|| {
                            split.held.push(size);
                            let copy = Value::Held(split.held.len() - 1);
                            split.inputs.push(Step::Call(Op::Copy { n: size }, vec![arg, Use::whole(copy)]));
                            copy
                        });
                        Use::whole(copy)
                    };
                    let args = args.iter().zip(sizes.iter().map(|size| size.elems)).map(keep).collect();
                    split.weights.push(Step::Call(*op, args));
                }
                step => {
                    copies.retain(|copied, _| !changes(std::slice::from_ref(step), copied.value));
                    split.inputs.push(step.clone());
                }
            }
        }
        split
    }
}

/// Whether an op makes gradients of weights and nothing else.
fn is_of_weights(op: &Op) -> bool {
    matches!(
        op,
        Op::Matmul { layout: Layout::Tn, .. } | Op::ExpertMatmul { layout: Layout::Tn, .. } | Op::BiasGrad { .. }
    )
}

/// Whether any step of the pass of inputs writes a gradient.
fn changes(steps: &[Step], value: Value) -> bool {
    let written = |step: &Step| match step {
        Step::Call(op, _) if is_of_weights(op) => false,
        Step::Call(op, args) => args.iter().zip(op.signature()).any(|(a, p)| p.mode != Mode::In && a.value == value),
        Step::Collective(_, _, touched) => *touched == value,
    };
    // The next microbatch's gradient flows in the same place.
    matches!(value, Value::Flow | Value::SecondFlow) || (matches!(value, Value::Grad(_)) && steps.iter().any(written))
}
