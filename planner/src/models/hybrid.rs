//! Parameters of models whose layers are not all of attention: of state space, linear attention, or convolutions among them.
//!
//! In: a [`Config`]. Out: how many parameters it builds, and why no program has its layers.
//!
//! Of a layer's mixer of width `i`, state `n`, kernel `k`: Mamba (Gu & Dao 2023) `3hi + i(2r + 3n + k + 3)` with steps of rank `r`;
//! Mamba-2 (Dao & Gu 2024) `h(2i + c + H) + hi + c(k + 1) + i + 3H` with `H` heads and `c = i + 2gn` convolved, less the `i` that `c` has;
//! gated delta nets (Yang et al. 2024) and short convolutions (LFM2) below. Invariant: no size is guessed.

use meshwright_hardware::units::Bytes;
use serde_json::Value;

use super::keys::Config;
use crate::error::Fault;
use crate::limits;

/// Why these are not planned.
const STATE_SPACE: &str = "layers of state space stand where others have attention";
const LINEAR: &str = "layers of linear attention stand among those of full attention";
const CONVOLUTION: &str = "layers of convolutions stand among those of attention";

/// What a family's layers count, and whether embedding and head are one where the file does not say.
struct HybridFamily {
    names: &'static [&'static str],
    why: &'static str,
    tied: bool,
    layers: fn(&Config) -> Result<f64, Fault>,
}

const ALL: &[HybridFamily] = &[
    HybridFamily { names: &["mamba", "falcon_mamba"], why: STATE_SPACE, tied: true, layers: mamba },
    HybridFamily { names: &["mamba2"], why: STATE_SPACE, tied: false, layers: mamba2 },
    HybridFamily { names: &["jamba"], why: STATE_SPACE, tied: false, layers: jamba },
    HybridFamily { names: &["nemotron_h"], why: STATE_SPACE, tied: false, layers: nemotron_h },
    HybridFamily { names: &["bamba"], why: STATE_SPACE, tied: false, layers: bamba },
    HybridFamily { names: &["falcon_h1"], why: STATE_SPACE, tied: false, layers: falcon_h1 },
    HybridFamily { names: &["granitemoehybrid"], why: STATE_SPACE, tied: false, layers: granite_hybrid },
    HybridFamily {
        names: &["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"],
        why: LINEAR,
        tied: false,
        layers: gated_delta,
    },
    HybridFamily { names: &["lfm2", "lfm2_moe"], why: CONVOLUTION, tied: true, layers: lfm2 },
];

/// Names of these families.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|family| family.names).copied()
}

/// Parameters of a file of such a family, and why it is not planned; nothing where it is of none.
pub(super) fn count(config: &Config) -> Result<Option<(f64, &'static str)>, Fault> {
    let kind = config.text("model_type")?.unwrap_or_default();
    let Some(family) = ALL.iter().find(|family| family.names.contains(&kind.as_str())) else { return Ok(None) };
    let sizes = StatedSizes(config);
    let hidden = sizes.of("hidden_size")?;
    let tables = if config.flag("tie_word_embeddings")?.unwrap_or(family.tied) { 1.0 } else { 2.0 };
    let all = (family.layers)(config)? + (tables * sizes.of("vocab_size")? + 1.0) * hidden;
    if !(all > 0.0 && all <= limits::PARAMETERS) {
        let problem = format!(
            "with its layers and widths the model has {all:.1e} parameters; above 0 and at most {:.0e} are modelled",
            limits::PARAMETERS
        );
        return Err(Fault::new("hidden_size", hidden, problem));
    }
    Ok(Some((all, family.why)))
}

/// What training keeps of each parameter in bf16: 2 bytes of it, and 4 each of its fp32 weight, its gradient and two moments.
const KEPT: f64 = 18.0;

/// What training keeps of so many parameters, in words.
pub(super) fn states(parameters: f64) -> String {
    format!("training in bf16 keeps {} with gradients and moments", Bytes((KEPT * parameters) as u64))
}

/// A file's sizes as numbers to multiply.
struct StatedSizes<'a>(&'a Config<'a>);

impl StatedSizes<'_> {
    /// A size, one or more.
    fn of(&self, key: &'static str) -> Result<f64, Fault> {
        match self.0.needed(&[key])? {
            0 => Err(Fault::new(key, 0, "it must be 1 or more")),
            size => Ok(size as f64),
        }
    }

    fn or(&self, key: &'static str, usual: f64) -> Result<f64, Fault> {
        Ok(self.0.count(&[key])?.map_or(usual, |count| count as f64))
    }

    fn layers(&self) -> Result<usize, Fault> {
        let layers = self.0.needed(&["num_hidden_layers"])?;
        limits::sizes(&[("num_hidden_layers", layers, 1..=limits::LAYERS)])?;
        Ok(layers)
    }

    /// So many of the layers, and no more than there are.
    fn among(&self, key: &str, some: f64) -> Result<f64, Fault> {
        let layers = self.layers()?;
        if some > layers as f64 {
            return Err(Fault::new(key, some, format!("the model has {layers} layers")));
        }
        Ok(some)
    }

    /// Queries, keys, values and what joins heads again; `gates` more outputs of queries' width.
    fn attention(&self, gates: f64) -> Result<f64, Fault> {
        let (hidden, heads) = (self.of("hidden_size")?, self.of("num_attention_heads")?);
        let stated = self.0.count(&["head_dim", "attention_head_dim"])?;
        let width = stated.map_or(hidden / heads, |width| width as f64);
        let kv = self.or("num_key_value_heads", heads)?;
        for (key, size) in [("head_dim", width), ("num_key_value_heads", kv)] {
            if size < 1.0 {
                return Err(Fault::new(key, size, "it must be 1 or more"));
            }
        }
        Ok(hidden * width * (heads * (2.0 + gates) + 2.0 * kv))
    }

    /// Mamba's mixer, `steps` being the rank of its step sizes.
    fn selective(&self, inner: f64, [state, kernel]: [&'static str; 2], steps: f64) -> Result<f64, Fault> {
        let (hidden, state) = (self.of("hidden_size")?, self.of(state)?);
        Ok(3.0 * hidden * inner + inner * (2.0 * steps + 3.0 * state + self.or(kernel, 4.0)? + 3.0))
    }

    /// Mamba-2's mixer: heads, their width, groups, state, kernel.
    fn dual(&self, [heads, width, groups, state, kernel]: [&'static str; 5]) -> Result<f64, Fault> {
        let (hidden, heads) = (self.of("hidden_size")?, self.of(heads)?);
        let inner = heads * self.of(width)?;
        let convolved = inner + 2.0 * self.or(groups, 1.0)? * self.of(state)?;
        let projected = hidden * (2.0 * inner + convolved + heads);
        Ok(projected + convolved * (self.or(kernel, 4.0)? + 1.0) + inner + 3.0 * heads)
    }

    /// How often a word stands in a list of one for each layer.
    fn listed(&self, key: &str, of: &[&str]) -> Result<Option<f64>, Fault> {
        let Some(Value::Array(words)) = self.0.get(key) else { return Ok(None) };
        let layers = self.layers()?;
        if words.len() != layers {
            return Err(Fault::new(key, words.len(), format!("a word for each of {layers} layers")));
        }
        Ok(Some(words.iter().filter(|word| of.iter().any(|of| *word == of)).count() as f64))
    }
}

/// Layers from 0 whose number leaves this rest.
fn every(layers: usize, period: f64, offset: f64) -> f64 {
    (0..layers).filter(|layer| (*layer as f64 - offset).rem_euclid(period.max(1.0)) == 0.0).count() as f64
}

/// The rank of step sizes: a count, or `auto`.
fn steps(config: &Config, key: &str, hidden: f64) -> Result<f64, Fault> {
    match config.get(key) {
        Some(Value::String(_)) | None => Ok((hidden / 16.0).ceil()),
        Some(_) => Ok(config.count(&[key])?.unwrap_or_default() as f64),
    }
}

fn mamba(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let hidden = sizes.of("hidden_size")?;
    let inner = sizes.or("intermediate_size", sizes.or("expand", 2.0)? * hidden)?;
    let mixer = sizes.selective(inner, ["state_size", "conv_kernel"], steps(config, "time_step_rank", hidden)?)?;
    Ok(sizes.layers()? as f64 * (mixer + hidden))
}

fn mamba2(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let mixer = sizes.dual(["num_heads", "head_dim", "n_groups", "state_size", "conv_kernel"])?;
    Ok(sizes.layers()? as f64 * (mixer + sizes.of("hidden_size")?))
}

fn jamba(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let (layers, hidden) = (sizes.layers()?, sizes.of("hidden_size")?);
    let attending = every(layers, sizes.of("attn_layer_period")?, sizes.or("attn_layer_offset", 0.0)?);
    let routing = every(layers, sizes.of("expert_layer_period")?, sizes.or("expert_layer_offset", 0.0)?);
    let steps = steps(config, "mamba_dt_rank", hidden)?;
    let (inner, state) = (sizes.or("mamba_expand", 2.0)? * hidden, sizes.of("mamba_d_state")?);
    let mixer = sizes.selective(inner, ["mamba_d_state", "mamba_d_conv"], steps)? + steps + 2.0 * state;
    let (experts, fed) = (sizes.of("num_experts")?, 3.0 * hidden * sizes.of("intermediate_size")?);
    let all = layers as f64;
    let fed = (all - routing) * fed + routing * experts * (fed + hidden);
    Ok(attending * sizes.attention(0.0)? + (all - attending) * mixer + fed + 2.0 * all * hidden)
}

fn nemotron_h(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let hidden = sizes.of("hidden_size")?;
    let pattern = config.text("hybrid_override_pattern")?;
    let layers = match &pattern {
        Some(pattern) => pattern.chars().count() as f64,
        None => sizes.layers()? as f64,
    };
    let of = |sign: char, word: &str| match &pattern {
        Some(pattern) => Ok(pattern.chars().filter(|of| *of == sign).count() as f64),
        None => sizes.listed("layers_block_type", &[word])?.ok_or_else(|| {
            Fault::new("hybrid_override_pattern", "missing", "it says of which kind each layer is: M, *, - or E")
        }),
    };
    let (mixing, attending, fed) = (of('M', "mamba")?, of('*', "attention")?, of('-', "mlp")?);
    let routing = layers - mixing - attending - fed;
    let mut all = layers * hidden;
    if mixing > 0.0 {
        all +=
            mixing * sizes.dual(["mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel"])?;
    }
    if attending > 0.0 {
        all += attending * sizes.attention(0.0)?;
    }
    if fed > 0.0 {
        all += fed * 2.0 * hidden * sizes.of("intermediate_size")?;
    }
    if routing > 0.0 {
        let (experts, width) = (sizes.of("n_routed_experts")?, sizes.of("moe_intermediate_size")?);
        let shared = sizes.or("n_shared_experts", 0.0)? * sizes.or("moe_shared_expert_intermediate_size", width)?;
        all += routing * hidden * (experts * (2.0 * width + 1.0) + 2.0 * shared);
    }
    Ok(all)
}

const OF_MAMBA: [&str; 5] = ["mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv"];

fn bamba(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let (all, hidden) = (sizes.layers()? as f64, sizes.of("hidden_size")?);
    let attending = config.get("attn_layer_indices").and_then(Value::as_array).map_or(0, Vec::len) as f64;
    let attending = sizes.among("attn_layer_indices", attending)?;
    let fed = 3.0 * hidden * sizes.of("intermediate_size")?;
    let mixed = attending * sizes.attention(0.0)? + (all - attending) * sizes.dual(OF_MAMBA)?;
    Ok(mixed + all * (fed + 2.0 * hidden))
}

fn falcon_h1(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let hidden = sizes.of("hidden_size")?;
    let fed = 3.0 * hidden * sizes.of("intermediate_size")?;
    Ok(sizes.layers()? as f64 * (sizes.attention(0.0)? + sizes.dual(OF_MAMBA)? + fed + 2.0 * hidden))
}

fn granite_hybrid(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let (all, hidden) = (sizes.layers()? as f64, sizes.of("hidden_size")?);
    let attending = sizes.listed("layer_types", &["attention"])?.unwrap_or(0.0);
    let fed = |width: f64| 3.0 * hidden * width;
    let experts = sizes.or("num_local_experts", 0.0)?;
    let routed = if experts > 0.0 { experts * (fed(sizes.of("intermediate_size")?) + hidden) } else { 0.0 };
    let mixed = attending * sizes.attention(0.0)? + (all - attending) * sizes.dual(OF_MAMBA)?;
    Ok(mixed + all * (routed + fed(sizes.or("shared_intermediate_size", 0.0)?) + 2.0 * hidden))
}

/// Qwen3-Next and Qwen3.5: gated delta nets, and attention with a gate, with experts or without.
fn gated_delta(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let (layers, hidden) = (sizes.layers()?, sizes.of("hidden_size")?);
    let period = sizes.or("full_attention_interval", 4.0)?;
    let attending = match sizes.listed("layer_types", &["full_attention"])? {
        Some(listed) => listed,
        None => every(layers, period, period - 1.0),
    };
    let values = sizes.of("linear_num_value_heads")?;
    let [keys_wide, values_wide] = [
        sizes.of("linear_num_key_heads")? * sizes.of("linear_key_head_dim")?,
        values * sizes.of("linear_value_head_dim")?,
    ];
    let kernel = sizes.or("linear_conv_kernel_dim", 4.0)?;
    let mixer = hidden * (2.0 * keys_wide + 3.0 * values_wide + 2.0 * values)
        + (2.0 * keys_wide + values_wide) * kernel
        + 2.0 * values
        + sizes.of("linear_value_head_dim")?;
    let all = layers as f64;
    let fed = |width: f64| 3.0 * hidden * width;
    let experts = sizes.or("num_experts", 0.0)?;
    let fed = if experts > 0.0 {
        let dense = config.get("mlp_only_layers").and_then(Value::as_array).map_or(0, Vec::len) as f64;
        let routing = every(layers, sizes.or("decoder_sparse_step", 1.0)?, -1.0);
        let routing = routing - sizes.among("mlp_only_layers", dense)?.min(routing);
        let routed = experts * (fed(sizes.of("moe_intermediate_size")?) + hidden)
            + fed(sizes.or("shared_expert_intermediate_size", 0.0)?)
            + hidden;
        let dense = all - routing;
        routing * routed + if dense > 0.0 { dense * fed(sizes.of("intermediate_size")?) } else { 0.0 }
    } else {
        all * fed(sizes.of("intermediate_size")?)
    };
    Ok(attending * sizes.attention(1.0)? + (all - attending) * mixer + fed + 2.0 * all * hidden)
}

fn lfm2(config: &Config) -> Result<f64, Fault> {
    let sizes = StatedSizes(config);
    let (all, hidden) = (sizes.layers()? as f64, sizes.of("hidden_size")?);
    let attending = match (sizes.listed("layer_types", &["full_attention"])?, config.get("full_attn_idxs")) {
        (Some(listed), _) => listed,
        (None, Some(Value::Array(numbers))) => sizes.among("full_attn_idxs", numbers.len() as f64)?,
        (None, _) => {
            let problem = "it says which layers have attention, as `full_attn_idxs` does";
            return Err(Fault::new("layer_types", "missing", problem));
        }
    };
    let mixer = 4.0 * hidden * hidden + hidden * sizes.or("conv_L_cache", 3.0)?;
    let stated = config.needed(&["block_ff_dim", "intermediate_size"])? as f64;
    let fed = |width: f64| 3.0 * hidden * width;
    let experts = sizes.or("num_experts", 0.0)?;
    let fed = if experts > 0.0 {
        let dense = sizes.among("num_dense_layers", sizes.or("num_dense_layers", 0.0)?)?;
        dense * fed(stated) + (all - dense) * experts * (fed(sizes.of("moe_intermediate_size")?) + hidden)
    } else if config.flag("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        let factor = config.typed("block_ffn_dim_multiplier", "a number", Value::as_f64)?.unwrap_or(1.0);
        let multiple = sizes.or("block_multiple_of", 256.0)?.max(1.0);
        all * fed(((2.0 * stated / 3.0).floor() * factor / multiple).ceil() * multiple)
    } else {
        all * fed(stated)
    };
    Ok(attending * sizes.attention(0.0)? + (all - attending) * mixer + fed + 2.0 * all * hidden)
}
