//! Kubernetes: a JobSet, or a TrainJob of Kubeflow's trainer; the folder goes in as a ConfigMap.

use super::Launcher;
use crate::engine::{SCRIPT, TextFile};
use crate::launch::Launch;

/// A JobSet: one indexed job, an index a node.
pub struct JobSet;

/// A TrainJob: the trainer says which node it is.
pub struct TrainJob;

/// What a container runs, given the variable that holds the node's place: files of a ConfigMap cannot be written beside.
fn command(rank: &str, address: &str) -> String {
    format!("cp -rL /plan /tmp/plan && cd /tmp/plan && NODE_RANK=${rank} MASTER_ADDR={address} exec bash {SCRIPT}")
}

fn usage(launch: &Launch, file: &str) -> String {
    format!("kubectl create configmap {}-plan --from-file=. && kubectl apply -f {file}", launch.name())
}

impl Launcher for JobSet {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn title(&self) -> &'static str {
        "Kubernetes, a JobSet (jobset.x-k8s.io/v1alpha2)"
    }

    fn file(&self, launch: &Launch, stamp: &str) -> Option<TextFile> {
        let (name, nodes, per_node, resource) = (launch.name(), launch.nodes, launch.per_node, launch.resource());
        let command = command("JOB_COMPLETION_INDEX", &format!("{name}-workers-0-0.{name}"));
        let text = format!(
            "# {stamp}\napiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata:\n  name: {name}\nspec:\n  failurePolicy:\n    maxRestarts: 3\n  \
             replicatedJobs:\n  - name: workers\n    replicas: 1\n    template:\n      spec:\n        parallelism: {nodes}\n        completions: {nodes}\n        \
             completionMode: Indexed\n        backoffLimit: 0\n        template:\n          spec:\n            restartPolicy: Never\n            \
             volumes:\n            - name: plan\n              configMap: {{name: {name}-plan}}\n            - name: shm\n              emptyDir: {{medium: Memory}}\n            \
             containers:\n            - name: trainer\n              image: YOUR-IMAGE\n              ports: [{{containerPort: 29500}}]\n              \
             command: [bash, -c]\n              args:\n              - {command}\n              volumeMounts:\n              - {{name: plan, mountPath: /plan}}\n              \
             - {{name: shm, mountPath: /dev/shm}}\n              resources:\n                limits: {{{resource}: \"{per_node}\"}}\n"
        );
        Some(TextFile::new("jobset.yaml", text))
    }

    fn usage(&self, launch: &Launch) -> String {
        usage(launch, "jobset.yaml")
    }
}

impl Launcher for TrainJob {
    fn name(&self) -> &'static str {
        "trainjob"
    }

    fn title(&self) -> &'static str {
        "Kubernetes, a TrainJob (trainer.kubeflow.org/v1alpha1)"
    }

    fn file(&self, launch: &Launch, stamp: &str) -> Option<TextFile> {
        let (name, nodes, per_node, resource) = (launch.name(), launch.nodes, launch.per_node, launch.resource());
        let command = command("PET_NODE_RANK", "$PET_MASTER_ADDR");
        let text = format!(
            "# {stamp}\napiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata:\n  name: {name}\nspec:\n  runtimeRef:\n    \
             name: torch-distributed\n    apiGroup: trainer.kubeflow.org\n    kind: ClusterTrainingRuntime\n  trainer:\n    image: YOUR-IMAGE  # with this folder at /plan\n    \
             command: [bash, -c]\n    args:\n    - {command}\n    numNodes: {nodes}\n    numProcPerNode: {per_node}\n    \
             resourcesPerNode:\n      limits: {{{resource}: \"{per_node}\"}}\n"
        );
        Some(TextFile::new("trainjob.yaml", text))
    }

    fn usage(&self, _: &Launch) -> String {
        "kubectl apply -f trainjob.yaml   # the image holds this folder at /plan".to_owned()
    }
}
