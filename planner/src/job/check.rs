//! What makes a model and a job sensible: every field has values that mean something.
//!
//! In: a [`Model`], its [`Family`], a [`Job`], its [`Fix`]. Out: nothing, or the [`Fault`] with key, value and what would do.
//!
//! Invariant: what passes can be planned without overflow: sizes lie within [`limits`], numbers are finite.

use super::{Architecture, ExpertGroups, Experts, Family, Fix, Job, Latent, Model, Optimizer, Shape};
use crate::error::Fault;
use crate::limits::{self, number, sizes};

impl Model {
    /// Refuses shapes that no transformer has.
    pub fn check(&self) -> Result<(), Fault> {
        check_name(&self.name)?;
        sizes(&[
            ("layers", self.layers, 1..=limits::LAYERS),
            ("hidden", self.hidden, 1..=limits::HIDDEN),
            ("heads", self.heads, 1..=limits::HEADS),
            ("kv_heads", self.kv_heads, 1..=limits::HEADS),
            ("ffn", self.ffn, 1..=limits::FFN),
            ("vocab", self.vocab, 1..=limits::VOCAB),
        ])?;
        if let Some(family) = &self.family {
            family.check(self).map_err(|fault| fault.within("family"))?;
        }
        let (heads, stated) = (self.heads, self.family.as_ref().and_then(|family| family.head_dim));
        if stated.is_none() && !self.hidden.is_multiple_of(heads) {
            let problem =
                format!("it must divide `hidden` = {}, or `family.head_dim` says how wide they are", self.hidden);
            return Err(Fault::new("heads", heads, problem));
        }
        if !heads.is_multiple_of(self.kv_heads) {
            return Err(Fault::new("kv_heads", self.kv_heads, format!("it must divide `heads` = {heads}")));
        }
        if self.architecture == Architecture::Llama && !self.head_dim().is_multiple_of(2) {
            return Err(match stated {
                Some(width) => Fault::new("family.head_dim", width, "rotary positions need an even width"),
                None => Fault::new("heads", heads, "rotary positions need heads of an even width"),
            });
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(Fault::new("rope_theta", self.rope_theta, "it must be above zero, such as 10000"));
        }
        let parameters = Shape::from(self).parameters(0);
        if parameters > limits::PARAMETERS {
            let problem = format!(
                "with its layers, widths and experts the model has {parameters:.1e} parameters; at most {:.0e} are modelled",
                limits::PARAMETERS
            );
            return Err(Fault::new("hidden", self.hidden, problem));
        }
        Ok(())
    }

    /// The widest row of activations of a token in a layer or in the head.
    fn widest(&self) -> usize {
        let experts = self.experts().map_or(0, |experts| {
            let places = (experts.capacity_factor().max(1.0) * experts.top_k as f64).min(experts.count as f64);
            (places * experts.ffn.max(self.hidden) as f64) as usize + experts.count
        });
        let heads = match self.family.as_ref().and_then(|family| family.latent.as_ref()) {
            Some(latent) => self.heads * (latent.nope + latent.rope).max(latent.value),
            None => self.heads * self.head_dim(),
        };
        [self.hidden, self.ffn, self.vocab, heads, experts].into_iter().max().unwrap_or(0)
    }
}

/// Names stand in tables and pages, and are those of folders.
fn check_name(name: &str) -> Result<(), Fault> {
    const LONGEST: usize = 128;
    let problem = if name.is_empty() {
        "give a name".to_owned()
    } else if name.len() > LONGEST {
        format!("it has {} bytes; at most {LONGEST}", name.len())
    } else if !name.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        "it must begin with a letter or a digit".to_owned()
    } else if name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\')) {
        "it names folders: leave out `/`, `\\` and control characters".to_owned()
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(40).collect();
    Err(Fault::new("name", format!("{shown:?}"), problem))
}

impl Family {
    /// Refuses what contradicts itself or the model.
    fn check(&self, model: &Model) -> Result<(), Fault> {
        let optional = [
            ("head_dim", self.head_dim, limits::HEAD_DIM),
            ("decoder_layers", self.decoder_layers, limits::LAYERS),
            ("positions", self.positions, limits::SEQ),
        ];
        for (key, size, most) in optional {
            sizes(&[(key, size.unwrap_or(1), 1..=most)])?;
        }
        if let Some(window) = self.window {
            window.check(model.depth(), model.decodes_by_heads()).map_err(|fault| fault.within("window"))?;
        }
        sizes(&[("unpriced", self.unpriced, 0..=limits::UNPRICED)])?;
        if self.positions.is_some() && !model.learned_positions() {
            let problem = "the model has no learned positions: leave it out, or say `learned_positions = true`";
            return Err(Fault::new("positions", self.positions.unwrap_or(0), problem));
        }
        if self.bidirectional && self.decoder_layers.is_some() {
            let problem = "the encoder of an encoder-decoder sees all tokens in any case: leave it out";
            return Err(Fault::new("bidirectional", true, problem));
        }
        if let Some(experts) = &self.experts {
            experts.check(model).map_err(|fault| fault.within("experts"))?;
        }
        if self.mtp_layers > 1 || (self.mtp_layers > 0 && (self.bidirectional || self.decoder_layers.is_some())) {
            let problem = "a decoder has one, or none; more are not modelled";
            return Err(Fault::new("mtp_layers", self.mtp_layers, problem));
        }
        self.latent.as_ref().map_or(Ok(()), |latent| latent.check().map_err(|fault| fault.within("latent")))
    }
}

impl Experts {
    /// Refuses a mixture that no layer has, or that no token can go to.
    fn check(&self, model: &Model) -> Result<(), Fault> {
        sizes(&[
            ("count", self.count, 1..=limits::EXPERTS),
            ("ffn", self.ffn, 1..=limits::FFN),
            ("shared_ffn", self.shared_ffn, 0..=limits::FFN),
        ])?;
        if !(1..=self.count).contains(&self.top_k) {
            let problem = format!("a token goes to 1 to {} experts, as many as `count` says", self.count);
            return Err(Fault::new("top_k", self.top_k, problem));
        }
        if let Some(ExpertGroups { count, top }) = self.groups {
            let divides = count > 0 && self.count.is_multiple_of(count);
            if !divides || !(1..=count).contains(&top) || self.count / count * top < self.top_k {
                let problem = format!(
                    "`count` divides {} experts, and `top` of them hold the {} that a token goes to",
                    self.count, self.top_k
                );
                return Err(Fault::new("groups", format!("{top} of {count}"), problem));
            }
        }
        let depth = model.depth();
        if self.dense_layers >= depth {
            let problem =
                format!("the model has {depth} layers, and none of them would have experts: 0 to {}", depth - 1);
            return Err(Fault::new("dense_layers", self.dense_layers, problem));
        }
        sizes(&[("every", self.every, 1..=depth - self.dense_layers)])?;
        let most = limits::EXPERTS as f64;
        if !(self.capacity_factor() > 0.0 && self.capacity_factor() <= most) {
            let problem =
                format!("over an even share, it must be above zero and at most {most}, or `dropless`; 1.25 is usual");
            return Err(Fault::new("capacity", self.capacity, problem));
        }
        number("balance", self.balance.into(), 0.0..=1e6)
    }
}

impl Latent {
    /// Refuses widths that attention cannot have.
    fn check(&self) -> Result<(), Fault> {
        sizes(&[
            ("q_rank", self.q_rank, 0..=limits::HIDDEN),
            ("kv_rank", self.kv_rank, 1..=limits::HIDDEN),
            ("nope", self.nope, 1..=limits::HEAD_DIM),
            ("rope", self.rope, 1..=limits::HEAD_DIM),
            ("value", self.value, 1..=limits::HEAD_DIM),
        ])?;
        if !self.rope.is_multiple_of(2) {
            return Err(Fault::new("rope", self.rope, "rotary positions need an even width"));
        }
        if self.value > self.nope + self.rope {
            let problem = format!("values are no wider than keys: nope + rope = {}", self.nope + self.rope);
            return Err(Fault::new("value", self.value, problem));
        }
        Ok(())
    }
}

impl Job {
    /// Refuses a job that no plan could run.
    pub fn check(&self) -> Result<(), Fault> {
        self.model.check().map_err(|fault| fault.within("model"))?;
        sizes(&[
            ("seq", self.seq, 1..=limits::SEQ),
            ("target_seq", self.target_seq.unwrap_or(1), 1..=limits::SEQ),
            ("global_batch", self.global_batch, 1..=limits::BATCH),
            ("steps", self.steps, 1..=limits::STEPS),
        ])?;
        if let Some(target) = self.target_seq.filter(|_| self.target() == 0) {
            let problem = "only an encoder-decoder writes one: leave it out, or give `model.family.decoder_layers`";
            return Err(Fault::new("target_seq", target, problem));
        }
        self.check_reach()?;
        if let Some(packed) = self.packed {
            sizes(&[("packed", packed, 1..=self.seq)])?;
            if self.target() > 0 || !self.seq.is_multiple_of(packed) {
                let problem =
                    format!("samples that fill a sequence divide `seq` = {}; an encoder-decoder packs none", self.seq);
                return Err(Fault::new("packed", packed, problem));
            }
        }
        let tokens = (self.global_batch * self.seq.max(self.target())) as f64;
        if tokens * self.model.widest() as f64 * self.model.depth() as f64 > limits::ACTIVATIONS {
            let problem = format!(
                "with sequences of {} tokens and this model's layers and widths a step has more activations than are modelled, \
                 {:.0e}",
                self.seq,
                limits::ACTIVATIONS
            );
            return Err(Fault::new("global_batch", self.global_batch, problem));
        }
        self.optimizer.check().map_err(|fault| fault.within("optimizer"))?;
        if let Some(tuning) = &self.tuning {
            tuning.check(self.precision).map_err(|fault| fault.within("tuning"))?;
        }
        self.fix.check().map_err(|fault| fault.within("fix"))?;
        self.goal.check()
    }
}

impl Job {
    /// Refuses sequences that reach beyond the model's positions.
    fn check_reach(&self) -> Result<(), Fault> {
        let Some(family) = &self.model.family else { return Ok(()) };
        if let Some(rows) = family.positions.filter(|&rows| self.positions() > rows) {
            let problem = format!("the model has learned {rows} positions: sequences of at most so many tokens");
            return Err(Fault::new("seq", self.positions(), problem));
        }
        Ok(())
    }
}

impl Optimizer {
    /// Refuses numbers with which AdamW has no meaning.
    fn check(&self) -> Result<(), Fault> {
        // How high a rate diverges, only a run tells.
        for (key, rate) in [("lr", self.lr), ("min_lr", self.min_lr)] {
            number(key, rate.into(), 0.0..=f32::MAX.into())?;
        }
        number("weight_decay", self.weight_decay.into(), 0.0..=100.0)?;
        number("clip", self.clip.into(), 0.0..=1e9)?;
        if !(self.eps > 0.0 && self.eps <= 1.0) {
            let problem = "it must be above zero, such as 1e-8, and at most 1: a moment of zero would divide by it";
            return Err(Fault::new("eps", self.eps, problem));
        }
        let betas = [("beta1", self.beta1), ("beta2", self.beta2)];
        match betas.iter().find(|(_, beta)| !(0.0..1.0).contains(beta)) {
            Some((key, beta)) => Err(Fault::new(key, beta, "it must be in [0, 1)")),
            None => Ok(()),
        }
    }
}

impl Fix {
    /// Refuses decisions that no plan has.
    pub fn check(&self) -> Result<(), Fault> {
        let axes = [
            ("dp", self.dp),
            ("pp", self.pp),
            ("tp", self.tp),
            ("cp", self.cp),
            ("ep", self.ep),
            ("max_tp", self.max_tp),
            ("max_pp", self.max_pp),
            ("microbatch", self.microbatch),
            ("chunks", self.chunks),
        ];
        for (key, size) in axes {
            sizes(&[(key, size.unwrap_or(1), 1..=limits::RANKS)])?;
        }
        sizes(&[("shard", self.shard.unwrap_or(2), 2..=limits::RANKS)])?;
        if self.recompute.as_ref().is_some_and(Vec::is_empty) {
            return Err(Fault::new(
                "recompute",
                "[]",
                "it names the kinds that layers may have: none, selective, full",
            ));
        }
        match self.zero {
            Some(zero @ 4..) => Err(Fault::new("zero", zero, "ZeRO has the stages 0 to 3")),
            _ => Ok(()),
        }
    }
}
