//! What stacks have of others: a stack's file holds the figures that are its own, the rest are its family's, else everyone's.
//!
//! In: `profiles/stacks/typical.toml`, `profiles/families.toml`, a stack's text. Out: [`StackFigures`] of a family; a stack with every figure; who
//! else has each ([`SharedBy`]); how many figures were fitted.
//!
//! Invariant: a figure stands in one file; one that is the same as what a stack would inherit is inherited.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Allocator, Catalog, Knob, Overheads, ProfileError, Stack};

/// What a stack may have of others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StackFigures {
    /// What is fitted of prices.
    pub overheads: Overheads,
    /// What it takes of a device's memory beside a program's buffers.
    pub memory: Allocator,
}

/// A figure of a stack's file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StackFigure {
    /// The section it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it is, with its unit.
    pub about: &'static str,
    /// Its value.
    pub value: f64,
}

/// Who shares a figure of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    /// Nobody.
    Own,
    /// The stacks of its family.
    Family,
    /// All stacks.
    Everyone,
}

/// Sections of a stack's file that may leave figures out.
const SECTIONS: [&str; 2] = ["overheads", "memory"];

impl StackFigures {
    /// Those of a stack.
    pub fn of(stack: &Stack) -> StackFigures {
        StackFigures { overheads: stack.overheads.clone(), memory: stack.memory }
    }

    /// The same with what tables of a file state of them.
    fn with(&self, stated: &Table) -> Result<StackFigures, toml::de::Error> {
        Ok(StackFigures {
            overheads: overlaid(&self.overheads, stated.get(SECTIONS[0]))?,
            memory: overlaid(&self.memory, stated.get(SECTIONS[1]))?,
        })
    }

    /// Each, in the order of files.
    pub fn all(&self) -> Vec<StackFigure> {
        let mut overheads = self.overheads.clone();
        let of = |index: usize| {
            let Knob { name, about, .. } = Overheads::ALL[index];
            StackFigure { section: SECTIONS[0], name, about: about.trim(), value: *overheads.at(index) }
        };
        let memory = |(name, about, value)| StackFigure { section: SECTIONS[1], name, about, value };
        (0..Overheads::ALL.len()).map(of).chain(self.memory.figures().map(memory)).collect()
    }

    /// Those that differ from others', by section and name, as files have them.
    pub fn sections(&self, others: &StackFigures) -> BTreeMap<&'static str, BTreeMap<&'static str, f64>> {
        let mut sections: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for StackFigure { section, name, value, .. } in self.beside(others) {
            sections.entry(section).or_default().insert(name, value);
        }
        sections
    }

    /// Those that differ from others'.
    pub fn beside(&self, others: &StackFigures) -> Vec<StackFigure> {
        let pairs = self.all().into_iter().zip(others.all());
        pairs.filter(|(own, other)| own.value != other.value).map(|(own, _)| own).collect()
    }
}

fn table<T: Serialize>(figures: &T) -> Table {
    Table::try_from(figures).expect("figures are numbers by name")
}

fn overlaid<T: Serialize + DeserializeOwned>(figures: &T, stated: Option<&Value>) -> Result<T, toml::de::Error> {
    let mut all = table(figures);
    all.extend(stated.and_then(Value::as_table).cloned().unwrap_or_default());
    all.try_into()
}

/// Families with what all of each share, by name.
pub(super) fn families(
    file: &str,
    text: &str,
    everyone: &StackFigures,
) -> Result<BTreeMap<String, StackFigures>, ProfileError> {
    let wrong = |error: toml::de::Error| ProfileError::of_toml(file, text, &error);
    let tables: BTreeMap<String, Table> = toml::from_str(text).map_err(wrong)?;
    tables.into_iter().map(|(name, stated)| Ok((name, everyone.with(&stated).map_err(wrong)?))).collect()
}

impl Stack {
    /// The same, where its text leaves figures out, with those that it inherits.
    pub(super) fn inheriting(self, text: &str, inherited: &StackFigures) -> Stack {
        let stated: Table = text.parse().expect("a stack was read of it");
        let StackFigures { overheads, memory } = inherited.with(&stated).expect("a stack was read of it");
        Stack { overheads, memory, ..self }
    }

    /// Its figures, each with who shares it.
    pub fn figures(&self, catalog: &Catalog) -> Vec<(StackFigure, SharedBy)> {
        let (family, everyone) = (catalog.inherited(&self.family).all(), catalog.everyone().all());
        let whose = |((own, family), all): ((StackFigure, StackFigure), StackFigure)| {
            let whose = match (own.value == family.value, family.value == all.value) {
                (false, _) => SharedBy::Own,
                (true, false) => SharedBy::Family,
                (true, true) => SharedBy::Everyone,
            };
            (own, whose)
        };
        StackFigures::of(self).all().into_iter().zip(family).zip(everyone).map(whose).collect()
    }

    /// Its file's text: what it inherits is left out.
    pub fn own_text(&self, inherited: &StackFigures) -> String {
        let own = StackFigures::of(self).beside(inherited);
        let (mut section, mut text) = (String::new(), String::new());
        let mut header = None;
        for line in toml::to_string(self).expect("a stack is tables of strings and numbers").lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                (section, header) = (name.to_owned(), Some(line));
                continue;
            }
            let key = line.split(" = ").next().unwrap_or_default();
            let shared = SECTIONS.contains(&section.as_str())
                && !own.iter().any(|own| own.section == section && own.name == key);
            if line.is_empty() || shared {
                continue;
            }
            if let Some(header) = header.take() {
                text += &format!("\n{header}\n");
            }
            text += &format!("{line}\n");
        }
        text
    }
}

impl Catalog {
    /// What all stacks share.
    pub fn everyone(&self) -> StackFigures {
        StackFigures::of(self.stack(Stack::TYPICAL).expect("it is embedded"))
    }

    /// What a stack of a family inherits: the family's figures, else everyone's.
    pub fn inherited(&self, family: &str) -> StackFigures {
        self.families.get(family).cloned().unwrap_or_else(|| self.everyone())
    }

    /// How many figures were fitted to measured runs: of all stacks, of families, of stacks alone, of devices.
    pub fn fitted_figures(&self) -> [usize; 4] {
        let everyone = self.everyone();
        let shared = everyone.beside(&StackFigures::default()).len();
        let families = self.families.values().map(|figures| figures.beside(&everyone).len()).sum();
        let own = |stack: &Stack| StackFigures::of(stack).beside(&self.inherited(&stack.family)).len();
        let stacks = self.stacks.iter().filter(|stack| stack.runs() > 0).map(|stack| own(stack)).sum();
        let sustained = self.devices.iter().filter_map(|device| device.gemm.as_ref());
        [shared, families, stacks, sustained.filter(|gemm| gemm.sustained.source.contains("--fit")).count()]
    }
}
