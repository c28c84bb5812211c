//! Configurations by a folder, or by a hub's name in the local cache.
//!
//! In: `folder`, or `org/name` that `huggingface_hub` has downloaded before. Out: the `config.json`, and how errors name it.
//!
//! Invariant: nothing is downloaded; what a path names comes before what a hub does.

use std::env::var_os;
use std::path::{Path, PathBuf};

use meshwright_hardware::files::read_text;

/// A configuration that is there.
pub(super) struct HubFile {
    /// Where.
    pub path: PathBuf,
    /// Its name to users, ending in `MODEL/config.json`.
    pub name: String,
}

/// What a folder, or the cache, holds of this name.
pub(super) fn find(name: &str) -> Option<HubFile> {
    let path = Path::new(name).join("config.json");
    let folder = path.is_file().then(|| HubFile { name: path.display().to_string(), path });
    folder.or_else(|| cached(&cache()?, name))
}

/// The cache's folder, as `huggingface_hub` finds it.
fn cache() -> Option<PathBuf> {
    let of = |key: &str| var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("HF_HUB_CACHE").or_else(|| of("HUGGINGFACE_HUB_CACHE")).or_else(|| {
        let caches = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
        let home = of("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))?;
        Some(home.join("hub"))
    })
}

/// The configuration of `org/name` in a cache: of its main branch, or else of what is there, the last by name.
fn cached(cache: &Path, name: &str) -> Option<HubFile> {
    let (org, model) = name.split_once('/')?;
    if [org, model].iter().any(|part| part.is_empty() || part.contains(['/', '\\'])) {
        return None;
    }
    let folder = cache.join(format!("models--{org}--{model}"));
    let snapshots = folder.join("snapshots");
    let main = read_text(folder.join("refs/main")).ok();
    let main = main.map(|revision| snapshots.join(revision.trim()).join("config.json")).filter(|path| path.is_file());
    let path = main.or_else(|| {
        let all = std::fs::read_dir(&snapshots).ok()?.flatten().map(|entry| entry.path().join("config.json"));
        all.filter(|path| path.is_file()).max()
    })?;
    Some(HubFile { path, name: format!("{name}/config.json") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_read_by_the_hubs_name_its_main_branch_first() {
        let cache = std::env::temp_dir().join(format!("meshwright-hub-{}", std::process::id()));
        let model = cache.join("models--org--model");
        for revision in ["aa", "bb"] {
            std::fs::create_dir_all(model.join("snapshots").join(revision)).unwrap();
            std::fs::write(model.join("snapshots").join(revision).join("config.json"), "{}").unwrap();
        }
        let revision = |name: &str| {
            let path = cached(&cache, name)?.path;
            Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
        };
        assert_eq!(revision("org/model").as_deref(), Some("bb"));
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("refs/main"), "aa\n").unwrap();
        assert_eq!(revision("org/model").as_deref(), Some("aa"));
        for other in ["org/other", "org/", "model", "org/../model"] {
            assert_eq!(revision(other), None, "{other}");
        }
        let found = find(&model.join("snapshots/bb").display().to_string()).unwrap();
        assert!(found.name.ends_with("bb/config.json") && found.path.is_file());
        std::fs::remove_dir_all(&cache).unwrap();
    }
}
