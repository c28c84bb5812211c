//! A decoder of so many parameters.
//!
//! In: parameters, a vocabulary. Out: a LLaMA of sizes that tensor parallelism and matrix units like: heads of 128 in multiples of
//! eight, eight key/value heads.
//!
//! Within a wide range depth against width hardly matters to the loss (Kaplan et al. 2020, figure 5: below 3 % from a third of the best
//! ratio to three times it); here a model is about 100 times as wide as it is deep, as LLaMA and Llama 3 are.
//!
//! Invariant: its parameters are as near as whole layers allow, a few per cent of what was asked for from 100 M on.

use crate::job::{Architecture, Model};

/// Width over depth.
const ASPECT: f64 = 100.0;
/// Sequences with which parameters are counted: rotary positions have none of their own.
const ANY: usize = 2048;

/// A decoder of about so many parameters; none where the vocabulary's tables alone are more.
pub fn decoder(parameters: f64, vocab: usize) -> Option<Model> {
    let of = |hidden: usize| {
        let head = if hidden < 1024 { 64 } else { 128 };
        let heads = hidden / head;
        let ffn = (hidden * 8 / 3).next_multiple_of(256);
        let model = Model {
            name: "decoder".to_owned(),
            architecture: Architecture::Llama,
            layers: 1,
            hidden,
            heads,
            kv_heads: 8,
            ffn,
            vocab,
            tied: parameters < 1e9,
            rope_theta: 500_000.0,
            family: None,
        };
        let two = Model { layers: 2, ..model.clone() }.parameters(ANY) as f64;
        let one = model.parameters(ANY) as f64;
        let layers = ((parameters - one) / (two - one)).round() + 1.0;
        (layers >= 2.0).then_some(Model { layers: layers as usize, ..model })
    };
    let off = |model: &Model| {
        let aspect = (model.hidden as f64 / model.layers as f64 / ASPECT).ln().abs();
        aspect + 10.0 * (model.parameters(ANY) as f64 / parameters).ln().abs()
    };
    let widths = (1..=64).map(|eights| if eights == 1 { 512 } else { (eights - 1) * 8 * 128 });
    let best = widths.filter_map(of).min_by(|a, b| off(a).total_cmp(&off(b)))?;
    let name = format!("decoder-{}", named(best.parameters(ANY) as f64));
    Some(Model { name, ..best })
}

/// As models are called: `350m`, `7b`, `1.5t`.
fn named(parameters: f64) -> String {
    let (value, unit) = match parameters {
        ..1e9 => (parameters / 1e6, "m"),
        1e9..1e12 => (parameters / 1e9, "b"),
        _ => (parameters / 1e12, "t"),
    };
    if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_have_the_parameters_that_were_asked_for() {
        for parameters in [1.5e8, 1e9, 8e9, 7e10, 4e11, 2e12] {
            let model = decoder(parameters, 128_256).unwrap();
            let off = model.parameters(ANY) as f64 / parameters - 1.0;
            assert!(off.abs() < 0.03, "{}: {off}", model.name);
            assert!(
                model.hidden.is_multiple_of(model.heads) && (15..300).contains(&(model.hidden / model.layers)),
                "{model:?}"
            );
            model.check().unwrap();
        }
        assert_eq!(decoder(1e6, 128_256), None);
        assert_eq!(decoder(7e10, 32_000).unwrap().name, "decoder-70b");
    }
}
