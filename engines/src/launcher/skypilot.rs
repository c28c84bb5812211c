//! SkyPilot: a task over several nodes of a cloud.

use super::Launcher;
use crate::engine::{SCRIPT, TextFile};
use crate::launch::Launch;

/// The file.
const FILE: &str = "task.yaml";

/// `sky launch`.
pub struct SkyPilot;

impl Launcher for SkyPilot {
    fn name(&self) -> &'static str {
        "skypilot"
    }

    fn title(&self) -> &'static str {
        "SkyPilot, a task of several nodes"
    }

    fn file(&self, launch: &Launch, stamp: &str) -> Option<TextFile> {
        let (name, nodes, per_node) = (launch.name(), launch.nodes, launch.per_node);
        // Clouds name accelerators as profiles do, in capitals.
        let device = launch.hardware.as_ref().map_or("H100".to_owned(), |hardware| hardware.device.to_uppercase());
        let text = format!(
            "# {stamp}\nname: {name}\nnum_nodes: {nodes}\nresources:\n  accelerators: {device}:{per_node}\nworkdir: .\nrun: |\n  \
             export MASTER_ADDR=$(echo \"$SKYPILOT_NODE_IPS\" | head -n1)\n  \
             NNODES=$SKYPILOT_NUM_NODES NODE_RANK=$SKYPILOT_NODE_RANK bash {SCRIPT}\n"
        );
        Some(TextFile::new(FILE, text))
    }

    fn usage(&self, launch: &Launch) -> String {
        format!("sky launch -c {} {FILE}", launch.name())
    }
}
