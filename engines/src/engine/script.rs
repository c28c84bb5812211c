//! `train.sh`: what one node runs, whatever starts it there.
//!
//! In: a launch, its engine's variables and placeholders, and the lines that start it. Out: the script.
//!
//! Invariant: launchers tell it where it is by four variables alone: `NNODES`, `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT`.

use std::fmt::Write;

use super::{Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::shell_word;

/// The script's name.
pub const SCRIPT: &str = "train.sh";

/// A line that says what wrote a file, for which release of an engine.
pub fn stamp(engine: &dyn Engine) -> String {
    let about = engine.about();
    format!("{} ({}), written by meshwright {}", about.title, about.version, env!("CARGO_PKG_VERSION"))
}

/// The script around the lines that start an engine.
pub fn script(engine: &dyn Engine, launch: &Launch, body: &str) -> TextFile {
    let (nodes, per_node) = (launch.nodes, launch.per_node);
    let mut text = format!(
        "#!/usr/bin/env bash\n# {}\n# {}\n# Runs once on each of {nodes} node(s) with {per_node} device(s).\nset -euo pipefail\ncd \"$(dirname \"$0\")\"\n",
        stamp(engine),
        launch.plan.summary(),
    );
    text += "\n# Where this node is among the others.\n";
    let places = [("NNODES", nodes.to_string()), ("NODE_RANK", "0".into()), ("MASTER_ADDR", "localhost".into())];
    for (name, usual) in places.into_iter().chain([("MASTER_PORT", "29500".into())]) {
        let _ = writeln!(text, "{name}=${{{name}:-{usual}}}");
    }
    text += "\n# Yours.\n";
    for Placeholder { name, until, what } in engine.yours() {
        let _ = writeln!(text, "{name}=${{{name}:-{until}}}  # {what}");
    }
    let variables = engine.environment(launch);
    if !variables.is_empty() {
        text += "\n";
    }
    for Variable { name, value, why } in variables {
        let _ = writeln!(text, "export {name}={}  # {why}", shell_word(&value));
    }
    TextFile::new(SCRIPT, format!("{text}\n{}\n", body.trim()))
}

/// The beginning of a command that starts a node's ranks by torchrun.
pub fn torchrun(launch: &Launch) -> String {
    format!(
        "torchrun --nnodes=\"$NNODES\" --nproc-per-node={} --node-rank=\"$NODE_RANK\" \\\n  --master-addr=\"$MASTER_ADDR\" --master-port=\"$MASTER_PORT\" \\\n  ",
        launch.per_node
    )
}

/// What every engine on NVIDIA's GPUs needs said of fp32 products.
pub fn tf32(launch: &Launch) -> Option<Variable> {
    use meshwright_hardware::units::Precision;
    let (value, why) = match launch.plan.job.precision {
        Precision::Tf32 => ("1", "products of fp32 matrices are TF32, as priced"),
        Precision::Fp32 => ("0", "products of fp32 matrices stay fp32, as priced"),
        _ => return None,
    };
    Some(Variable { name: "NVIDIA_TF32_OVERRIDE", value: value.to_owned(), why })
}
