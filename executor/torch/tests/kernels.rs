//! The kernels of `cuda` beside plain code in f64, without a GPU: a C++ compiler takes them, with threads as fibers.
//!
//! fp16's conversions are instructions of the GPU's, so that fp32 and bf16 are all that is run here.

#![cfg(feature = "torch")]

use std::path::Path;
use std::process::Command;

#[test]
fn kernels_do_what_plain_code_does() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&place).unwrap();
    let files = ["common", "rows", "pointwise", "embed", "loss", "adamw"];
    let text = files.map(|file| std::fs::read_to_string(here.join(format!("cuda/{file}.cu"))).unwrap()).concat();
    std::fs::write(place.join("all.cu"), text).unwrap();
    for format in 0..2 {
        let program = place.join(format!("kernels{format}"));
        let mut compile = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
        compile.args(["-std=c++17", "-O1", "-w"]).arg(format!("-DFORMAT={format}")).arg("-I").arg(&place);
        let compiled = compile.arg(here.join("tests/kernels.cpp")).arg("-o").arg(&program).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let ran = Command::new(&program).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    }
}
