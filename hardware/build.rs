//! Lists `profiles/{devices,systems,stacks}/*.toml` for the catalog to embed, so that a new profile is one new file.
//!
//! In: the directories. Out: `$OUT_DIR/profiles.rs` with `DEVICES`, `SYSTEMS` and `STACKS`: `(path, text)`, by name.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let mut code = String::new();
    for folder in ["devices", "systems", "stacks"] {
        let folder_path = Path::new(&root).join("profiles").join(folder);
        println!("cargo::rerun-if-changed={}", folder_path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder_path)? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(".toml")));
        }
        names.sort();
        code += &format!("/// `(path, text)` of each file in `profiles/{folder}`.\n");
        code += &format!("const {}: &[(&str, &str)] = &[\n", folder.to_uppercase());
        for name in names {
            let path = folder_path.join(&name);
            code += &format!("    ({:?}, include_str!({path:?})),\n", format!("profiles/{folder}/{name}"));
        }
        code += "];\n";
    }
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("profiles.rs"), code)
}
