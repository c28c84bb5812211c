//! What a user may give that does not fit: each is refused at once, with file, key, value and what would do, or answered.

mod place;

use std::process::Stdio;

use place::{Place, json};

/// A plan that trains in seconds, with some text of it changed.
fn tiny(changes: &[(&str, &str)]) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml")).unwrap();
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

/// A file with some text in it, and a command with it that is refused.
fn refused(place: &Place, file: &str, text: &str, arguments: &[&str], says: &[&str]) {
    place.write(file, text);
    place.refused(arguments, 2, says);
}

#[test]
fn sizes_of_plans_are_bounded() {
    let place = Place::new("inputs-plans", "none", "");
    let cases: &[(&str, &str, &[&str])] = &[
        ("zero = 1", "zero = 1\nchunks = 0", &["`chunks` is 0", "1 to 2"]),
        ("zero = 1", "zero = 1\nchunks = 4611686018427387904", &["`chunks`", "1 to 2"]),
        ("zero = 1", "zero = 9", &["`zero` is 9", "0 to 3"]),
        (
            "{ layers = 2 }",
            "{ layers = 2, full = 9223372036854775807, selective = 9223372036854775807 }",
            &["stages[0]"],
        ),
        ("{ layers = 2 }", "{ layers = 2, offload = 3 }", &["stages[0].offload"]),
        ("global_batch = 8", "global_batch = 4294967296", &["`job.global_batch` is 4294967296", "1 to 1048576"]),
        ("global_batch = 8", "global_batch = 1048576", &["262144 microbatches", "more sequences a microbatch"]),
        ("hidden = 64", "hidden = 9007199254740992", &["`job.model.hidden` is 9007199254740992"]),
        ("vocab = 256", "vocab = 4611686018427387904", &["`job.model.vocab`", "1 to 134217728"]),
        ("vocab = 256", "vocab = 9223372036854775807", &["`job.model.vocab`"]),
        ("seq = 64", "seq = 4611686018427387904", &["`job.seq`"]),
        ("seq = 64", "seq = 2147483648", &["`job.seq` is 2147483648", "1 to 268435456"]),
        ("seq = 64", "seq = 64\ntarget_seq = 7", &["`job.target_seq` is 7", "encoder-decoder"]),
        ("seq = 64", "seq = 64\npacked = 24", &["`job.packed` is 24", "divide `seq` = 64"]),
        (
            "[job.optimizer]",
            "[job.tuning]\nmethod = \"lora\"\nrank = 0\n[job.optimizer]",
            &["`job.tuning.rank` is 0", "1 to"],
        ),
        (
            "[job.optimizer]",
            "[job.tuning]\nmethod = \"lora\"\nrank = 8\nbase = \"nf4\"\n[job.optimizer]",
            &["`job.tuning.base` is nf4", "16 bits", "`model`"],
        ),
        ("seed = 1", "seed = -1", &["plan.toml", "seed = -1"]),
        ("microbatch = 2", "microbatch = 9223372036854775807", &["`microbatch` is 9223372036854775807", "1 to 8"]),
        ("dp = 2", "dp = 9223372036854775808", &["plan.toml"]),
        ("dp = 2", "dp = 1048576", &["job.global_batch"]),
        ("dp = 2", "dp = 524288\ncp = 64", &["`mesh.dp`", "at most 1048576 ranks"]),
        ("layers = 2\nhidden", "layers = 65535\nhidden", &["`job.model.layers` is 65535", "1 to 1024"]),
        ("layers = 2\nhidden", "layers = 9223372036854775807\nhidden", &["`job.model.layers`"]),
        ("[job.optimizer]", "[job.optimizer]\neps = 0.0", &["`job.optimizer.eps` is 0", "above zero"]),
        ("[job.optimizer]", "[job.optimizer]\nbeta1 = nan", &["`job.optimizer.beta1` is NaN"]),
        ("tied = false", "tied = false\nrope_theta = nan", &["`job.model.rope_theta` is NaN"]),
        ("[mesh]", "[sites]\ncount = 4611686018427387904\n[mesh]", &["`sites.count`"]),
        ("[mesh]", "[sites]\ncount = 2\nevery = 9223372036854775807\n[mesh]", &["`sites.every`"]),
    ];
    for &(from, to, says) in cases {
        refused(&place, "plan.toml", &tiny(&[(from, to)]), &["simulate", "plan.toml", "--cluster", "2x h100"], says);
    }
    let deep = tiny(&[]) + &format!("\n[{}a]\n", "a.".repeat(20_000));
    let says = [&format!("plan.toml:{}:1: ", deep.lines().count())[..], "too many parts"];
    refused(&place, "plan.toml", &deep, &["simulate", "plan.toml", "--cluster", "2x h100"], &says);
    let long = format!("microbatch = {}\n", "9".repeat(1_000_000));
    place.write("plan.toml", &long);
    let output = place.run(&["explain", "plan.toml", "--cluster", "2x h100"]);
    assert!(output.status.code() == Some(2) && output.stderr.len() < 10_000, "{} bytes", output.stderr.len());
}

#[test]
fn a_models_name_is_one_that_folders_and_tables_can_have() {
    let place = Place::new("inputs-names", "none", "");
    let long = "n".repeat(300);
    let names = [
        "../../escaped",
        "/tmp/absolute",
        "a/b",
        "..",
        "",
        "a\\u0000b",
        "a\\nb",
        "\\u001b[2Jred",
        "=1+1",
        "{{data}}",
        "-o",
        "a\\\\b",
        "</title><script>alert(1)</script>",
        &long,
    ];
    for name in names {
        let text = tiny(&[("name = \"tiny\"", &format!("name = \"{name}\""))]);
        let says = ["plan.toml:", "`job.model.name`"];
        refused(&place, "plan.toml", &text, &["simulate", "plan.toml", "--cluster", "2x h100"], &says);
    }
    for name in ["Llama 3.1 (8 B) + more", "größer_2", "x{{data}}", "a<b>&c"] {
        place.write("plan.toml", &tiny(&[("name = \"tiny\"", &format!("name = \"{name}\""))]));
        json(&place.run(&["simulate", "plan.toml", "--cluster", "2x h100", "--json"]));
    }
}

const MIXTURE: &str = r#"
name = "mixture"
architecture = "llama"
layers = 4
hidden = 64
heads = 4
kv_heads = 2
ffn = 128
vocab = 256
tied = false

[family]
head_dim = 16

[family.experts]
count = 8
top_k = 2
ffn = 128
"#;

#[test]
fn families_of_models_are_checked() {
    let place = Place::new("inputs-families", "none", "");
    let plan = ["plan", "model.toml", "--cluster", "8x h100", "--seq", "128", "--global-batch", "16"];
    let cases: &[(&str, &str, &str)] = &[
        ("top_k = 2", "top_k = 0", "`family.experts.top_k` is 0: a token goes to 1 to 8 experts"),
        ("top_k = 2", "top_k = 9", "`family.experts.top_k` is 9"),
        ("count = 8", "count = 0", "`family.experts.count` is 0"),
        ("count = 8", "count = 8\ncapacity = nan", "`family.experts.capacity` is NaN"),
        ("count = 8", "count = 8\ncapacity = -1.0", "`family.experts.capacity` is -1"),
        ("count = 8", "count = 8\nbalance = nan", "`family.experts.balance` is NaN"),
        ("count = 8", "count = 8\ndense_layers = 1000", "`family.experts.dense_layers` is 1000"),
        ("count = 8", "count = 8\nevery = 0", "`family.experts.every` is 0: it must be 1 to 4"),
        ("count = 8", "count = 8\nevery = 5", "`family.experts.every` is 5"),
        ("head_dim = 16", "head_dim = 0", "`family.head_dim` is 0"),
        ("head_dim = 16", "head_dim = 15", "`family.head_dim` is 15: rotary positions need an even width"),
        ("head_dim = 16", "decoder_layers = 0", "`family.decoder_layers` is 0"),
        ("head_dim = 16", "decoder_layers = 2\nbidirectional = true", "`family.bidirectional` is true"),
        (
            "head_dim = 16",
            "latent = { q_rank = 0, kv_rank = 8, nope = 8, rope = 3, value = 8 }",
            "`family.latent.rope` is 3",
        ),
        (
            "head_dim = 16",
            "latent = { q_rank = 0, kv_rank = 8, nope = 8, rope = 2, value = 0 }",
            "`family.latent.value` is 0",
        ),
        ("head_dim = 16", "latent = { q_rank = 0, kv_rank = 8, nope = 8, rope = 2, value = 11 }", "no wider than keys"),
    ];
    for &(from, to, says) in cases {
        assert!(MIXTURE.contains(from), "{from}");
        refused(&place, "model.toml", &MIXTURE.replacen(from, to, 1), &plan, &["model.toml:", says]);
    }
    let huge = MIXTURE.replace("hidden = 64", "hidden = 1048576").replace("ffn = 128", "ffn = 16777216");
    refused(&place, "model.toml", &huge, &plan, &["`hidden` is 1048576", "parameters"]);
    place.write("model.toml", MIXTURE);
    json(&place.run(&[&plan[..], &["--json"]].concat()));
}

#[test]
fn configurations_say_what_is_not_modelled() {
    let place = Place::new("inputs-configurations", "none", "");
    std::fs::create_dir_all(place.0.join("hub")).unwrap();
    let plan = ["plan", "hub/config.json", "--cluster", "8x h100", "--seq", "256", "--global-batch", "16", "--json"];
    let sizes = r#""hidden_size": 1024, "num_attention_heads": 8, "num_hidden_layers": 4, "intermediate_size": 2048, "vocab_size": 1024"#;
    let of = |more: &str| format!("{{{sizes}, {more}}}");
    let cases = [
        (r#""model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9"#, "`num_experts_per_tok` is 9"),
        (r#""model_type": "mixtral", "num_local_experts": 8"#, "`num_experts_per_tok` is missing"),
        (r#""model_type": "llama", "num_key_value_heads": -8"#, "`num_key_value_heads` is -8: it must be a count"),
        (r#""model_type": "llama", "num_key_value_heads": "8""#, "`num_key_value_heads` is \"8\": it must be a count"),
        (
            r#""model_type": "llama", "tie_word_embeddings": "no""#,
            "`tie_word_embeddings` is \"no\": it must be true or false",
        ),
        (r#""model_type": "llama", "rope_theta": "x""#, "`rope_theta` is \"x\": it must be a number"),
        (
            r#""model_type": "llama", "layer_types": ["full_attention", "sliding_attention"]"#,
            "layers of unlike attention",
        ),
        (r#""model_type": "mamba""#, "`model_type` is mamba: of its 0.028 B parameters"),
        (r#""model_type": "no_such_model""#, "`model_type` is no_such_model"),
        (r#""torch_dtype": "bfloat16""#, "`model_type` is missing"),
        (r#""model_type": "albert", "num_hidden_groups": 1, "embedding_size": 128"#, "`model_type` is albert"),
        (r#""model_type": "nemotron_h", "hybrid_override_pattern": "MEM*""#, "`n_routed_experts` is missing"),
        (r#""model_type": "qwen3_5", "text_config": {"hidden_size": 64}"#, "`num_hidden_layers` is missing"),
        (r#""model_type": "gemma3", "text_config": {"hidden_size": 64}"#, "`num_attention_heads` is missing"),
        (
            r#""model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [1]"#,
            "`mlp_only_layers` is [1]",
        ),
        (r#""model_type": "hunyuan_v1_moe", "num_experts": 8, "moe_topk": [2, 2, 2, 1]"#, "`moe_topk` is [2,2,2,1]"),
        (r#""model_type": "opt", "word_embed_proj_dim": 512"#, "`word_embed_proj_dim` is 512"),
        (r#""model_type": "gemma""#, "`num_key_value_heads` is 16: it must divide"),
        (r#""model_type": "llama", "ffn_dim_multiplier": 1.5"#, "`ffn_dim_multiplier` is 1.5: this key is not read"),
        (r#""model_type": "mpt", "attn_config": {"attn_type": "multiquery_attention"}"#, "`attn_config`"),
        (
            r#""model_type": "ernie4_5_moe", "moe_num_experts": 8, "moe_k": 2, "moe_layer_end_index": 2"#,
            "`moe_layer_end_index` is 2",
        ),
        (
            r#""model_type": "deepseek_v2", "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_layer_freq": 2"#,
            "`moe_layer_freq` is 2",
        ),
    ];
    for (more, says) in cases {
        refused(&place, "hub/config.json", &of(more), &plan, &["hub/config.json:", says]);
    }
    // Those that are modelled, with what the plan's model is then.
    let experts = |at: &str| format!("/plan/job/model/family/experts/{at}");
    let cases = [
        (r#""model_type": "mistral", "sliding_window": 128"#, "/plan/job/model/family/window/tokens".to_owned(), "128"),
        (
            r#""model_type": "llama", "time_step_limit": [0.0, Infinity], "x": "a NaN""#,
            "/plan/job/model/layers".to_owned(),
            "4",
        ),
        (r#""model_type": "gemma", "num_key_value_heads": 8"#, "/plan/job/model/tied".to_owned(), "true"),
        (r#""model_type": "phi""#, "/plan/job/model/architecture".to_owned(), "\"gpt2\""),
        (r#""model_type": "gpt_bigcode""#, "/plan/job/model/kv_heads".to_owned(), "1"),
        (
            r#""model_type": "ernie4_5_moe", "moe_num_experts": 8, "moe_k": 2, "moe_layer_start_index": 1"#,
            experts("dense_layers"),
            "1",
        ),
        (r#""model_type": "hunyuan_v1_moe", "num_experts": 8, "moe_topk": [2, 2, 2, 2]"#, experts("top_k"), "2"),
        (
            r#""model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [0, 1]"#,
            experts("dense_layers"),
            "2",
        ),
    ];
    for (more, at, value) in cases {
        place.write("hub/config.json", &of(more));
        let planned = json(&place.run(&plan));
        assert_eq!(planned.pointer(&at).unwrap().to_string(), value, "{more}");
    }
    // What is left out is said.
    for (more, says) in [
        (r#""model_type": "glm4", "partial_rotary_factor": 0.5"#, "`partial_rotary_factor` is 0.5"),
        (
            r#""model_type": "minimax_m2", "num_experts_per_tok": 8, "num_local_experts": 8, "use_mtp": true"#,
            "`use_mtp` is true",
        ),
        (r#""model_type": "gemma", "num_key_value_heads": 4"#, "`head_dim` is missing: 256"),
        (r#""model_type": "bert""#, "token types and the head's own layer are counted"),
        (r#""model_type": "llama", "intermediate_size": null"#, "`intermediate_size` is missing: 4096"),
    ] {
        place.write("hub/config.json", &of(more));
        let output = place.run(&plan);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("note: hub/config.json: ") && said.contains(says), "{said}");
    }
}

#[test]
fn a_job_is_known_by_its_model_however_it_is_written() {
    let place = Place::new("inputs-jobs", "none", "");
    let job = "seq = 64\nglobal_batch = 8\n";
    let inner = [
        "name = \"tiny\"",
        "architecture = \"llama\"",
        "layers = 2",
        "hidden = 64",
        "heads = 4",
        "kv_heads = 2",
        "ffn = 128",
        "vocab = 256",
        "tied = false",
    ];
    let (lines, dotted) = (inner.join("\n"), inner.map(|line| format!("model.{line}")).join("\n"));
    let forms = [
        format!("{job}[model] # comment\n{lines}\n"),
        format!("{job}[ model ]\n{lines}\n"),
        format!("{job}model = {{ {} }}\n", inner.join(", ")),
        format!("{job}{dotted}\n"),
    ];
    for form in forms {
        place.write("job.toml", &form);
        let planned = json(&place.run(&["plan", "job.toml", "--cluster", "8x h100", "--json"]));
        assert_eq!(planned["plan"]["job"]["global_batch"], 8, "{form}");
    }
    let fixed = format!("{job}[fix]\nzero = 9\n[model]\n{lines}\n");
    refused(&place, "job.toml", &fixed, &["plan", "job.toml", "--cluster", "8x h100"], &["`fix.zero` is 9", "0 to 3"]);
    let target = format!("target_seq = 9\n{job}[model]\n{lines}\n");
    refused(&place, "job.toml", &target, &["plan", "job.toml", "--cluster", "8x h100"], &["`target_seq` is 9"]);
}

#[test]
fn options_and_clusters_are_bounded() {
    let place = Place::new("inputs-options", "none", "");
    let plan = ["plan", "demo-10m", "--cluster", "8x h100", "--seq", "64", "--global-batch", "8"];
    let cases: &[(&[&str], &str)] = &[
        (&["--zero", "9"], "--zero is 9: ZeRO has the stages 0 to 3"),
        (&["--ep", "0"], "--ep is 0"),
        (&["--ep", "3"], "--ep is 3: it must divide the model's experts, 1"),
        (&["--max-tp", "0"], "--max-tp is 0"),
        (&["--tp", "0"], "--tp is 0"),
        (&["--microbatch", "0"], "--microbatch is 0"),
        (&["--shard", "4", "--zero", "0"], "--shard is 4: ZeRO-0 shards nothing"),
        (&["--precision", "fp4"], "`h100` does not multiply fp4; its formats are fp32, tf32, bf16, fp16, fp8, int8"),
        (&["--tokens", "1e300 T"], "tokens"),
        (&["--tokens", "1e20 tokens"], "`goal.tokens`"),
        (&["--steps", "18446744073709551615"], "`steps`"),
        (&["--headroom", "nan"], "`goal.headroom` is NaN"),
    ];
    for (more, says) in cases {
        place.refused(&[&plan[..], *more].concat(), 2, &[says]);
    }
    // A ZeRO stage stands as it is fixed, though one replica has nothing to shard.
    let planned = json(&place.run(&[&plan[..], &["--zero", "3", "--dp", "1", "--json"]].concat()));
    assert_eq!(planned["plan"]["zero"], 3);
    // So do the ranks that it shards over: no plan without ZeRO is left.
    let planned = json(&place.run(&[&plan[..], &["--shard", "4", "--json"]].concat()));
    assert!(planned["plan"]["zero"] != 0 && planned["plan"]["mesh"]["dp"].as_u64() >= Some(4), "{planned}");
    let long = ["plan", "demo-10m", "--cluster", "8x h100", "--seq", "4611686018427387904", "--global-batch", "8"];
    place.refused(&long, 2, &["`seq` is 4611686018427387904"]);
    for cluster in [
        "4294967296x dgx-a100-80gb",
        "2305843009213693952x dgx-h100",
        "2305843009213693953x dgx-h100",
        "1048576x h100 + 1x h100",
        "65536x(32x h100) @ 10 Gbit/s 50 ms",
    ] {
        let arguments = ["plan", "demo-10m", "--cluster", cluster, "--seq", "64", "--global-batch", "8"];
        place.refused(&arguments, 2, &["at most 1048576 devices"]);
    }
    place.refused(
        &["plan", "demo-10m", "--cluster", "0x h100", "--seq", "64", "--global-batch", "8"],
        2,
        &["the count is 0"],
    );
}

#[test]
fn only_plain_files_are_read_and_those_that_cannot_be_end_with_1() {
    let place = Place::new("inputs-files", "plan.toml", &tiny(&[]));
    std::fs::create_dir_all(place.0.join("folder.toml")).unwrap();
    place.write("large.toml", &"# a line of a comment\n".repeat(1 << 18));
    let plan = ["--cluster", "2x h100", "--seq", "64", "--global-batch", "8"];
    for file in ["none.toml", "none.json", "folder.toml", "large.toml"] {
        place.refused(&[&["plan", file], &plan[..]].concat(), 1, &[file]);
        place.refused(&["simulate", file, "--cluster", "2x h100"], 1, &[file]);
        place.refused(&["explain", file, "--cluster", "2x h100"], 1, &[file]);
    }
    place.refused(&["simulate", "plan.toml", "--cluster", "none.toml"], 1, &["none.toml"]);
    place.refused(&["validate", "none.csv"], 1, &["none.csv"]);
    // Minutes of fitting are not begun for a folder that cannot take their result.
    place.refused(&["validate", "none.csv", "--fit", "nowhere"], 2, &["nowhere", "no folder `stacks`"]);
    place.refused(&["gains", "none.csv"], 1, &["none.csv"]);
    if cfg!(unix) {
        place.refused(&["simulate", "/dev/zero", "--cluster", "2x h100"], 1, &["/dev/zero", "no plain file"]);
        let mut piped = place.command(&["simulate", "/dev/stdin", "--cluster", "2x h100"]);
        let output = piped.stdin(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_missing_file_is_told_in_the_same_words_everywhere() {
    let place = Place::new("inputs-missing", "plan.toml", &tiny(&[]));
    place.write("job.toml", include_str!("cases/small-job.toml"));
    let commands: &[&[&str]] = &[
        &["plan", "none.toml", "--cluster", "2x h100", "--seq", "64", "--global-batch", "8"],
        &["plan", "job.toml", "--cluster", "none.toml"],
        &["plan", "job.toml", "--cluster", "2x h100 + none.toml"],
        &["simulate", "none.toml", "--cluster", "2x h100"],
        &["explain", "none.toml", "--cluster", "2x h100"],
        &["export", "none.toml", "--to", "megatron-lm", "-o", "launch"],
        &["import", "none.sh"],
        &["check", "none.yaml"],
        &["run", "none.toml"],
        &["run", "plan.toml", "--data", "none.txt"],
        &["run", "plan.toml", "--cluster", "none.toml"],
        &["demo", "--data", "none"],
        &["report", "plan.toml", "--measured", "none.log", "--cluster", "2x h100"],
        &["validate", "none.csv"],
        &["gains", "none.csv"],
        &["compare", "none.toml"],
        &["compare", "none.toml", "--cluster", "2x h100"],
    ];
    for command in commands {
        let file = command.iter().find_map(|word| Some(&word[word.find("none")?..])).unwrap();
        place.refused(command, 1, &[&format!("cannot read {file}: there is no such file")]);
    }
    place.refused(&["report", "none"], 1, &["none", "no run's folder"]);
    if cfg!(unix) {
        place.refused(&["run", "plan.toml", "--data", "/dev/zero"], 1, &["cannot read /dev/zero", "no plain file"]);
    }
}

#[test]
fn what_does_not_fit_is_said_first() {
    let place = Place::new("inputs-fits", "plan.toml", &tiny(&[]));
    place.write("job.toml", include_str!("cases/does-not-fit.toml"));
    let cluster = ["--cluster", "8x v100-16gb"];
    for command in [&["simulate", "job.toml"][..], &["explain", "job.toml", "--no-search"]] {
        let output = place.run(&[command, &cluster].concat());
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(3), "{why}");
        assert!(said.starts_with("does not fit: a rank needs ") && said.contains("more than can be used"), "{said}");
        assert!(why.contains("the plan does not fit") && !said.contains("next: "), "{why}");
        let output = place.run(&[command, &cluster, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(3));
        let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let left = figures["headroom_bytes"].as_i64().unwrap();
        assert!(figures["fits"] == false && left < -100_000_000_000, "{left}");
    }
    for command in [&["simulate", "plan.toml"][..], &["explain", "plan.toml", "--no-search"]] {
        let figures = json(&place.run(&[command, &["--cluster", "2x h100", "--json"]].concat()));
        let (peak, left) =
            (figures["peak_memory_bytes"].as_i64().unwrap(), figures["headroom_bytes"].as_i64().unwrap());
        assert!(figures["fits"] == true && peak + left > 60_000_000_000, "{peak} and {left}");
    }
    let arguments = ["plan", "demo-10m", "--cluster", "8x h100", "--seq", "64", "--global-batch", "8", "--json"];
    let planned = json(&place.run(&arguments));
    assert!(planned["fits"] == true && planned["headroom_bytes"].as_i64().unwrap() > 0);
    let never = ["explain", "plan.toml", "--cluster", "2x h100", "--no-search", "--mtbf", "1 ms"];
    place.refused(&never, 2, &["--mtbf is 1 ms", "never ends"]);
}
