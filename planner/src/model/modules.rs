//! Parts of layers that backward makes again in every layer, by the names of Megatron Core's `--recompute-modules`.
//!
//! In: a plan's `recompute_modules`. Out: [`RecomputeModule`]s, each with the tensors that are then never kept.
//!
//! Invariant: what a module is made again from is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::job::{LayerKind, Model};

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeModule {
    /// Attention between the projections: its scores (Korthikanti et al. 2022, §5).
    CoreAttn,
    /// Norms before attention and before the feed-forward part.
    Layernorm,
    /// What latent attention's queries, keys and values are projected up to.
    MlaUpProj,
    /// A dense layer's feed-forward part.
    Mlp,
    /// Experts' activation.
    MoeAct,
    /// Experts that every token goes to.
    SharedExperts,
    /// Routing, experts and what brings tokens to them.
    Moe,
}

impl RecomputeModule {
    /// Every module.
    pub const ALL: [RecomputeModule; 7] = [
        RecomputeModule::CoreAttn,
        RecomputeModule::Layernorm,
        RecomputeModule::MlaUpProj,
        RecomputeModule::Mlp,
        RecomputeModule::MoeAct,
        RecomputeModule::SharedExperts,
        RecomputeModule::Moe,
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            RecomputeModule::CoreAttn => "core_attn",
            RecomputeModule::Layernorm => "layernorm",
            RecomputeModule::MlaUpProj => "mla_up_proj",
            RecomputeModule::Mlp => "mlp",
            RecomputeModule::MoeAct => "moe_act",
            RecomputeModule::SharedExperts => "shared_experts",
            RecomputeModule::Moe => "moe",
        }
    }

    /// The tensors of a layer that are not kept.
    pub(crate) fn tensors(self, kind: LayerKind) -> &'static [&'static str] {
        match (self, kind.experts) {
            // Its output is what the projection behind it reads.
            (RecomputeModule::CoreAttn, _) => &["lse"],
            (RecomputeModule::Layernorm, _) => &["normed1", "normed2"],
            (RecomputeModule::MlaUpProj, _) => &["q", "kv", "qkv"],
            (RecomputeModule::Mlp, false) | (RecomputeModule::SharedExperts, true) => &["up", "active"],
            (RecomputeModule::MoeAct, true) => &["experts.active"],
            (RecomputeModule::Moe, true) => &[
                "logits",
                "probs",
                "shares",
                "slots",
                "dispatched",
                "dispatched to all",
                "experts.up",
                "experts.active",
                "experts.down",
                "combined",
                "up",
                "active",
            ],
            (RecomputeModule::Mlp, true)
            | (RecomputeModule::MoeAct | RecomputeModule::SharedExperts | RecomputeModule::Moe, false) => &[],
        }
    }

    /// Whether a model's layers have it.
    pub fn is_of(self, model: &Model) -> bool {
        match self {
            RecomputeModule::CoreAttn | RecomputeModule::Layernorm => true,
            RecomputeModule::MlaUpProj => model.family.as_ref().is_some_and(|family| family.latent.is_some()),
            RecomputeModule::Mlp => (0..model.depth()).any(|layer| !model.kind(layer).experts),
            RecomputeModule::MoeAct | RecomputeModule::Moe => model.experts().is_some(),
            RecomputeModule::SharedExperts => model.experts().is_some_and(|experts| experts.shared_ffn > 0),
        }
    }

    /// Refuses modules that no layer of a model has.
    pub(crate) fn check(modules: &[RecomputeModule], model: &Model) -> Result<(), Fault> {
        let Some(module) = modules.iter().find(|module| !module.is_of(model)) else { return Ok(()) };
        let there = RecomputeModule::ALL.into_iter().filter(|module| module.is_of(model));
        let there: Vec<&str> = there.map(RecomputeModule::name).collect();
        let problem = format!("no layer of the model has it; its layers have {}", there.join(", "));
        Err(Fault::new("recompute_modules", module.name(), problem))
    }
}
