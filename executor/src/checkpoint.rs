//! A run's state on disk: one folder a checkpoint, with a safetensors file a rank and a manifest of sizes and checksums.
//!
//! In: every rank's named tensors and what must not change between runs. Out: the same, bit for bit.
//!
//! Invariant: a folder named `step-N` is complete. It is written under another name and renamed when all of it is on
//! disk, and renamed again before it is deleted; so a run killed at any point leaves the checkpoints that were there.

mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use meshwright_hardware::files::{FileError, read_bytes};
use serde::{Deserialize, Serialize};

use crate::error::ExecutorError;
use files::{FileRecord, decode, encode, sync_folder, write_synced};

/// What says which files belong to a checkpoint; written last.
const MANIFEST: &str = "manifest.json";
/// In the name of a folder that is being written or deleted.
const UNFINISHED: &str = ".tmp-";

/// A rank's state.
#[derive(Clone, Debug, PartialEq)]
pub struct RankTensors {
    /// Whose.
    pub rank: usize,
    /// Flat tensors by name; names differ. Read back, they are in the order of the names.
    pub tensors: Vec<(String, Vec<f32>)>,
}

/// A checkpoint as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The step that comes next.
    pub step: usize,
    /// As saved.
    pub meta: serde_json::Value,
    /// As saved, in the order of the ranks.
    pub ranks: Vec<RankTensors>,
}

/// What a checkpoint's manifest says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    step: usize,
    meta: serde_json::Value,
    files: BTreeMap<String, FileRecord>,
    /// Of the manifest as compact JSON without this; older manifests have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
}

impl Manifest {
    /// The checksum of all else that it says.
    fn sum(&self) -> u32 {
        let said = serde_json::json!({ "step": self.step, "meta": self.meta, "files": self.files });
        crc32fast::hash(said.to_string().as_bytes())
    }
}

/// The checkpoints in a folder.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Checkpoints in `dir`, of which a save leaves the last `keep` (at least one). Touches nothing yet.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Checkpoints {
        Checkpoints { dir: dir.into(), keep: keep.max(1) }
    }

    /// Makes the folder, and those it lies in.
    ///
    /// # Errors
    /// [`ExecutorError::File`] naming the folder.
    pub fn make(self) -> Result<Checkpoints, ExecutorError> {
        fs::create_dir_all(&self.dir).map_err(FileError::write(&self.dir))?;
        Ok(self)
    }

    /// Saves the state before `step`, then deletes what is left of killed runs and all but the last checkpoints.
    ///
    /// # Errors
    /// [`ExecutorError::File`] naming the file, or the folder if what it lies in is gone; the checkpoints that were there are there
    /// still, and nothing of this one.
    pub fn save(&self, step: usize, meta: &serde_json::Value, ranks: &[RankTensors]) -> Result<(), ExecutorError> {
        self.present()?;
        self.delete_unfinished()?;
        let unfinished = self.unfinished(step);
        self.write(&unfinished, step, meta, ranks).inspect_err(|_| {
            // A full disk must not stay full of what is of no use.
            let _ = fs::remove_dir_all(&unfinished);
        })?;
        let finished = self.folder(step);
        if finished.exists() {
            self.delete(step, "replaced")?;
        }
        fs::rename(&unfinished, &finished).map_err(FileError::write(&finished))?;
        sync_folder(&self.dir)?;
        self.delete_before(step)
    }

    /// Makes the folder where it is missing, but not what it lies in: a run's folder that was renamed must not come up again.
    fn present(&self) -> Result<(), ExecutorError> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = "the folder it lies in is gone: was it renamed or deleted? Name it as it was";
                Err(FileError::write(&self.dir)(std::io::Error::new(ErrorKind::NotFound, why)).into())
            }
            made => Ok(made.map_err(FileError::write(&self.dir))?),
        }
    }

    /// Writes a checkpoint under another name.
    fn write(
        &self,
        unfinished: &Path,
        step: usize,
        meta: &serde_json::Value,
        ranks: &[RankTensors],
    ) -> Result<(), ExecutorError> {
        fs::create_dir(unfinished).map_err(FileError::write(unfinished))?;
        let mut files = BTreeMap::new();
        for rank in ranks {
            let name = rank_file(rank.rank);
            let bytes = encode(rank);
            write_synced(&unfinished.join(&name), &bytes)?;
            files.insert(name, FileRecord::of(&bytes));
        }
        let mut manifest = Manifest { step, meta: meta.clone(), files, crc32: None };
        manifest.crc32 = Some(manifest.sum());
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest's keys are text");
        write_synced(&unfinished.join(MANIFEST), text.as_bytes())?;
        sync_folder(unfinished)
    }

    /// The newest checkpoint; none if nothing was saved.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] if it is damaged, naming the file, what is wrong and what to do.
    pub fn latest(&self) -> Result<Option<Loaded>, ExecutorError> {
        let steps = self.steps()?;
        let Some((&step, before)) = steps.split_last() else { return Ok(None) };
        let load = || -> Result<Loaded, Damage> {
            let folder = self.folder(step);
            let manifest = read_manifest(&folder.join(MANIFEST), step)?;
            let ranks = manifest.files.iter().map(|(name, record)| read_rank(&folder.join(name), record));
            let mut ranks = ranks.collect::<Result<Vec<_>, Damage>>()?;
            ranks.sort_by_key(|rank| rank.rank);
            Ok(Loaded { step, meta: manifest.meta, ranks })
        };
        load().map(Some).map_err(|damage| {
            let rest = match before.last() {
                Some(before) => format!("the run then goes on from the one before, of step {before}"),
                None => "there is no earlier one, so the run then starts again".to_owned(),
            };
            let fix = format!("delete the folder {}: {rest}", self.folder(step).display());
            ExecutorError::bad_input("checkpoint", damage.file.display().to_string(), damage.why, fix)
        })
    }

    /// The steps of all complete checkpoints, rising.
    ///
    /// # Errors
    /// [`ExecutorError::File`] if the folder is there and cannot be read.
    pub fn steps(&self) -> Result<Vec<usize>, ExecutorError> {
        // Only names as a save writes them: `step-5` and `step-+7` are somebody else's.
        let step = |name: &String| {
            let step = name.strip_prefix("step-")?.parse().ok()?;
            (*name == folder_name(step)).then_some(step)
        };
        let mut steps: Vec<usize> = self.names()?.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>, ExecutorError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(FileError::read(&self.dir))?,
        };
        let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        Ok(entries.map(name).collect::<Result<_, _>>().map_err(FileError::read(&self.dir))?)
    }

    fn folder(&self, step: usize) -> PathBuf {
        self.dir.join(folder_name(step))
    }

    fn unfinished(&self, step: usize) -> PathBuf {
        self.dir.join(format!("{}{UNFINISHED}{}", folder_name(step), std::process::id()))
    }

    /// Deletes what runs that were killed left behind. Only a save does so: a reader must not take away what a run
    /// beside it is writing.
    fn delete_unfinished(&self) -> Result<(), ExecutorError> {
        let names = self.names()?;
        for name in names.iter().filter(|name| name.starts_with("step-") && name.contains(UNFINISHED)) {
            let folder = self.dir.join(name);
            fs::remove_dir_all(&folder).map_err(FileError::write(&folder))?;
        }
        Ok(())
    }

    /// Deletes the checkpoints before `step` that are not among the last `keep`.
    fn delete_before(&self, step: usize) -> Result<(), ExecutorError> {
        let before: Vec<usize> = self.steps()?.into_iter().filter(|&earlier| earlier < step).collect();
        let deleted = (before.len() + 1).saturating_sub(self.keep);
        before[..deleted].iter().try_for_each(|&step| self.delete(step, "deleted"))
    }

    /// Takes the name away first: half a folder never bears a complete one's.
    fn delete(&self, step: usize, why: &str) -> Result<(), ExecutorError> {
        let mut aside = self.unfinished(step).into_os_string();
        aside.push(format!("-{why}"));
        fs::rename(self.folder(step), &aside).map_err(FileError::write(self.folder(step)))?;
        Ok(fs::remove_dir_all(&aside).map_err(FileError::write(&aside))?)
    }
}

/// What is wrong with which file of a checkpoint.
#[derive(Debug)]
struct Damage {
    file: PathBuf,
    why: String,
}

fn folder_name(step: usize) -> String {
    format!("step-{step:08}")
}

fn rank_file(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

fn read_file(file: &Path) -> Result<Vec<u8>, Damage> {
    let unread =
        |error: FileError| Damage { file: file.to_owned(), why: format!("it cannot be read: {}", error.problem) };
    read_bytes(file, u64::MAX).map_err(unread)
}

fn read_manifest(file: &Path, step: usize) -> Result<Manifest, Damage> {
    let damage = |why| Damage { file: file.to_owned(), why };
    let manifest: Manifest =
        serde_json::from_slice(&read_file(file)?).map_err(|e| damage(format!("it is not a manifest: {e}")))?;
    if let Some(written) = manifest.crc32.filter(|&written| written != manifest.sum()) {
        return Err(damage(format!("its checksum is {:08x} where {written:08x} was written", manifest.sum())));
    }
    if manifest.step != step {
        return Err(damage(format!("it says step {} in the folder of step {step}", manifest.step)));
    }
    Ok(manifest)
}

fn read_rank(file: &Path, record: &FileRecord) -> Result<RankTensors, Damage> {
    let bytes = read_file(file)?;
    let damage = |why| Damage { file: file.to_owned(), why };
    record.check(&bytes).map_err(damage)?;
    decode(&bytes).map_err(damage)
}
