//! What must not change between a checkpoint and its resumption.
//!
//! In: a trainer's settings and where its parameters lie. Out: a JSON object for manifests, and in what one differs from another.
//!
//! Invariant: what is compared is meaning: numbers to the bit, and the names and places of what is kept, never how this program
//! happens to print itself. A key that an older checkpoint does not have is not compared.

use std::fmt::Write;

use meshwright_hardware::params::Shard;
use serde_json::{Value, json};

use super::Trainer;

impl Trainer {
    /// What this run says of itself.
    pub(super) fn meta(&self) -> Value {
        let c = &self.config;
        json!({
            "layout": crc32fast::hash(self.layout().as_bytes()),
            "seed": c.seed,
            "steps": c.steps,
            "warmup_steps": c.warmup_steps,
            "optimizer": [c.lr_peak, c.lr_min, c.beta1, c.beta2, c.eps, c.weight_decay, c.clip],
            "global_batch": c.global_batch,
            "microbatches": [c.microbatch_size, c.num_microbatches],
            "shares": c.shares,
            "seq": c.seq,
            "loss_scaling": [c.loss_scaling.initial, c.loss_scaling.every as f32],
            "text": c.text,
        })
    }

    /// Which rank keeps what, and which of it is which parameter.
    fn layout(&self) -> String {
        let mut text = String::new();
        for (rank, kept) in self.kept().iter().enumerate() {
            for (name, region) in kept {
                let _ = writeln!(text, "rank {rank} {name} {}", region.elems);
            }
        }
        for (role, specs) in self.params.roles.iter().enumerate() {
            for spec in specs {
                let split = match &spec.shard {
                    Shard::Whole => "whole".to_owned(),
                    Shard::Rows { sections } => format!("rows {sections:?}"),
                    Shard::Padded { each } => format!("{each} rows each"),
                    Shard::Heads { queries, sections, copies } => {
                        format!("{queries} rows, {copies} copies of {sections:?}")
                    }
                    Shard::Cols => "cols".to_owned(),
                };
                let (name, offset, rows, cols) = (&spec.name, spec.offset, spec.rows, spec.cols);
                let _ = writeln!(text, "role {role} {name} at {offset} {rows} x {cols} {split}");
            }
        }
        text
    }
}

/// In what a checkpoint's run differs from the one that would go on from it, in words; nothing if in nothing that matters.
pub(super) fn differs(saved: &Value, ours: &Value) -> Option<String> {
    let pairs = ours.as_object()?.iter().filter_map(|(key, ours)| Some((key, saved.get(key)?, ours)));
    let of_pair = |(key, saved, ours): (&String, &Value, &Value)| {
        let same = match key.as_str() {
            "text" => !text_differs(saved, ours),
            // A run may grow: the rates that are left are those of the longer one.
            "steps" => saved.as_u64() <= ours.as_u64(),
            _ => saved == ours,
        };
        let why = match key.as_str() {
            "layout" => "another plan or model wrote it".to_owned(),
            "text" => "it was trained on another text".to_owned(),
            _ => format!("its `{key}` is {saved}, and {ours} is asked for"),
        };
        (!same).then_some(why)
    };
    pairs.map(of_pair).find_map(|why| why)
}

/// Whether a text that somebody named was exchanged.
fn text_differs(saved: &Value, ours: &Value) -> bool {
    let named = |text: &Value| text["named"] == true;
    text_changed(saved, ours) && (named(saved) || named(ours))
}

/// Whether both say which text, and not the same one.
pub(super) fn text_changed(saved: &Value, ours: &Value) -> bool {
    !saved.is_null() && !ours.is_null() && saved["crc32"] != ours["crc32"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_and_keys_of_later_versions_are_not_asked_for() {
        let ours = json!({ "seed": 1, "layout": 7, "optimizer": [0.1, 1e-9] });
        assert_eq!(differs(&ours, &ours), None);
        assert_eq!(differs(&json!({ "seed": 1, "program": "0f" }), &ours), None);
        let other = differs(&json!({ "seed": 2 }), &ours).unwrap();
        assert!(other.contains("`seed` is 2, and 1 is asked for"), "{other}");
        assert!(differs(&json!({ "layout": 8 }), &ours).unwrap().contains("plan"));
        let steps = |steps: u64| json!({ "steps": steps });
        assert_eq!(differs(&steps(20), &steps(30)), None);
        assert!(differs(&steps(20), &steps(10)).unwrap().contains("`steps` is 20, and 10 is asked for"));
    }

    proptest::proptest! {
        #[test]
        fn settings_are_the_same_when_a_manifest_was_written_and_read(lr in 1u32..1000, exponent in -9i32..1, beta2 in 0u32..10_000, eps: f32) {
            let lr = (f64::from(lr) * 10f64.powi(exponent)) as f32;
            let beta2 = (f64::from(beta2) / 1e4) as f32;
            let ours = json!({ "optimizer": [f64::from(lr), f64::from(beta2), f64::from(eps)] });
            let saved = serde_json::from_str(&serde_json::to_string_pretty(&ours).unwrap()).unwrap();
            proptest::prop_assert_eq!(differs(&saved, &ours), None);
        }
    }

    #[test]
    fn a_text_is_held_to_where_somebody_named_it() {
        let text = |crc32: u32, named: bool| json!({ "text": { "crc32": crc32, "named": named } });
        assert_eq!(differs(&text(1, true), &text(1, false)), None);
        assert_eq!(differs(&text(1, false), &text(2, false)), None);
        for (saved, ours) in
            [(text(1, true), text(2, true)), (text(1, true), text(2, false)), (text(1, false), text(2, true))]
        {
            assert!(differs(&saved, &ours).unwrap().contains("another text"));
        }
        assert_eq!(differs(&json!({ "text": null }), &text(2, true)), None);
        assert_eq!(differs(&json!({}), &text(2, true)), None);
    }
}
