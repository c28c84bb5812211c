//! The profiles that are built in.
//!
//! In: `profiles/{devices,systems,stacks}/*.toml`, listed and embedded by the build script, `profiles/families.toml` and
//! `profiles/intervals.toml`. Out: [`catalog`] and its look-ups.
//!
//! Invariant: adding a profile is adding one file.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;

use super::inherited::families;
use super::{DeviceProfile, Intervals, ProfileError, Stack, StackFigures, System};
use crate::files::read_text;
use crate::input::near;

include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Devices and systems by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    /// Every device, by name.
    pub devices: Vec<DeviceProfile>,
    /// Every system, by name.
    pub systems: Vec<System>,
    /// Every software stack, by name.
    pub stacks: Vec<Arc<Stack>>,
    /// What stacks of a family share, by the family's name.
    pub families: BTreeMap<String, StackFigures>,
    /// How far measured runs lie from predictions under these stacks.
    pub intervals: Intervals,
}

/// The built-in profiles.
pub fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| embedded().unwrap_or_else(|error| panic!("{error}")));
    &CATALOG
}

/// Every embedded file parsed; the tests see that this cannot fail.
fn embedded() -> Result<Catalog, ProfileError> {
    let devices = DEVICES.iter().map(|(file, text)| DeviceProfile::from_toml(file, text)).collect::<Result<_, _>>()?;
    let systems = SYSTEMS.iter().map(|(file, text)| System::from_toml(file, text)).collect::<Result<_, _>>()?;
    let (file, text) = STACKS.iter().find(|(file, _)| *file == "profiles/stacks/typical.toml").expect("it is embedded");
    let everyone = StackFigures::of(&Stack::read(file, text, |_| StackFigures::default())?);
    let families = families("profiles/families.toml", include_str!("../../profiles/families.toml"), &everyone)?;
    let inherited = |stack: &Stack| match stack.name.as_str() {
        Stack::TYPICAL => StackFigures::default(),
        _ => families.get(&stack.family).unwrap_or(&everyone).clone(),
    };
    let stacks = STACKS.iter().map(|(file, text)| Stack::read(file, text, inherited).map(Arc::new));
    let stacks = stacks.collect::<Result<_, _>>()?;
    let intervals = strict("profiles/intervals.toml", include_str!("../../profiles/intervals.toml"))?;
    Ok(Catalog { devices, systems, stacks, families, intervals })
}

fn strict<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ProfileError> {
    toml::from_str(text).map_err(|error| ProfileError::of_toml(file, text, &error))
}

impl DeviceProfile {
    /// Reads a device profile; errors name `file`, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, ProfileError> {
        let device: DeviceProfile = strict(file, text)?;
        device.check().map_err(|fault| ProfileError::of_fault(file, text, fault))?;
        Ok(device)
    }
}

impl System {
    /// Reads a system profile; errors name `file`, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, ProfileError> {
        let system: System = strict(file, text)?;
        system.check().map_err(|fault| ProfileError::of_fault(file, text, fault))?;
        Ok(system)
    }
}

impl Stack {
    /// The stack that adds nothing to a machine.
    pub fn ideal() -> Arc<Stack> {
        Arc::clone(catalog().stack(Stack::IDEAL).expect("it is embedded"))
    }

    /// Reads a stack profile, which has what it leaves out of its family; errors name `file`, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, ProfileError> {
        Stack::read(file, text, |stack| catalog().inherited(&stack.family))
    }

    fn read(file: &str, text: &str, inherited: impl Fn(&Stack) -> StackFigures) -> Result<Self, ProfileError> {
        let stated: Stack = strict(file, text)?;
        let figures = inherited(&stated);
        let stack = stated.inheriting(text, &figures).map_err(|error| ProfileError::of_toml(file, text, &error))?;
        stack.check().map_err(|fault| ProfileError::of_fault(file, text, fault))?;
        Ok(stack)
    }

    /// The stack of a name, or of a path ending in `.toml`, which is its name then, so that what names it finds it again.
    ///
    /// # Errors
    /// An unknown name, with near ones; what is wrong with the file.
    pub fn named(name: &str) -> Result<Arc<Stack>, ProfileError> {
        if !name.ends_with(".toml") {
            return catalog().stack(name).cloned();
        }
        let stack = Stack::from_toml(name, &read_text(name)?)?;
        Ok(Arc::new(Stack { name: name.to_owned(), ..stack }))
    }
}

impl Catalog {
    /// The device of this name; the error lists near names.
    pub fn device(&self, name: &str) -> Result<&DeviceProfile, ProfileError> {
        let found = self.devices.iter().find(|device| device.name == name);
        found.ok_or_else(|| unknown("device", name, self.devices.iter().map(|device| device.name.as_str())))
    }

    /// The system of this name; the error lists near names.
    pub fn system(&self, name: &str) -> Result<&System, ProfileError> {
        let found = self.systems.iter().find(|system| system.name == name);
        found.ok_or_else(|| unknown("system", name, self.systems.iter().map(|system| system.name.as_str())))
    }

    /// The stack of this name; the error lists near names.
    pub fn stack(&self, name: &str) -> Result<&Arc<Stack>, ProfileError> {
        let found = self.stacks.iter().find(|stack| stack.name == name);
        found.ok_or_else(|| unknown("stack", name, self.stacks.iter().map(|stack| stack.name.as_str())))
    }

    /// The file of the system, stack or device of this name, as it is embedded; the error lists near names.
    pub fn text(&self, name: &str) -> Result<&'static str, ProfileError> {
        let files = [SYSTEMS, STACKS, DEVICES].into_iter().flatten();
        let is_it = |file: &str| file.rsplit('/').next().and_then(|file| file.strip_suffix(".toml")) == Some(name);
        let found = files.copied().find(|(file, _)| is_it(file)).map(|(_, text)| text);
        found.ok_or_else(|| self.unknown(name))
    }

    /// The system that a bare device stands in: the first in the catalog that holds it.
    pub fn usual_system(&self, device: &DeviceProfile) -> Option<&System> {
        self.systems.iter().find(|system| system.device == device.name)
    }

    /// The error for a name that is neither a device's nor a system's.
    pub(super) fn unknown(&self, name: &str) -> ProfileError {
        let devices = self.devices.iter().map(|device| device.name.as_str());
        unknown("system or device", name, devices.chain(self.systems.iter().map(|system| system.name.as_str())))
    }
}

fn unknown<'a>(kind: &'static str, name: &str, all: impl Iterator<Item = &'a str>) -> ProfileError {
    let mut near = near(name, all);
    near.truncate(5);
    let near = if near.is_empty() { String::new() } else { format!("near names: {}; ", near.join(", ")) };
    ProfileError::Unknown { kind, name: name.to_owned(), near }
}
