//! FLOPs a token, as sources count them.
//!
//! In: a model, its plan and a source's convention. Out: FLOPs of forward and backward a token.
//!
//! Invariant: a convention changes what a TFLOPS figure means, never the predicted time.

use meshwright_planner::job::Shape;
use meshwright_planner::plan::Plan;

/// How a source counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Every matmul of forward and twice that of backward; attention without its mask.
    Model,
    /// The same with attention's masked half left out.
    ModelCausal,
    /// With full recomputation: 96·B·s·L·h²·(1 + s/6h + V/16Lh) (Narayanan et al. 2021, equation 3).
    Hardware,
    /// As `Hardware` where layers are recomputed, as `Model` where not.
    AsRun,
    /// Eight for each of 12·L·h² parameters.
    EightN,
    /// Six for each of them.
    SixN,
}

impl Convention {
    /// By the code of a row, or by what it says.
    pub fn of(class: &str, text: &str) -> Convention {
        match class {
            _ if text.contains("when ckpt on") => Convention::AsRun,
            _ if text.starts_with("6*P") => Convention::SixN,
            "hardware_8n" => Convention::EightN,
            "hardware_full_recompute" if !text.starts_with("model") => Convention::Hardware,
            _ if text.contains("attention counted full") || text.contains("attention full") => Convention::Model,
            _ if ["causal half", "causal-half", "causal attention counted half"]
                .iter()
                .any(|word| text.contains(word)) =>
            {
                Convention::ModelCausal
            }
            "model_causal_half" => Convention::ModelCausal,
            _ if text.starts_with("8*P") => Convention::EightN,
            _ if text.contains("96BsLh") || text.contains("F=96") => Convention::Hardware,
            _ => Convention::Model,
        }
    }

    /// FLOPs a token of a model and its plan.
    pub fn flops_per_token(self, plan: &Plan) -> f64 {
        let shape = Shape::from(&plan.job.model);
        let seq = plan.job.seq as f64;
        let recomputes = plan.stages.iter().any(|stage| stage.full > 0);
        let (layers, head) = (shape.active_layer_parameters(), shape.table_parameters());
        let attention = shape.attention_flops(seq);
        match self {
            Convention::Model => 6.0 * (layers + head) + 3.0 * attention,
            Convention::ModelCausal => 6.0 * (layers + head) + 1.5 * attention,
            Convention::AsRun if !recomputes => 6.0 * (layers + head) + 3.0 * attention,
            Convention::Hardware | Convention::AsRun => 8.0 * layers + 6.0 * head + 4.0 * attention,
            Convention::EightN => 8.0 * layers,
            Convention::SixN => 6.0 * layers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sources_say_is_understood() {
        let of = |class, text| Convention::of(class, text);
        assert_eq!(
            of("model", "model FLOPs … incl. vocab logits; causal attention counted half in newer"),
            Convention::ModelCausal
        );
        assert_eq!(
            of("model_causal_half", "12*L*h*s*T (attention counted full, not causal-halved)"),
            Convention::Model
        );
        assert_eq!(of("hardware_full_recompute", "F=96*B*s*L*h^2*(1+s/(6h)+V/(16*L*h))"), Convention::Hardware);
        assert_eq!(
            of("hardware_full_recompute", "model FLOPs 72BsLh^2(1+s/6h+V/12Lh); hardware FLOPs …"),
            Convention::Model
        );
        assert_eq!(
            of("hardware_full_recompute", "Megatron formula (with recompute factor when ckpt on)"),
            Convention::AsRun
        );
        assert_eq!(of("hardware_8n", ""), Convention::EightN);
        assert_eq!(of("other", "6*P*tokens (P=1.3B)"), Convention::SixN);
        assert_eq!(of("", ""), Convention::Model);
    }
}
