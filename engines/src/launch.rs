//! A launch: a plan on so many nodes, as any engine needs it.
//!
//! In: a plan, and the cluster it is for, if one is named. Out: [`Launch`].
//!
//! Invariant: `nodes · per_node` is the number of the plan's ranks.

use meshwright_hardware::profile::{AttentionKernel, Cluster, DeviceKind, Machine};
use meshwright_hardware::units::Precision;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::predict::Figures;

/// Devices a node where no cluster is named.
const USUAL_PER_NODE: usize = 8;

/// A plan on so many nodes.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What is decided.
    pub plan: Plan,
    /// Nodes.
    pub nodes: usize,
    /// Ranks on each of them.
    pub per_node: usize,
    /// What is known of them.
    pub hardware: Option<Machinery>,
}

/// The machines and what was predicted on them.
#[derive(Clone, Debug)]
pub struct Machinery {
    /// The cluster as it was named.
    pub cluster: String,
    /// Device, by its profile.
    pub device: String,
    /// What kind of device.
    pub kind: DeviceKind,
    /// Who makes it.
    pub vendor: String,
    /// Whether it multiplies in blocks of four bits: NVIDIA's Blackwell and later.
    pub narrow: bool,
    /// Name of the software stack that was priced.
    pub stack: String,
    /// Whether that has dropout.
    pub dropout: bool,
    /// Whether that keeps attention's scores.
    pub unfused: bool,
    /// What was predicted; nothing where the plan cannot be priced there.
    pub figures: Option<Figures>,
}

impl Machinery {
    /// Of a cluster under its stack.
    pub fn of(cluster: &Cluster, figures: Option<Figures>) -> Machinery {
        let device = &cluster.pools[0].device;
        Machinery {
            cluster: cluster.to_string(),
            device: device.name.clone(),
            kind: device.kind,
            vendor: device.vendor.clone(),
            narrow: device.peak.contains_key(&Precision::Fp4),
            stack: cluster.stack.name.clone(),
            dropout: cluster.stack.dropout,
            unfused: cluster.stack.attention == AttentionKernel::Unfused,
            figures,
        }
    }
}

impl Launch {
    /// Of a plan on a cluster, or on nodes of eight devices.
    pub fn new(plan: Plan, on: Option<(&Cluster, Option<Figures>)>) -> Launch {
        let ranks = plan.mesh.ranks() * plan.site_count();
        let count = |machine: &Machine| machine.system.count;
        let most = on.as_ref().and_then(|(cluster, _)| cluster.pools.iter().map(count).min());
        let most = most.unwrap_or(USUAL_PER_NODE).min(ranks);
        let per_node = (1..=most).rev().find(|per_node| ranks.is_multiple_of(*per_node)).unwrap_or(1);
        let hardware = on.map(|(cluster, figures)| Machinery::of(cluster, figures));
        Launch { plan, nodes: ranks / per_node, per_node, hardware }
    }

    /// All ranks.
    pub fn ranks(&self) -> usize {
        self.nodes * self.per_node
    }

    /// A name of letters, digits and dashes, as schedulers take it.
    pub fn name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.plan.job.model.name.chars().map(plain).take(40).collect();
        let name = name.trim_matches('-');
        if name.is_empty() { "model".to_owned() } else { name.to_owned() }
    }

    /// Whether devices are NVIDIA's Blackwell or later.
    pub fn narrow(&self) -> bool {
        self.hardware.as_ref().is_some_and(|hardware| hardware.narrow)
    }

    /// Whether devices are TPUs.
    pub fn on_tpus(&self) -> bool {
        self.hardware.as_ref().is_some_and(|hardware| hardware.kind == DeviceKind::Tpu)
    }

    /// What Kubernetes calls the devices.
    pub fn resource(&self) -> &'static str {
        match &self.hardware {
            Some(Machinery { kind: DeviceKind::Tpu, .. }) => "google.com/tpu",
            Some(Machinery { vendor, .. }) if vendor == "AMD" => "amd.com/gpu",
            _ => "nvidia.com/gpu",
        }
    }

    /// Dropout's probability: Megatron-LM's usual one under a stack that has dropout.
    pub fn dropout(&self) -> f32 {
        if self.hardware.as_ref().is_some_and(|hardware| hardware.dropout) { 0.1 } else { 0.0 }
    }

    /// Layers that recompute everything, at the beginning of each stage that has as many.
    pub fn full(&self) -> usize {
        self.plan.stages.iter().map(|stage| stage.full).max().unwrap_or(0)
    }

    /// Whether all layers of all stages recompute everything.
    pub fn full_everywhere(&self) -> bool {
        self.full() > 0 && self.plan.stages.iter().all(|stage| stage.full == stage.layers)
    }

    /// Whether layers recompute selectively.
    pub fn selective(&self) -> bool {
        self.plan.stages.iter().any(|stage| stage.selective > 0)
    }

    /// Whether all virtual stages have as many layers.
    pub fn even(&self) -> bool {
        self.plan.stages.windows(2).all(|two| two[0].layers == two[1].layers)
    }

    /// Layers of each virtual stage.
    pub fn layers(&self) -> Vec<usize> {
        self.plan.stages.iter().map(|Stage { layers, .. }| *layers).collect()
    }
}
