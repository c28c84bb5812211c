//! Runs on real accelerators that are kept under `reports/`: from the calibrated profile alone, step time is predicted within
//! 10 % and memory within 5 %.

use std::path::Path;

use meshwright::runs::RunDir;
use meshwright_planner::predict::predict;

#[test]
fn runs_on_an_h200_are_predicted_from_its_calibration() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/h200");
    let mut runs = 0;
    for entry in all.read_dir().unwrap().flatten() {
        let dir = RunDir::open(&entry.path()).unwrap();
        let (plan, cluster, measured) = (dir.plan().unwrap(), dir.cluster().unwrap(), dir.measured().unwrap());
        let predicted = predict(&plan, &cluster).unwrap().figures;
        let off = |predicted: f64, measured: f64| (predicted / measured - 1.0).abs();
        let step = off(predicted.step_time_s, measured.step_time_s);
        let memory = off(predicted.peak_memory_bytes as f64, measured.peak_memory_bytes as f64);
        assert!(step < 0.1 && memory < 0.05, "{}: step {step}, memory {memory}", entry.path().display());
        assert!(cluster.pools[0].device.calibrated.is_some() && measured.device.contains("H200"));
        runs += 1;
    }
    assert_eq!(runs, 4);
}
