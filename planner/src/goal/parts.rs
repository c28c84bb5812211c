//! Parts of a cluster: fewer whole nodes of it.
//!
//! In: a cluster. Out: clusters of fewer nodes, largest first.
//!
//! Of one pool: its halves, halves of these and so on, and three quarters of each. Of several: each pool alone and its halves,
//! and the halves of all together. Equal sites stay as many, each of fewer nodes.
//!
//! Invariant: every part has fewer devices than the cluster, and no two are alike.

use meshwright_hardware::profile::{Cluster, Machine};

/// All parts of a cluster that are looked at; of one pool, with three quarters only if they are wanted `between`.
pub fn parts(cluster: &Cluster, between: bool) -> Vec<Cluster> {
    let of = |pools: Vec<Machine>| Cluster { pools, ..cluster.clone() };
    let resized = |pool: &Machine, nodes: usize| Machine { nodes, ..pool.clone() };
    let mut all: Vec<Cluster> = Vec::new();
    match &cluster.pools[..] {
        [pool] => all.extend(sizes(pool.nodes, between).into_iter().map(|nodes| of(vec![resized(pool, nodes)]))),
        pools => {
            for pool in pools {
                all.push(of(vec![pool.clone()]));
                all.extend(sizes(pool.nodes, false).into_iter().map(|nodes| of(vec![resized(pool, nodes)])));
            }
            let most = pools.iter().map(|pool| pool.nodes).max().unwrap_or(1);
            let shares = (1..).map(|halvings| 1_usize << halvings).take_while(|&by| by <= most);
            // A pool too small to be cut stays whole.
            all.extend(shares.map(|by| of(pools.iter().map(|p| resized(p, (p.nodes / by).max(1))).collect())));
        }
    }
    all.retain(|part| part.devices() < cluster.devices());
    all.sort_by_key(|part| std::cmp::Reverse(part.devices()));
    let mut seen: Vec<Cluster> = Vec::new();
    for part in all {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen
}

/// Fewer nodes than `nodes`: halves, and with `between` three quarters too; descending.
fn sizes(nodes: usize, between: bool) -> Vec<usize> {
    let mut all = Vec::new();
    let mut left = nodes;
    while left > 1 {
        if between && left.is_multiple_of(4) {
            all.push(left / 4 * 3);
        }
        // An odd number's half: the even number below, which divides on.
        left = if left.is_multiple_of(2) { left / 2 } else { left - 1 };
        all.push(left);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(text: &str) -> Vec<Vec<usize>> {
        let all = parts(&Cluster::parse(text).unwrap(), true);
        all.iter().map(|part| part.pools.iter().map(|pool| pool.nodes).collect()).collect()
    }

    #[test]
    fn one_pool_is_halved_with_three_quarters_between() {
        assert_eq!(nodes("8x dgx-h100"), [[6], [4], [3], [2], [1]]);
        assert_eq!(nodes("5x dgx-h100"), [[4], [3], [2], [1]]);
        assert!(nodes("1x dgx-h100").is_empty() && nodes("4x h100").is_empty());
        assert!(nodes("2048x dgx-h100").len() < 22);
    }

    #[test]
    fn pools_stand_alone_or_are_halved_together() {
        let all = nodes("4x dgx-h100 + 2x dgx-a100-80gb");
        assert_eq!(all, [vec![4], vec![2, 1], vec![2], vec![2], vec![1, 1], vec![1], vec![1]]);
        let sites = parts(&Cluster::parse("2x(4x dgx-h100) @ 10 Gbit/s 50 ms").unwrap(), true);
        assert!(sites.iter().all(|part| part.sites() == 2) && sites.len() == 3);
    }
}
