//! How a stack brings tokens to the experts that other ranks hold, and how many copies of a token leave its node for that.
//!
//! In: to which experts a model's tokens go, nodes. Out: copies on the way between nodes.
//!
//! Invariant: never more copies than a token has experts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How tokens are brought to experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenDispatch {
    /// A copy to each of its experts, in one all-to-all.
    #[default]
    PerExpert,
    /// A copy to each node where it has experts, there spread over the links inside, and summed in the node on the way back
    /// (DeepSeek-AI 2024, §3.2.2; DeepEP; HybridEP).
    PerNode,
}

/// To which experts a model's tokens go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Routing {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts a token goes to.
    pub top_k: usize,
    /// Equal groups of neighbouring experts; one where tokens may go to any.
    pub groups: usize,
    /// Groups whose experts a token may go to.
    pub top_groups: usize,
}

impl Routing {
    /// Nodes other than its own that a token of even routing goes to, of so many that share the experts in order: over the number c of its
    /// groups that a node holds, (nodes − 1) · Σ P(c) · (1 − C(E − eᶜ, k) / C(E, k)), E experts in the token's groups, eᶜ of them there.
    pub fn other_nodes(&self, nodes: usize) -> f64 {
        let (groups, chosen) = (self.groups as f64, self.top_groups as f64);
        let of_group = self.experts as f64 / groups;
        let held = (groups / nodes as f64).max(1.0);
        let in_one = of_group.min(self.experts as f64 / nodes as f64);
        let missed = |there: f64| -> f64 {
            let all = chosen * of_group;
            (0..self.top_k).map(|i| ((all - there - i as f64) / (all - i as f64)).max(0.0)).product()
        };
        let held = held.floor();
        let reached: f64 = (0..=held as usize)
            .map(|c| {
                let c = c as f64;
                let chance = ways(held, c) * ways(groups - held, chosen - c) / ways(groups, chosen);
                chance * (1.0 - missed(c * in_one))
            })
            .sum();
        (nodes - 1) as f64 * reached
    }
}

/// In how many ways some of `n` can be taken.
fn ways(n: f64, some: f64) -> f64 {
    if some < 0.0 || some > n {
        return 0.0;
    }
    (0..some as usize).map(|i| (n - i as f64) / (i + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DeepSeek-V3 over 8 nodes, 32 experts a group and node: of 8 groups a token has 4, so that another node is one of them for half of
    /// the tokens; 8 of 128 experts all lie elsewhere in C(96, 8) / C(128, 8) = 0.0927 of these.
    #[test]
    fn a_token_goes_to_few_nodes_where_its_groups_are_few() {
        let v3 = Routing { experts: 256, top_k: 8, groups: 8, top_groups: 4 };
        assert!((v3.other_nodes(8) - 7.0 * 0.5 * (1.0 - 0.0927)).abs() < 1e-3, "{}", v3.other_nodes(8));
        // Two groups a node: of 8 groups 4 are chosen, neither of a node's two in C(6, 4) / C(8, 4) = 15/70 of all cases.
        assert!(v3.other_nodes(4) > 3.0 * (1.0 - 15.0 / 70.0) * 0.9 && v3.other_nodes(4) < 3.0 * (1.0 - 15.0 / 70.0));
        let free = Routing { groups: 1, top_groups: 1, ..v3 };
        assert!(free.other_nodes(8) > v3.other_nodes(8));
        // One expert a token: it is elsewhere in 7 of 8 cases, whatever the groups.
        for routing in [free, v3] {
            let one = Routing { top_k: 1, ..routing };
            assert!((one.other_nodes(8) - 7.0 / 8.0).abs() < 1e-9, "{routing:?}: {}", one.other_nodes(8));
        }
        // Over more nodes than groups, and never more copies than experts.
        for nodes in 2..=256 {
            for routing in [v3, free] {
                let copies = routing.other_nodes(nodes);
                assert!(copies > 0.0 && copies < 8.0, "{nodes}: {copies}");
            }
        }
    }
}
