//! Finds and opens libtorch, and the library that links it.
//!
//! In: `MESHWRIGHT_TORCH`, the folder of the command, Python. Out: the table of [`super::abi`].
//!
//! libtorch is opened first, by its whole path and for all to see: the library that needs it then finds it open, and no
//! loader path has to be set. Libraries stay open until the process ends.
//!
//! Invariant: each is opened once; a libtorch of another version than the library was built with is refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::os::unix::{Library as Opened, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::abi::{ABI, SYMBOL, Table};

/// The version of torch that `executor/torch` is for.
const VERSION: &str = "2.11.";
/// The library that `scripts/torch` builds.
const OURS: &str = "libmeshwright_torch.so";
/// Its part that links CUDA's libraries.
const OURS_CUDA: &str = "libmeshwright_torch_cuda.so";
const TORCH: &str = "libtorch_cpu.so";
const TORCH_CUDA: &str = "libtorch_cuda.so";
/// Names folders to look in, as `PATH` does.
const VARIABLE: &str = "MESHWRIGHT_TORCH";
/// Prints where Python would import torch from, without importing it.
const PYTHON: &str =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";

/// An opened libtorch with the library that links it.
pub struct Library {
    /// What it can do.
    pub table: &'static Table,
    /// Torch's version.
    pub version: String,
    /// The folder of [`TORCH`].
    torch: PathBuf,
}

/// Libtorch without CUDA.
///
/// # Errors
/// What was looked for where, and what would do.
pub fn cpu() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref().map_err(Clone::clone)
}

/// How many CUDA devices libtorch sees, above zero.
///
/// # Errors
/// What of CUDA is missing.
pub fn cuda(library: &'static Library) -> Result<u32, String> {
    static DEVICES: OnceLock<Result<u32, String>> = OnceLock::new();
    let open = || {
        open_global(&library.torch.join(TORCH_CUDA))?;
        let folders = folders();
        let ours = folders.iter().map(|folder| folder.join(OURS_CUDA)).find(|path| path.is_file());
        open_global(&ours.ok_or_else(|| unbuilt(OURS_CUDA, &folders))?)?;
        // SAFETY: both parts of the library are open.
        let devices = unsafe { (library.table.cuda_devices)() };
        let none = "libtorch has CUDA, but sees no device: there is no NVIDIA GPU, or no driver for it";
        if devices > 0 { Ok(devices) } else { Err(none.to_owned()) }
    };
    DEVICES.get_or_init(open).clone()
}

fn open() -> Result<Library, String> {
    let folders = folders();
    let ours = folders.iter().map(|folder| folder.join(OURS)).find(|path| path.is_file());
    let ours = ours.ok_or_else(|| unbuilt(OURS, &folders))?;
    let torch = folders.iter().flat_map(|folder| inside(folder)).find(|folder| folder.join(TORCH).is_file());
    let torch = torch.or_else(of_python).ok_or_else(|| {
        let places = listed(&folders);
        format!(
            "{TORCH} is neither in {places} nor where python3 imports torch from; pip install torch=={VERSION}0 gets it"
        )
    })?;
    let version = version(&torch)?;
    open_global(&torch.join(TORCH))?;
    // SAFETY: opening runs constructors: those of torch's headers, which register types.
    let library = unsafe { Opened::open(Some(&ours), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| refused(&ours, &e))?;
    // SAFETY: the symbol is a function of this type in every library of that name.
    let table = unsafe { library.get::<unsafe extern "C" fn() -> *const Table>(SYMBOL.as_bytes()) };
    let table = table.map_err(|e| refused(&ours, &e))?;
    // SAFETY: it gives a table that lives as long as the library, whose first field is its version.
    let table = unsafe { &*table() };
    if table.abi != ABI {
        return Err(format!("{} is of another version of Meshwright; scripts/torch builds it anew", ours.display()));
    }
    // Torch runs threads of its own, so that nothing of it can be unloaded.
    std::mem::forget(library);
    Ok(Library { table, version, torch })
}

fn unbuilt(library: &str, folders: &[PathBuf]) -> String {
    format!("{library} is in none of {}; scripts/torch builds it, or name its folder in {VARIABLE}", listed(folders))
}

/// Opens a library for all that are opened later to see.
fn open_global(path: &Path) -> Result<(), String> {
    // SAFETY: opening runs constructors: those of torch and of what it needs.
    let library = unsafe { Opened::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| refused(path, &e))?;
    std::mem::forget(library);
    Ok(())
}

fn refused(path: &Path, error: &libloading::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{} cannot be opened: {cause}", path.display())
}

/// Where to look: folders that the user names, a folder `torch` beside the command or one or two above, as `target/torch`
/// is, and that of the command.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).unwrap_or_default();
    let command = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
    let beside = command.ancestors().skip(1).take(3).map(|folder| folder.join("torch"));
    named.chain(beside).chain(command.parent().map(Path::to_owned)).collect()
}

/// Where libtorch may lie in a folder: in it, in an unpacked libtorch, in site-packages, in a virtual environment.
pub(super) fn inside(folder: &Path) -> Vec<PathBuf> {
    let mut all = ["", "lib", "torch/lib"].map(|part| folder.join(part)).to_vec();
    let pythons = folder.join("lib").read_dir().into_iter().flatten().flatten();
    let mut pythons: Vec<PathBuf> = pythons.map(|entry| entry.path().join("site-packages/torch/lib")).collect();
    pythons.sort();
    all.extend(pythons);
    all
}

/// The libtorch that Python would import.
fn of_python() -> Option<PathBuf> {
    let output = Command::new("python3").args(["-c", PYTHON]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    let folder = Path::new(folder.trim_end()).join("lib");
    folder.join(TORCH).is_file().then_some(folder)
}

/// The version of the libtorch in a folder: a wheel says it in `version.py`, an archive in `build-version`.
pub(super) fn version(torch: &Path) -> Result<String, String> {
    let above = torch.parent().unwrap_or(torch);
    let python = std::fs::read_to_string(above.join("version.py")).unwrap_or_default();
    let stated =
        python.lines().find_map(|line| line.strip_prefix("__version__ = ")).map(|v| v.trim_matches(['\'', '"']));
    let archive = std::fs::read_to_string(above.join("build-version")).unwrap_or_default();
    let version = stated.unwrap_or(archive.trim());
    match version {
        "" => Err(format!("{} has no version.py or build-version above it: which torch is it?", torch.display())),
        version if !version.starts_with(VERSION) => {
            Err(format!("{} is torch {version}; {VERSION}0 is needed", torch.display()))
        }
        version => Ok(version.to_owned()),
    }
}

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}
