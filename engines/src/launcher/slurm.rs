//! Slurm: a batch script, one task a node.

use super::Launcher;
use crate::engine::{SCRIPT, TextFile};
use crate::launch::Launch;

/// The file.
const FILE: &str = "job.sbatch";

/// `sbatch`.
pub struct Slurm;

impl Launcher for Slurm {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn title(&self) -> &'static str {
        "Slurm, a batch script with one task a node"
    }

    fn file(&self, launch: &Launch, stamp: &str) -> Option<TextFile> {
        let (name, nodes, per_node) = (launch.name(), launch.nodes, launch.per_node);
        let text = format!(
            "#!/bin/bash\n# {stamp}\n#SBATCH --job-name={name}\n#SBATCH --nodes={nodes}\n#SBATCH --ntasks-per-node=1\n\
             #SBATCH --gpus-per-node={per_node}\n#SBATCH --exclusive\n#SBATCH --time=24:00:00\n#SBATCH --output=%x-%j.log\n\
             # Yours: sbatch --account=… --partition=… --time=… {FILE}; some sites want --gres=gpu:{per_node}.\n\
             set -euo pipefail\ncd \"$SLURM_SUBMIT_DIR\"\n\
             MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n1)\n\
             MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))\nexport MASTER_ADDR MASTER_PORT\n\
             srun --kill-on-bad-exit=1 bash -c 'NNODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID exec bash {SCRIPT}'\n"
        );
        Some(TextFile::new(FILE, text))
    }

    fn usage(&self, _: &Launch) -> String {
        format!("sbatch {FILE}")
    }
}
