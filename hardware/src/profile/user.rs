//! Profiles of one's own: a file that says how a machine differs from a known one, and the folder that such files lie in.
//!
//! In: TOML. `device = "h100"` and `inherit = "dgx-h100"` name profiles of the catalog or of the folder; what stands beside them
//! is said anew. Out: a [`Machine`], or everything that is wrong with the file.
//!
//! Three forms, told apart by their keys: a machine (`nodes`, `[system]`, `[device]`), a system (the same keys as in the catalog's
//! files), a device, which stands in the system that is usual for what it inherits. Invariant: a value and its source are said together, never one of them over the other's.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, Error};

use super::{Catalog, DeviceProfile, Machine, ProfileError, System, catalog};
use crate::files::read_text;
use crate::input::Fault;

/// What a file of one's own is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Machine,
    System,
    Device,
}

impl Machine {
    /// Reads the machine in a file, whatever the file's name.
    pub fn read(file: &Path) -> Result<Self, ProfileError> {
        let name = file.display().to_string();
        Machine::from_toml(&name, &read_text(file)?)
    }

    /// Reads a machine file; errors name `file`, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, ProfileError> {
        check(file, text).map_err(|mut faults| faults.swap_remove(0))
    }
}

/// Everything that is wrong with a file: each value that cannot be read, each key that is missing or unknown, then the first figure
/// that contradicts another.
pub fn check(file: &str, text: &str) -> Result<Machine, Vec<ProfileError>> {
    let one = |error: ProfileError| vec![error];
    let table = DeTable::parse(text).map_err(|error| one(ProfileError::of_toml(file, text, &error)))?;
    let (table, form) = complete(file, text, table).map_err(one)?;
    let example =
        |name: &str| DeTable::parse(catalog().text(name).expect("it is embedded")).expect("it is read elsewhere");
    // Any will do.
    let known = &catalog().systems[0];
    let (device, system) = (example(&known.device), example(&known.name));
    let machine: Machine = match form {
        Form::Machine => {
            let mut whole = DeTable::parse("nodes = 1").expect("it is TOML");
            whole.get_mut().insert(word("system"), under(system));
            whole.get_mut().insert(word("device"), under(device));
            faults_of(file, text, table, &whole)?
        }
        Form::System => {
            let system: System = faults_of(file, text, table, &system)?;
            let device = named_device(&system.device).map_err(one)?;
            Machine { nodes: 1, system, device }
        }
        Form::Device => {
            let device: DeviceProfile = faults_of(file, text, table, &device)?;
            let usual = catalog().systems.iter().find(|system| system.device == device.name);
            let system = System { device: device.name.clone(), ..usual.unwrap_or(&catalog().systems[0]).clone() };
            Machine { nodes: 1, system, device }
        }
    };
    machine.checked(file, text, form == Form::Machine).map_err(one)
}

/// A file's table with what it inherits, and what it is of.
fn complete<'a>(
    file: &str,
    text: &'a str,
    mut table: Spanned<DeTable<'a>>,
) -> Result<(Spanned<DeTable<'a>>, Form), ProfileError> {
    let refused =
        |key: &str, name: &str, problem: String| ProfileError::of_fault(file, text, Fault::new(key, name, problem));
    let has = |table: &Spanned<DeTable>, key: &str| table.get_ref().contains_key(key);
    let inherited = take_name(table.get_mut(), "inherit");
    let parent =
        inherited.as_deref().map(|name| text_of(name).map_err(|error| refused("inherit", name, error.to_string())));
    let parent = parent.transpose()?;
    let of_device = |table: &Spanned<DeTable>| has(table, "peak") || has(table, "memory_bandwidth");
    let form = if has(&table, "nodes") || has(&table, "system") {
        Form::Machine
    } else if of_device(&table) || parent.as_ref().is_some_and(|parent| !has(parent, "device")) {
        Form::Device
    } else {
        Form::System
    };
    if form != Form::Machine {
        if let Some(parent) = parent {
            lay_over(table.get_mut(), parent.into_inner());
        }
        return Ok((table, form));
    }
    let root = table.get_mut();
    if !root.contains_key("nodes") {
        lay_over(root, DeTable::parse("nodes = 1").expect("it is TOML").into_inner());
    }
    let says_device = root.get("system").is_some_and(|system| system.get_ref().get("device").is_some());
    let mut system = part(root, "system", inherited.as_deref())
        .map_err(|(name, error)| refused("system", &name, error.to_string()))?;
    let usual = system.get("device").and_then(|device| device.get_ref().as_str()).map(str::to_owned);
    let device =
        part(root, "device", usual.as_deref()).map_err(|(name, error)| refused("device", &name, error.to_string()))?;
    // Which device need be said but once.
    if !says_device && let Some(name) = device.get("name").and_then(|name| name.get_ref().as_str()) {
        system.insert(word("device"), Spanned::new(0..0, DeValue::String(DeString::Owned(name.to_owned()))));
    }
    root.insert(word("system"), Spanned::new(0..0, DeValue::Table(system)));
    root.insert(word("device"), Spanned::new(0..0, DeValue::Table(device)));
    Ok((table, form))
}

/// The system or the device of a machine's file: by name, by what it inherits, or by itself.
fn part<'a>(root: &mut DeTable<'a>, key: &str, usual: Option<&str>) -> Result<DeTable<'a>, (String, ProfileError)> {
    let known = |name: &str| text_of(name).map(Spanned::into_inner).map_err(|error| (name.to_owned(), error));
    match root.remove(key).map(Spanned::into_inner) {
        None => usual.map_or(Ok(DeTable::new()), known),
        Some(DeValue::String(name)) => known(&name),
        Some(DeValue::Table(mut own)) => {
            let parent = take_name(&mut own, "inherit").or_else(|| usual.map(str::to_owned));
            // A table that says all of it by itself names its own device.
            let whole = own.contains_key("peak") || own.contains_key("scale_up") && own.contains_key("count");
            if let Some(parent) = parent.filter(|_| !whole) {
                lay_over(&mut own, known(&parent)?);
            }
            Ok(own)
        }
        Some(other) => Err((
            format!("{other:?}"),
            ProfileError::Cluster { text: key.to_owned(), problem: "it is a profile's name, or a table".to_owned() },
        )),
    }
}

/// Adds what an inherited table says and the own one does not. Figures, which have a value and a source, are whole.
fn lay_over<'a>(own: &mut DeTable<'a>, inherited: DeTable<'a>) {
    for (key, value) in inherited {
        let Some(mine) = own.get_mut(key.get_ref().as_ref()) else {
            own.insert(key, value);
            continue;
        };
        let whole = |table: &DeTable| ["value", "points", "share"].iter().any(|leaf| table.contains_key(*leaf));
        if let (DeValue::Table(mine), DeValue::Table(theirs)) = (mine.get_mut(), value.into_inner())
            && !whole(mine)
        {
            lay_over(mine, theirs);
        }
    }
}

/// What a table is read as, or all that is wrong with it. What cannot be read is put down and read as in an example, so that the rest
/// is read too.
fn faults_of<'a, T: DeserializeOwned>(
    file: &str,
    text: &str,
    mut table: Spanned<DeTable<'a>>,
    example: &Spanned<DeTable<'a>>,
) -> Result<T, Vec<ProfileError>> {
    let mut faults: Vec<ProfileError> = Vec::new();
    let mut settled = Vec::new();
    loop {
        let error = match T::deserialize(Deserializer::from(table.clone())) {
            Ok(_) if !faults.is_empty() => return Err(faults),
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        let Some(path) = place_of(&table, &error) else {
            faults.push(ProfileError::of_toml(file, text, &error));
            return Err(faults);
        };
        // What was taken out is missing then.
        if !settled.contains(&path) {
            faults.push(ProfileError::of_toml(file, text, &error));
        }
        if settled.iter().filter(|other| **other == path).count() > 2 {
            return Err(faults);
        }
        settle(&mut table, example, &path);
        settled.push(path);
    }
}

/// The key, from the root, that an error is about.
fn place_of(table: &Spanned<DeTable>, error: &Error) -> Option<Vec<String>> {
    let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let span = error.span();
    let root = span.is_none() || span.as_ref() == Some(&table.span());
    let mut path = if root { Vec::new() } else { path_of(table.get_ref(), &span?, missing.is_some())? };
    path.extend(missing.map(str::to_owned));
    (!path.is_empty()).then_some(path)
}

fn path_of(table: &DeTable, span: &std::ops::Range<usize>, of_table: bool) -> Option<Vec<String>> {
    for (key, value) in table {
        let name = || key.get_ref().to_string();
        let inside = match value.get_ref() {
            DeValue::Table(inner) => path_of(inner, span, of_table),
            _ => None,
        };
        if let Some(inside) = inside {
            return Some([vec![name()], inside].concat());
        }
        let is_it = value.span() == *span || (!of_table && key.span() == *span);
        // What is not the file's own has no place in it.
        if is_it && *span != (0..0) {
            return Some(vec![name()]);
        }
    }
    None
}

/// Makes a key what it is in the example, or takes it out.
fn settle<'a>(table: &mut Spanned<DeTable<'a>>, example: &Spanned<DeTable<'a>>, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let (mut own, mut other) = (Some(table.get_mut()), Some(example.get_ref()));
    for parent in parents {
        own = own.and_then(|own| own.get_mut(parent.as_str())).and_then(|value| match value.get_mut() {
            DeValue::Table(table) => Some(table),
            _ => None,
        });
        other = other.and_then(|other| other.get(parent.as_str())).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        });
    }
    let Some(own) = own else { return };
    own.remove(last.as_str());
    if let Some(value) = other.and_then(|other| other.get(last.as_str())) {
        own.insert(word(last), Spanned::new(0..0, value.get_ref().clone()));
    }
}

fn word<'a>(text: &str) -> Spanned<std::borrow::Cow<'a, str>> {
    Spanned::new(0..0, std::borrow::Cow::Owned(text.to_owned()))
}

fn under(table: Spanned<DeTable>) -> Spanned<DeValue> {
    Spanned::new(table.span(), DeValue::Table(table.into_inner()))
}

fn take_name(table: &mut DeTable, key: &str) -> Option<String> {
    let name = table.get(key).and_then(|name| name.get_ref().as_str()).map(str::to_owned)?;
    table.remove(key);
    Some(name)
}

/// The table of a known profile: the catalog's, or the folder's.
fn text_of(name: &str) -> Result<Spanned<DeTable<'static>>, ProfileError> {
    let text = match catalog().text(name) {
        Ok(text) => text,
        Err(error) => match file_of(name) {
            // A file's text lives as long as the command.
            Some(path) => Box::leak(read_text(&path)?.into_boxed_str()),
            None => return Err(error),
        },
    };
    let mut table = DeTable::parse(text).map_err(|error| ProfileError::of_toml(name, text, &error))?;
    unplace(table.get_mut());
    Ok(table)
}

/// Takes an inherited table's places away: errors are about the file that inherits it.
fn unplace(table: &mut DeTable) {
    let keys: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    for key in keys {
        let Some(value) = table.remove(key.as_str()) else { continue };
        let mut value = value.into_inner();
        if let DeValue::Table(inner) = &mut value {
            unplace(inner);
        }
        table.insert(word(&key), Spanned::new(0..0, value));
    }
}

fn named_device(name: &str) -> Result<DeviceProfile, ProfileError> {
    match catalog().device(name) {
        Ok(device) => Ok(device.clone()),
        Err(error) => match file_of(name) {
            Some(path) => Ok(Machine::read(&path)?.device),
            None => Err(error),
        },
    }
}

/// Where a user's profiles lie: `meshwright/profiles` in `XDG_CONFIG_HOME`, or in `~/.config`.
pub fn folder() -> Option<PathBuf> {
    let of = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = of("XDG_CONFIG_HOME").or_else(|| Some(of("HOME")?.join(".config")))?;
    Some(config.join("meshwright").join("profiles"))
}

/// Names of the profiles in the folder.
pub fn names() -> Vec<String> {
    let files = folder().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let name = |path: PathBuf| {
        let is_profile = path.extension().is_some_and(|extension| extension == "toml");
        is_profile.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned())).flatten()
    };
    let mut names: Vec<String> = files.filter_map(|entry| name(entry.path())).collect();
    names.sort();
    names
}

/// The folder's file of a name.
pub fn file_of(name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
    let path = folder()?.join(format!("{name}.toml"));
    (plain && path.is_file()).then_some(path)
}

impl Catalog {
    /// Whether a device or a system is of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.device(name).is_ok() || self.system(name).is_ok()
    }
}
