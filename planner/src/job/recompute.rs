//! What of a layer's activations is made again in backward.
//!
//! In: a plan's stages, what is fixed. Out: [`Recompute`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What of a layer's activations is made again in backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: all that backward reads is kept.
    None,
    /// The outputs of norms and activations: large, and cheap to make again (attention never stores its scores).
    Selective,
    /// Everything but the layer's input (Chen et al. 2016).
    Full,
}

impl Recompute {
    /// Every mode, by memory: most first.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Selective, Recompute::Full];

    /// Name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::None => "none",
            Recompute::Selective => "selective",
            Recompute::Full => "full",
        }
    }
}

impl std::str::FromStr for Recompute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Recompute::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| format!("unknown kind `{text}`; known: none, selective, full"))
    }
}
