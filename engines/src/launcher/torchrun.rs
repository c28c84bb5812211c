//! By hand: the script on each node.

use super::Launcher;
use crate::engine::{SCRIPT, TextFile};
use crate::launch::Launch;

/// No file of its own.
pub struct ByHand;

impl Launcher for ByHand {
    fn name(&self) -> &'static str {
        "torchrun"
    }

    fn title(&self) -> &'static str {
        "by hand, once on each node"
    }

    fn file(&self, _: &Launch, _: &str) -> Option<TextFile> {
        None
    }

    fn usage(&self, launch: &Launch) -> String {
        match launch.nodes {
            1 => format!("bash {SCRIPT}"),
            nodes => format!(
                "NODE_RANK=0 MASTER_ADDR=FIRST_NODE bash {SCRIPT}   # on each node, NODE_RANK 0 to {}",
                nodes - 1
            ),
        }
    }
}
