//! Compiles what tch does not wrap of libtorch, with the feature `torch` alone.

fn main() {
    #[cfg(feature = "torch")]
    compile();
}

#[cfg(feature = "torch")]
fn compile() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys looks there too.
    let torch = std::env::var("LIBTORCH").expect("LIBTORCH names the folder of torch: scripts/torch sets it");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).include(format!("{torch}/include"));
    // Nobody asks for exceptions, so that loops with comparisons and roots become vectors; values stay as IEEE 754 has them.
    let vectors = ["-fno-trapping-math", "-fno-math-errno"];
    // ATen's loops run on all threads only where OpenMP is on; its runtime is libtorch's own, which is there when this is loaded.
    let mut fused = build.clone();
    for flag in vectors.iter().chain(&["-fopenmp"]) {
        fused.flag_if_supported(flag);
    }
    fused.opt_level(3).files(["cpp/fused.cpp", "cpp/attention.cpp", "cpp/pairs.cpp"]).compile("meshwright_fused");
    // Which variants of its kernels libtorch has, by processor: part of the type of their dispatcher.
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        build.define("HAVE_AVX2_CPU_DEFINITION", None).define("HAVE_AVX512_CPU_DEFINITION", None);
    }
    build.opt_level(2).files(["cpp/blas.cpp", "cpp/ffi.cpp", "cpp/memory.cpp"]).compile("meshwright_ffi");
}
