//! Times of collectives and of point-to-point messages: α–β models over the tiers of a group.
//!
//! In: a kind, the whole vector's bytes, a [`GroupLinks`]; or bytes and a [`Path`]. Out: seconds.
//!
//! Every step of an algorithm costs a latency α, every byte out of a rank 1/bandwidth (Hockney 1994). Costs of rings and
//! of the two all-to-alls: Thakur, Rabenseifner & Gropp 2005, §4; that no all-reduce sends less than a ring's: Patarasuk &
//! Yuan 2009. Groups over nodes reduce inside the nodes, then between equal places of the nodes; both tiers work at the
//! same time, on different chunks, as NCCL's rings do (NCCL documentation, NCCL_ALGO). On a torus each dim's ring carries
//! its part of the vector, the parts taking the dims in different orders (Jouppi et al. 2023, §2).
//!
//! Invariant: grows with bytes, and is zero only for groups of one and empty vectors.

use crate::profile::Routing;
use crate::program::Collective;
use crate::topology::{GroupLinks, Path, Ring};
use crate::units::{ByteRate, Bytes, Seconds};

/// The time of a collective; `bytes` is the whole vector of one rank, as in a program's views.
pub fn time(kind: Collective, bytes: Bytes, span: &GroupLinks) -> Seconds {
    if span.ranks <= 1 || bytes == Bytes(0) {
        return Seconds(0.0);
    }
    match kind {
        Collective::ReduceScatter | Collective::AllGather => pass(bytes, span),
        Collective::AllReduce if span.rings.is_empty() => (pass(bytes, span) * 2.0).min(trees(bytes, span)),
        Collective::AllReduce => pass(bytes, span) * 2.0,
        Collective::AllToAll => all_to_all(bytes, span),
        Collective::Rotate => rotate(bytes, span),
    }
}

/// The time of a message.
pub fn p2p(bytes: Bytes, path: &Path) -> Seconds {
    path.latency + bytes / path.bandwidth
}

/// Tokens to experts over nodes, a copy to each node: these leave beside what is spread inside the nodes, a copy to each expert
/// (DeepSeek-AI 2024, §3.2.2). `bytes` are those of a copy to each expert.
pub fn once_a_node(bytes: Bytes, routing: &Routing, span: &GroupLinks) -> Seconds {
    let Some(out) = span.out.filter(|_| span.ranks > 1) else { return time(Collective::AllToAll, bytes, span) };
    let copies = routing.other_nodes(span.nodes) / routing.top_k as f64;
    let inside = exchange(span.per_node, bytes.0 as f64 / span.per_node as f64, span.up);
    inside.max(exchange(span.nodes, bytes.0 as f64 * copies / (span.nodes - 1) as f64, out))
}

/// Everyone sends to the next at once: the slowest of the ring's ways counts.
fn rotate(bytes: Bytes, span: &GroupLinks) -> Seconds {
    let inside = if span.per_node > 1 { p2p(bytes, &span.up) } else { Seconds(0.0) };
    inside.max(span.out.map_or(Seconds(0.0), |out| p2p(bytes, &out)))
}

/// A reduce-scatter, or an all-gather, which is the same backwards: a ring in each node beside rings between nodes.
///
/// n ranks on a ring: (n − 1)·α + (n − 1)/n · bytes / bandwidth (Thakur et al. 2005, §4.1).
fn pass(bytes: Bytes, span: &GroupLinks) -> Seconds {
    let inside = (span.per_node > 1).then(|| share(bytes, span.per_node) / span.up.bandwidth.0);
    // Of a vector reduced in its node, each of the node's ranks takes its part to the other nodes.
    let between = span.out.map(|out| share(bytes, span.nodes) / (out.bandwidth.0 * span.rails as f64));
    let steps = ring_latency(span) + span.out.map_or(Seconds(0.0), |out| out.latency * (span.nodes - 1) as f64);
    steps + Seconds(inside.unwrap_or(0.0).max(between.unwrap_or(0.0)))
}

/// What a ring of `n` moves out of each rank in one pass.
fn share(bytes: Bytes, n: usize) -> f64 {
    bytes.0 as f64 * (n - 1) as f64 / n as f64
}

/// The steps of a pass inside a node. On a torus dim after dim; a closed ring is gone round both ways at once.
fn ring_latency(span: &GroupLinks) -> Seconds {
    if span.rings.is_empty() {
        return span.up.latency * (span.per_node - 1) as f64;
    }
    let along = |ring: &Ring| ring.path.latency * if ring.closed { ring.size / 2 } else { ring.size - 1 } as f64;
    span.rings.iter().map(along).sum()
}

/// An all-reduce up and down two trees, each carrying half of the vector, in a pipeline of chunks: logarithmically many
/// steps for a bandwidth that is a little less than a ring's (Sanders, Speck & Träff 2009; NCCL's double binary trees).
fn trees(bytes: Bytes, span: &GroupLinks) -> Seconds {
    let depth = |n: usize| n.next_power_of_two().ilog2() as f64;
    let inside = (span.per_node > 1).then(|| bytes / span.up.bandwidth);
    let between = span.out.map(|out| bytes / (out.bandwidth * span.rails as f64));
    let out_steps = span.out.map_or(Seconds(0.0), |out| out.latency * depth(span.nodes));
    let steps = span.up.latency * depth(span.per_node) + out_steps;
    (steps + inside.unwrap_or_default().max(between.unwrap_or_default())) * 2.0
}

/// Each rank sends a shard to every other: what stays in the node beside what leaves it.
fn all_to_all(bytes: Bytes, span: &GroupLinks) -> Seconds {
    let shard = bytes.0 as f64 / span.ranks as f64;
    let inside = if span.per_node == 1 {
        Seconds(0.0)
    } else if span.rings.is_empty() {
        exchange(span.per_node, shard, span.up)
    } else {
        across_torus(bytes, span)
    };
    let Some(out) = span.out else { return inside };
    // What goes to another node goes in one message, through the rank there that has the same place (NCCL's PXN).
    let leaving = shard * (span.ranks - span.rails) as f64;
    inside.max(exchange(span.nodes, leaving / (span.nodes - 1) as f64, out))
}

/// All-to-all of `n` on a switch, a shard for each other: pairwise, or by Bruck's log₂(n) steps of half the vector each, whichever is
/// faster (Thakur et al. 2005, §4.2).
fn exchange(n: usize, shard: f64, path: Path) -> Seconds {
    let rounds = n.next_power_of_two().ilog2() as f64;
    let pairwise = path.latency * (n - 1) as f64 + wire(shard * (n - 1) as f64, path.bandwidth);
    pairwise.min(path.latency * rounds + wire(shard * n as f64 / 2.0 * rounds, path.bandwidth))
}

fn wire(bytes: f64, bandwidth: ByteRate) -> Seconds {
    Seconds(bytes / bandwidth.0)
}

/// All-to-all on a torus: half of every vector crosses the middle of each ring, n/2 of them over both directions of the
/// cut, so the longest ring takes n/4 · bytes / bandwidth (bisection bound; Dally & Towles 2004, §5.2).
fn across_torus(bytes: Bytes, span: &GroupLinks) -> Seconds {
    let crossing = |ring: &Ring| wire(bytes.0 as f64 * ring.size as f64 / 4.0, ring.path.bandwidth);
    ring_latency(span) + span.rings.iter().map(crossing).fold(Seconds(0.0), Seconds::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Cluster;
    use crate::topology::Topology;
    use Collective::{AllGather, AllReduce, AllToAll, ReduceScatter};
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const KINDS: [Collective; 4] = [AllReduce, ReduceScatter, AllGather, AllToAll];

    fn span(cluster: &str, ranks: usize) -> GroupLinks {
        Topology::of(&Cluster::parse(cluster).unwrap()).span_strided(0, 1, ranks).unwrap()
    }

    /// Microseconds of nccl-tests and rccl-tests, with the tolerance: 25 % where bandwidth counts, a factor of two where
    /// latency does.
    #[test]
    fn near_published_measurements() {
        let measured = [
            // aiconfigurator 095f58a, NCCL 2.27.3 on A100 and 2.29.2 on H100
            ("dgx-a100-80gb", 8, AllReduce, 512 * MIB, 4225.9),
            ("dgx-a100-80gb", 8, AllReduce, 64 * MIB, 595.3),
            ("dgx-a100-80gb", 8, AllGather, 512 * MIB, 2288.0),
            ("dgx-a100-80gb", 8, ReduceScatter, 512 * MIB, 2207.1),
            ("dgx-a100-80gb", 8, AllToAll, 512 * MIB, 2313.5),
            ("dgx-a100-80gb", 4, AllReduce, 512 * MIB, 3716.3),
            ("dgx-a100-80gb", 8, AllReduce, 4 << 10, 21.43),
            ("dgx-a100-80gb", 8, AllGather, MIB, 26.79),
            ("dgx-a100-80gb", 8, AllToAll, MIB, 25.81),
            ("dgx-h100", 8, AllReduce, 512 * MIB, 2111.06),
            ("dgx-h100", 8, AllReduce, 64 * MIB, 324.53),
            ("dgx-h100", 8, AllGather, 512 * MIB, 1401.5),
            ("dgx-h100", 8, ReduceScatter, 512 * MIB, 1399.36),
            ("dgx-h100", 8, AllToAll, 512 * MIB, 1490.42),
            ("dgx-h100", 8, AllReduce, 4 << 10, 16.02),
            ("dgx-h100", 8, AllReduce, 4 * MIB, 50.49),
            ("dgx-b200", 8, AllReduce, 512 * MIB, 1334.56),
            ("dgx-b200", 8, AllGather, 512 * MIB, 761.42),
            // nccl-tests logs over two nodes: OCI (8 x 200 Gb/s and 8 x 400 Gb/s RoCE), Dell H200 (8 x 400 Gb/s)
            ("2x dgx-a100-40gb", 16, AllReduce, 8192 * MIB, 67689.0),
            ("2x dgx-h100", 16, AllReduce, 8192 * MIB, 34719.0),
            ("2x dgx-h200", 16, AllReduce, 1024 * MIB, 4388.55),
            // VIA-Research/vTrain trace/v100
            ("dgx-1v", 8, AllReduce, 1024 * MIB, 13969.0),
            ("dgx-1v", 2, AllReduce, 1024 * MIB, 47610.0),
            // stas00/ml-engineering, bus bandwidths of 312.9 and 47.7 GB/s at 4 GiB
            ("mi300x-8", 8, AllReduce, 4096 * MIB, 24021.0),
            ("mi300x-8", 2, AllReduce, 4096 * MIB, 90041.0),
        ];
        for (cluster, ranks, kind, bytes, micros) in measured {
            let ratio = time(kind, Bytes(bytes), &span(cluster, ranks)).0 * 1e6 / micros;
            let most = if bytes >= 64 * MIB { 1.25 } else { 2.0 };
            assert!(ratio < most && ratio > 1.0 / most, "{cluster} {ranks} {kind:?} {bytes}: {ratio:.2} of measured");
        }
    }

    #[test]
    fn a_torus_uses_all_its_dims() {
        let vector = Bytes(1 << 30);
        let pod = Topology::of(&Cluster::parse("tpu-v5e-pod").unwrap());
        let row = pod.span_strided(0, 1, 16).unwrap();
        let whole = pod.span_strided(0, 1, 256).unwrap();
        // V / (links x 45 GB/s): "How to Scale Your Model", chapter on sharding, all-gather over one axis and two.
        let bound = |links: f64, n: f64| vector.0 as f64 * (n - 1.0) / n / (links * 45e9);
        for (group, bound) in [(&row, bound(2.0, 16.0)), (&whole, bound(4.0, 256.0))] {
            let slower = time(AllGather, vector, group).0 / bound - 1.0;
            assert!((0.0..0.01).contains(&slower), "{slower}");
        }
        // All-to-all over a ring takes a quarter of the all-gather.
        let ratio = time(AllToAll, vector, &row) / time(AllGather, vector, &row);
        assert!(ratio > 3.0 && ratio < 4.3, "{ratio}");
    }

    #[test]
    fn one_rank_is_free_and_a_message_costs_latency_and_bytes() {
        let alone = span("dgx-h100", 1);
        assert!(KINDS.iter().all(|kind| time(*kind, Bytes(MIB), &alone) == Seconds(0.0)));
        let path = Path { latency: Seconds(1e-6), bandwidth: ByteRate(1e9) };
        assert!((p2p(Bytes(1000), &path).0 - 2e-6).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn more_bytes_take_longer(which in 0usize..6, stride in 1usize..20, size in 2usize..16, bytes in 1u64..1 << 34) {
            let text = ["6x dgx-1v", "40x dgx-a100-80gb", "tpu-v4-pod", "20x trn1-32xl", "40x dgx-h100 + 9x dgx-2", "40x mi300x-8"];
            let span = Topology::of(&Cluster::parse(text[which]).unwrap()).span_strided(3, stride.min(48 / size), size);
            let span = span.unwrap();
            for kind in KINDS {
                let (less, more) = (time(kind, Bytes(bytes), &span), time(kind, Bytes(bytes + bytes / 2 + 1), &span));
                prop_assert!(Seconds(0.0) < less && less < more, "{:?}: {} and {}", kind, less, more);
            }
            prop_assert!(time(AllGather, Bytes(bytes), &span) <= time(AllReduce, Bytes(bytes), &span));
        }

        #[test]
        fn tiers_beat_one_flat_ring(nodes in 2usize..64, per_node in 1usize..9, bytes in 1u64..1 << 34) {
            let cluster = Topology::of(&Cluster::parse("64x dgx-a100-80gb").unwrap());
            let span = if per_node == 8 {
                cluster.span_strided(0, 1, nodes * 8)
            } else {
                let ranks: Vec<_> = (0..nodes * per_node).map(|i| i / per_node * 8 + i % per_node).collect();
                cluster.span(&ranks)
            }.unwrap();
            let (n, out) = (span.ranks as f64, span.out.unwrap());
            let slowest = span.up.bandwidth.0.min(out.bandwidth.0 * span.rails as f64);
            let flat = 2.0 * (n - 1.0) * (out.latency.0 + bytes as f64 / n / slowest);
            prop_assert!(time(AllReduce, Bytes(bytes), &span).0 <= flat * (1.0 + 1e-12));
        }
    }
}
