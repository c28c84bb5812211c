//! What is planned and priced, and has no kernels here: `run` refuses it by its key, before anything is written.

mod place;

use place::{Place, json};

#[test]
fn what_is_on_paper_alone_is_not_run() {
    let tiny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml")).unwrap();
    let place = Place::new("on-paper", "none", "");
    let lora = "[job.tuning]\nmethod = \"lora\"\nrank = 8\n[job.optimizer]";
    let dropless =
        "[job.model.family.experts]\ncount = 4\ntop_k = 2\nffn = 32\ncapacity = \"dropless\"\n[job.optimizer]";
    let window = "[job.model.family.window]\ntokens = 16\n[job.optimizer]";
    let cases: &[(&str, &str, &[&str])] = &[
        ("seq = 64", "seq = 64\npacked = 16", &["`job.packed` is 16", "leave it out"]),
        ("tp = 1", "tp = 4", &["`mesh.tp` is 4", "the model's 2 `kv_heads`"]),
        ("[job.optimizer]", "[job.optimizer]\nname = \"lion\"", &["`job.optimizer.name` is lion", "adamw"]),
        ("[job.optimizer]", "[job.optimizer]\noffload = true", &["`job.optimizer.offload` is true", "leave it out"]),
        ("[job.optimizer]", dropless, &["experts.capacity` is dropless", "at 2 none is dropped"]),
        ("[job.optimizer]", window, &["`job.model.family.window.tokens` is 16", "on paper"]),
        ("[job.optimizer]", lora, &["`job.tuning.method` is lora", "take the table `[job.tuning]` out"]),
    ];
    for &(from, to, says) in cases {
        assert!(tiny.contains(from), "{from}");
        place.write("plan.toml", &tiny.replacen(from, to, 1));
        place.refused(&["run", "plan.toml", "-o", "out"], 2, says);
        assert!(!place.0.join("out").exists());
        let simulated = json(&place.run(&["simulate", "plan.toml", "--cluster", "8x h100", "--json"]));
        assert!(simulated["step_time_s"].as_f64().unwrap() > 0.0, "{to}");
    }
}
