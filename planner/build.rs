//! Lists `models/*.toml` for [`crate::models`] to embed, so that a new model is one new file.
//!
//! In: the directory. Out: `$OUT_DIR/models.rs` with `FILES`: `(name, text)`, by name.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let folder = Path::new(&root).join("models");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        files.extend(entry?.file_name().into_string().ok().filter(|file| file.ends_with(".toml")));
    }
    files.sort();
    let mut code = String::from("/// `(name, text)` of each file in `models`.\nconst FILES: &[(&str, &str)] = &[\n");
    for file in files {
        let path = folder.join(&file);
        code += &format!("    ({:?}, include_str!({path:?})),\n", file.trim_end_matches(".toml"));
    }
    code += "];\n";
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("models.rs"), code)
}
