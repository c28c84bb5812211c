//! Values that mean nothing, by file and key.

/// Of a reader's first valid input: keys, and values that each must not have.
pub type Table = &'static [(&'static str, &'static [&'static str])];

/// Sizes: how many of something there are.
const NO_COUNT: &[&str] = &["0", "-1", "1.5", "nan", "\"x\"", "2305843009213693952", "18446744073709551616"];
/// Rates of learning.
const NO_RATE_OF_LEARNING: &[&str] = &["-1.0", "nan", "inf", "-inf", "\"x\""];
/// Other numbers of an optimizer.
const NO_NUMBER: &[&str] = &["-1.0", "nan", "inf", "1e30", "\"x\""];

pub const MODEL: Table = &[
    ("layers", NO_COUNT),
    ("hidden", NO_COUNT),
    ("heads", &["0", "-1", "7", "2305843009213693952"]),
    ("kv_heads", &["0", "-1", "3", "1024"]),
    ("ffn", NO_COUNT),
    ("vocab", NO_COUNT),
    ("rope_theta", &["0.0", "-1.0", "nan", "inf"]),
    ("name", &["\"\"", "\"../x\"", "\"a\\nb\"", "3"]),
    ("architecture", &["\"mamba\"", "\"\"", "1"]),
    ("tied", &["\"yes\"", "1"]),
];

pub const FAMILY: Table = &[
    ("family.head_dim", &["0", "-1", "15", "1000000"]),
    ("family.decoder_layers", &["0", "-1", "5000"]),
    (
        "family.experts",
        &[
            "{ count = 0, top_k = 1, ffn = 8 }",
            "{ count = 8, top_k = 9, ffn = 8 }",
            "{ count = 8, top_k = 0, ffn = 8 }",
        ],
    ),
    (
        "family.experts",
        &[
            "{ count = 8, top_k = 2, ffn = 0 }",
            "{ count = 8, top_k = 2, ffn = 8, capacity = nan }",
            "{ count = 8, top_k = 2, ffn = 8, capacity = -1.0 }",
        ],
    ),
    (
        "family.experts",
        &[
            "{ count = 8, top_k = 2, ffn = 8, balance = -1.0 }",
            "{ count = 8, top_k = 2, ffn = 8, every = 0 }",
            "{ count = 8, top_k = 2, ffn = 8, dense_layers = 999 }",
        ],
    ),
];

pub const JOB: Table = &[
    ("seq", NO_COUNT),
    ("global_batch", NO_COUNT),
    ("steps", &["0", "-1", "1.5", "10000000000000"]),
    ("seed", &["-1", "1.5"]),
    ("precision", &["\"fp7\"", "\"\"", "16"]),
    ("packed", &["0", "7", "-1"]),
    ("target_seq", &["0", "64"]),
    ("pure", &["1"]),
    ("stack", &["1"]),
    ("optimizer.lr", NO_RATE_OF_LEARNING),
    ("optimizer.min_lr", NO_RATE_OF_LEARNING),
    ("optimizer.weight_decay", NO_NUMBER),
    ("optimizer.clip", NO_NUMBER),
    ("optimizer.eps", &["0.0", "-1e-8", "nan", "inf", "2.0"]),
    ("optimizer.beta1", &["1.0", "1.5", "-0.1", "nan"]),
    ("optimizer.beta2", &["1.0", "1.5", "-0.1", "nan"]),
    ("optimizer.warmup_steps", &["-1", "1.5"]),
    ("optimizer.name", &["\"adamv\""]),
    (
        "tuning",
        &[
            "{ method = \"lora\", rank = 0 }",
            "{ method = \"lora\", rank = -8 }",
            "{ method = \"qqq\", rank = 8 }",
            "{ method = \"lora\", rank = 8, alpha = nan }",
            "{ method = \"lora\", rank = 8, targets = [\"x\"] }",
        ],
    ),
    ("fix.tp", &["0", "-1", "2305843009213693952", "1.5"]),
    ("fix.pp", &["0", "-1"]),
    ("fix.dp", &["0", "2305843009213693952"]),
    ("fix.zero", &["4", "9", "-1", "255"]),
    ("fix.microbatch", &["0", "-1"]),
    ("fix.chunks", &["0"]),
    ("fix.shard", &["0", "1"]),
    ("fix.max_tp", &["0"]),
    ("fix.schedule", &["\"2f2b\""]),
    ("goal.headroom", &["-0.1", "0.94", "1.0", "nan", "\"x\""]),
    ("goal.deadline", &["\"0 s\"", "\"-1 d\"", "\"30\"", "\"1e400 d\"", "30", "\"1e-9 s\"", "\"1e300 d\""]),
    ("goal.budget", &["\"$0\"", "\"$-5\"", "\"$1e400\"", "\"5\"", "5", "\"$1e300\""]),
    ("goal.objective", &["\"speed\""]),
];

pub const PLAN: Table = &[
    ("microbatch", &["0", "-1", "3", "2305843009213693952", "1.5"]),
    ("zero", &["4", "-1", "255"]),
    ("chunks", &["0", "5", "-1"]),
    ("schedule", &["\"2f2b\"", "1"]),
    ("sequence_parallel", &["\"x\""]),
    ("recompute_modules", &["[\"x\"]", "\"x\""]),
    ("shares", &["[0, 4]", "[1, 1]", "[-1, 5]", "[4]"]),
    ("mesh.dp", &["0", "-1", "3", "2305843009213693952"]),
    ("mesh.tp", &["0", "-1", "3", "8"]),
    ("mesh.pp", &["0", "-1", "3"]),
    ("mesh.cp", &["0", "-1", "3", "64"]),
    ("mesh.ep", &["0", "-1", "3"]),
    ("mesh.etp", &["0", "3"]),
    ("mesh.shard", &["0", "1", "3"]),
    ("mesh.order", &["\"x\""]),
    (
        "stages",
        &[
            "[]",
            "[{ layers = 1 }]",
            "[{ layers = -2 }]",
            "[{ layers = 2, full = 3 }]",
            "[{ layers = 2, offload = 3 }]",
            "[{ layers = 2, full = 2, selective = 1 }]",
        ],
    ),
    (
        "sites",
        &[
            "{ count = 0 }",
            "{ count = 3 }",
            "{ count = 2, every = 0 }",
            "{ count = 2, bits = 0 }",
            "{ count = 2, bits = 64 }",
            "{ count = 2, fragments = 0 }",
            "{ count = 2, every = 5, overlap = 9 }",
        ],
    ),
    ("job.model.heads", &["0", "3"]),
    ("job.seq", &["0", "-1"]),
];

const NO_RATE: &[&str] = &[
    "{ value = \"0 B/s\", source = \"s\" }",
    "{ value = \"-1 GB/s\", source = \"s\" }",
    "{ value = \"1e300 TB/s\", source = \"s\" }",
    "{ value = \"nan GB/s\", source = \"s\" }",
    "{ value = \"5\", source = \"s\" }",
    "{ value = 5, source = \"s\" }",
    "{ value = \"0.5 B/s\", source = \"s\" }",
    "{ value = \"5 GB/s\", source = \"\" }",
    "\"5 GB/s\"",
];
const NO_TIME: &[&str] = &[
    "{ value = \"0 s\", source = \"s\" }",
    "{ value = \"-1 us\", source = \"s\" }",
    "{ value = \"1e300 d\", source = \"s\" }",
    "{ value = \"5 m\", source = \"s\" }",
];
const NO_SHARE: &[&str] = &[
    "{ value = 0.0, source = \"s\" }",
    "{ value = -0.5, source = \"s\" }",
    "{ value = 1.5, source = \"s\" }",
    "{ value = nan, source = \"s\" }",
];

pub const MACHINE: Table = &[
    ("nodes", &["0", "-1", "2305843009213693952"]),
    ("system.count", &["0", "-1", "2305843009213693952"]),
    ("system.device", &["\"other\""]),
    ("system.scale_up.kind", &["\"string\""]),
    ("system.scale_up.dims", &["[0]", "[2, 2]"]),
    ("system.scale_up.bandwidth_per_device", NO_RATE),
    ("system.scale_up.latency", NO_TIME),
    ("system.scale_up.efficiency", NO_SHARE),
    (
        "system.price",
        &[
            "{ value = \"$0\", source = \"s\" }",
            "{ value = \"$-1\", source = \"s\" }",
            "{ value = \"$1e300\", source = \"s\" }",
        ],
    ),
    ("system.restart", NO_TIME),
    ("system.storage", NO_RATE),
    ("device.kind", &["\"quantum\""]),
    ("device.year", &["-1", "0", "20244"]),
    ("device.overlap", &["\"yes\"", "1"]),
    (
        "device.memory",
        &[
            "{ value = \"0 B\", source = \"s\" }",
            "{ value = \"-1 GiB\", source = \"s\" }",
            "{ value = \"1e9 PiB\", source = \"s\" }",
        ],
    ),
    ("device.memory_bandwidth", NO_RATE),
    (
        "device.peak",
        &[
            "{}",
            "{ bf16 = { value = \"0 FLOP/s\", source = \"s\" } }",
            "{ bf16 = { value = \"1e300 FLOP/s\", source = \"s\" } }",
            "{ fp7 = { value = \"1 TFLOP/s\", source = \"s\" } }",
        ],
    ),
    ("device.launch", NO_TIME),
    ("device.mtbf", NO_TIME),
    (
        "device.power",
        &[
            "{ value = \"0 W\", source = \"s\" }",
            "{ value = \"-1 W\", source = \"s\" }",
            "{ value = \"1e300 W\", source = \"s\" }",
        ],
    ),
    (
        "device.contention",
        &["{ value = -1.0, source = \"s\" }", "{ value = 100.0, source = \"s\" }", "{ value = nan, source = \"s\" }"],
    ),
    (
        "device.measured_mfu",
        &["{ bf16 = { value = 1.5, source = \"s\" } }", "{ bf16 = { value = 0.0, source = \"s\" } }"],
    ),
    (
        "device.efficiency.matmul",
        &[
            "{ points = [], source = \"s\" }",
            "{ points = [[0.0, 0.5]], source = \"s\" }",
            "{ points = [[1.0, 2.0]], source = \"s\" }",
            "{ points = [[2.0, 0.5], [1.0, 0.5]], source = \"s\" }",
            "{ points = [[1.0, nan]], source = \"s\" }",
            "{ points = [[1.0, 0.5]], source = \"\" }",
        ],
    ),
    (
        "device.curves",
        &[
            "{ zero = { samples = [] } }",
            "{ zero = { samples = [[1.0]] } }",
            "{ zero = { samples = [[1.0, -1.0, 1.0]] } }",
            "{ zero = { samples = [[1.0, 1e99, 1.0]] } }",
        ],
    ),
];

pub const STACK: Table = &[
    ("overheads.matmul", &["0.0", "1.5", "nan", "-1.0"]),
    ("overheads.host", &["-1.0", "inf", "1e9"]),
    ("overheads.scale_out", &["0.0", "2.0", "nan"]),
    ("memory.workspace", &["-1.0", "nan", "1e9"]),
    ("memory.fragments", &["-0.1", "inf"]),
    ("zero", &["4", "-1"]),
    ("attention", &["\"x\""]),
    ("loss", &["\"x\"", "2"]),
];

pub const CONFIGURATION: Table = &[
    ("num_hidden_layers", &["-1", "0", "1.5", "\"x\"", "1e30", "true", "[1, 2]"]),
    ("hidden_size", &["-1", "0", "1.5", "\"x\"", "2305843009213693952"]),
    ("num_attention_heads", &["-1", "0", "7", "NaN"]),
    ("num_key_value_heads", &["-8", "\"8\"", "7", "0"]),
    ("vocab_size", &["0", "-1", "NaN", "Infinity", "\"x\""]),
    ("intermediate_size", &["-1", "0", "\"x\""]),
    ("rope_theta", &["0", "-1", "NaN", "Infinity", "\"x\""]),
    ("tie_word_embeddings", &["\"no\"", "1"]),
    ("model_type", &["\"\"", "5", "\"no_such\""]),
    ("head_dim", &["0", "-1", "15", "\"x\""]),
    ("attention_dropout", &["1.5", "-0.1", "NaN", "\"x\""]),
    ("rms_norm_eps", &["-1", "NaN", "0", "\"x\""]),
    ("initializer_range", &["-1", "NaN", "\"x\""]),
    ("max_position_embeddings", &["-1", "0", "\"x\"", "NaN"]),
];

/// Of a file of prices that has `[own]`.
pub const OWN: Table = &[
    ("own.pue", &["0.3", "0.0", "-1.0", "nan"]),
    ("own.utilisation", &["0.0", "1.5", "-0.5", "nan"]),
    ("own.power_share", &["0.0", "2.0"]),
    ("own.life_years", &["0.0", "-4.0", "inf"]),
    ("own.residual_share", &["1.0", "-0.1"]),
    ("own.interest_rate", &["-0.1", "nan"]),
    ("own.usd_per_kwh", &["inf", "\"x\""]),
    ("currency", &["{ name = \"EUR\", usd = 0.0 }", "{ name = \"EUR\", usd = -1.0 }", "{ name = \"EUR\", usd = nan }"]),
    (
        "server",
        &[
            "[{ system = \"dgx-h100\", per_device = 0, date = \"2026\" }]",
            "[{ system = \"x\", per_device = 1, date = \"2026\" }]",
        ],
    ),
];

/// Of the first rent of a file.
pub const RENT: &[(&str, &str)] = &[
    ("usd_per_device_hour = 1.74", "usd_per_device_hour = 0.0"),
    ("usd_per_device_hour = 1.74", "usd_per_device_hour = -1.0"),
    ("usd_per_device_hour = 1.74", "usd_per_device_hour = nan"),
    ("usd_per_device_hour = 1.74", "usd_per_device_hour = inf"),
    ("usd_per_device_hour = 1.74", "usd_per_device_hour = \"4.1\""),
    ("term = \"1y\"", "term = \"2y\""),
    ("date = \"2026-09-19\"", "date = \"\""),
    ("kind = \"secondary\"", "kind = \"rumour\""),
];

/// Clusters.
pub const CLUSTERS: &[&str] = &[
    "",
    "0x h100",
    "-1x h100",
    "1.5x h100",
    "x h100",
    "8x",
    "8 h100",
    "2305843009213693952x dgx-h100",
    "2305843009213693953x dgx-h100",
    "18446744073709551616x h100",
    "1048577x h100",
    "8x h1000",
    "8x h100 +",
    "+ 8x h100",
    "8x h100 + 0x h100",
    "4x(8x h100)",
    "0x(8x h100) @ 10 Gbit/s 50 ms",
    "4x(8x h100) @ 0 Gbit/s 50 ms",
    "4x(8x h100) @ 10 50",
    "4x(8x h100) @ -1 Gbit/s 5 ms",
    "4x() @ 10 Gbit/s 50 ms",
    "4x(8x h100) @ 10 Gbit/s -5 ms",
    "4x(8x h100) @ nan Gbit/s 5 ms",
    "4x(8x h100) @ 1e300 TB/s 5 ms",
    "4x(8x h100) @ 1 GB/s 1e300 d",
    "9x h100",
];

/// Quantities of no kind.
pub const QUANTITIES: &[&str] = &[
    "", "5", "-5 GB", "nan s", "inf s", "1e400 T", "1e400", "5 parsec", "$", "$-1", "$x", "GB", "1 2 GB", "0x5 s",
    "$1e400", "5 GB/h",
];
