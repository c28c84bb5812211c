//! What the passes over a plan's pieces do, before anything of it is priced.
//!
//! In: a plan. Out: [`ShapeOps`]: ops with the formats of their arguments, and what travels, of each piece and pass. They depend
//! on the *shape* alone: microbatch, sequence, TP, CP, EP.
//!
//! Invariant: the ops and bytes of the lowered program; the same for every cluster whose stack makes the same of the job.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Elem};

use crate::job::LayerKind;
use crate::lower::{Blocks, Formats, Frames, Pieces, Tapes, ValueFormats, after_saves, kept, waits_for};
use crate::model::{Backward, SplitBackward, Step, Tape, Value};
use crate::plan::{Plan, Recompute};

/// A step of a pass.
#[derive(Clone, Debug)]
pub(super) enum PassOp {
    /// A kernel.
    Call {
        /// Which.
        op: Op,
        /// Formats of its arguments.
        elems: Vec<Elem>,
        /// How many of what goes round a ring it waits for, beside those that kernels before it wait for.
        waits: usize,
    },
    /// What travels: bytes.
    Collective(Collective, Axis, u64),
}

/// A pass over a piece.
#[derive(Clone, Debug, Default)]
pub(super) struct PassOps {
    /// In order.
    pub list: Vec<PassOp>,
    /// Whether something goes round a ring beside kernels.
    pub ringed: bool,
}

/// A piece's passes.
#[derive(Clone, Debug, Default)]
pub(super) struct PieceOps {
    pub forward: PassOps,
    /// Of forward, what comes after the last that is kept.
    pub tail: PassOps,
    /// By recompute mode.
    pub backward: Vec<PassOps>,
    pub weights: PassOps,
}

/// All pieces of a shape.
#[derive(Clone, Debug)]
pub struct ShapeOps {
    /// What sizes follow from.
    pub(super) frames: Frames,
    pub(super) embed: PieceOps,
    pub(super) layers: Vec<(LayerKind, PieceOps)>,
    pub(super) head: PieceOps,
}

/// The values of a piece: how large they are, and what of.
struct PieceValues<'a> {
    tape: &'a Tape,
    back: &'a Backward,
    split: Option<SplitBackward>,
    formats: ValueFormats,
}

impl<'a> PieceValues<'a> {
    fn of(tape: &'a Tape, back: &'a Backward, splits: bool, model: Formats) -> Self {
        let formats = ValueFormats::of(tape, &back.steps, model);
        PieceValues { tape, back, split: splits.then(|| back.split()), formats }
    }

    /// Backward, of inputs alone where it is split, after what is made again.
    fn backward(&self, again: &[Step]) -> PassOps {
        let steps = self.split.as_ref().map_or(&self.back.steps, |split| &split.inputs);
        PassOps::of(&again.iter().chain(steps).collect::<Vec<_>>(), self)
    }

    fn bytes(&self, value: Value) -> u64 {
        let elems = match value {
            Value::Grad(g) => self.back.made[g].1,
            Value::Held(h) => self.split.as_ref().map_or(0, |split| split.held[h]),
            value => self.tape.elems(value),
        };
        elems as u64 * self.formats.elem(value).bytes()
    }
}

impl PassOps {
    /// Backward over a tape after each of these has been made again.
    pub(super) fn backward(
        tape: &Tape,
        back: &Backward,
        splits: bool,
        model: Formats,
        again: &[Vec<Step>],
    ) -> Vec<PassOps> {
        let values = PieceValues::of(tape, back, splits, model);
        again.iter().map(|again| values.backward(again)).collect()
    }

    /// Of steps over a piece's values.
    fn of(steps: &[&Step], values: &PieceValues) -> PassOps {
        let ringed = steps.iter().any(|step| matches!(step, Step::Collective(Collective::Rotate, ..)));
        let (mut under_way, mut awaited): (Vec<Value>, usize) = (Vec::new(), 0);
        let list = steps.iter().map(|step| match step {
            Step::Call(op, uses) => {
                let waits = if ringed { waits_for(step, &under_way[awaited..]) } else { 0 };
                awaited += waits;
                let elems = uses.iter().map(|used| values.formats.elem(used.value)).collect();
                PassOp::Call { op: *op, elems, waits }
            }
            Step::Collective(op, axis, value) => {
                if *op == Collective::Rotate {
                    under_way.push(*value);
                }
                PassOp::Collective(*op, *axis, values.bytes(*value))
            }
        });
        PassOps { list: list.collect(), ringed }
    }
}

impl PieceOps {
    /// One piece in each of its modes: nothing made again, and what else is given.
    fn of(values: &PieceValues, again: &[Vec<Step>]) -> PieceOps {
        let PieceValues { tape, split, .. } = values;
        let backward = again.iter().map(|again| values.backward(again));
        let forward: Vec<Step> = tape.forward();
        let weights = split.as_ref().map_or(&[][..], |split| &split.weights);
        PieceOps {
            backward: backward.collect(),
            forward: PassOps::of(&forward.iter().collect::<Vec<_>>(), values),
            tail: PassOps::default(),
            weights: PassOps::of(&weights.iter().collect::<Vec<_>>(), values),
        }
    }

    /// The embedding.
    fn of_embedding(tape: &Tape, model: Formats) -> PieceOps {
        PieceOps::of(&PieceValues::of(tape, &tape.backward(), false, model), &[Vec::new()])
    }

    /// The head, all in its backward pass.
    fn of_head(tape: &Tape, model: Formats) -> PieceOps {
        let head = PieceOps::of(&PieceValues::of(tape, &tape.backward(), false, model), &[tape.forward()]);
        PieceOps { forward: PassOps::default(), ..head }
    }
}

impl ShapeOps {
    /// Of the pieces of a plan's shape.
    pub fn of(plan: &Plan) -> ShapeOps {
        let pieces = Pieces::of(plan, &mut Blocks::apart());
        let (splits, model) = (plan.schedule.splits(), Formats::of(&plan.job));
        let layers = pieces.layers.iter().map(|(&kind, modes)| {
            let again: Vec<Vec<Step>> = modes.iter().map(|piece| piece.again.clone()).collect();
            let (tape, back) = (&modes[0].tape, modes[0].tape.backward());
            let (forward, values) = (tape.forward(), PieceValues::of(tape, &back, splits, model));
            let tail: Vec<&Step> = after_saves(&forward, |t| modes[0].kept.contains_key(&t)).iter().collect();
            (kind, PieceOps { tail: PassOps::of(&tail, &values), ..PieceOps::of(&values, &again) })
        });
        ShapeOps {
            layers: layers.collect(),
            embed: PieceOps::of_embedding(&pieces.embed.tape, model),
            head: PieceOps::of_head(&pieces.head.tape, model),
            frames: Frames::of(&pieces),
        }
    }

    /// The same without recomputation, activations' memory not counted.
    pub(super) fn quick(plan: &Plan) -> ShapeOps {
        let tapes = Tapes::of(plan);
        let (splits, model) = (plan.schedule.splits(), Formats::of(&plan.job));
        let layers = tapes.layers.iter().map(|(&kind, tape)| {
            let back = tape.backward();
            let again = kept(tape, &back, Recompute::None).1;
            (kind, PieceOps::of(&PieceValues::of(tape, &back, splits, model), &[again]))
        });
        ShapeOps {
            layers: layers.collect(),
            embed: PieceOps::of_embedding(&tapes.embed, model),
            head: PieceOps::of_head(&tapes.head, model),
            frames: Frames::bare(&tapes),
        }
    }
}
