//! What stacks have of others: a stack's file holds the figures that are its own, the rest are its family's, else everyone's.
//!
//! In: `profiles/families.toml`, a stack's text. Out: [`StackFigures`] of a family; a stack with every figure; its text without others'.
//!
//! Invariant: a figure stands in one file; one that is the same as what a stack would inherit is inherited.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{Allocator, Knob, Overheads, ProfileError, Stack};

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

/// What a file states of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StatedFigures {
    overheads: Table,
    memory: Table,
}

/// Sections of a stack's file that may leave figures out.
const SECTIONS: [&str; 2] = ["overheads", "memory"];

impl StackFigures {
    /// Those of a stack.
    pub fn of(stack: &Stack) -> StackFigures {
        StackFigures { overheads: stack.overheads.clone(), memory: stack.memory }
    }

    /// The same with what tables of a file state of them.
    fn with(&self, stated: &StatedFigures) -> Result<StackFigures, toml::de::Error> {
        Ok(StackFigures {
            overheads: overlaid(&self.overheads, &stated.overheads)?,
            memory: overlaid(&self.memory, &stated.memory)?,
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

fn overlaid<T: Serialize + DeserializeOwned>(figures: &T, stated: &Table) -> Result<T, toml::de::Error> {
    let mut all = table(figures);
    all.extend(stated.clone());
    all.try_into()
}

/// Families with what all of each share, by name.
pub(super) fn families(
    file: &str,
    text: &str,
    everyone: &StackFigures,
) -> Result<BTreeMap<String, StackFigures>, ProfileError> {
    let wrong = |error: toml::de::Error| ProfileError::of_toml(file, text, &error);
    let tables: BTreeMap<String, StatedFigures> = toml::from_str(text).map_err(wrong)?;
    tables.into_iter().map(|(name, stated)| Ok((name, everyone.with(&stated).map_err(wrong)?))).collect()
}

impl Stack {
    /// The same, where its text leaves figures out, with those that it inherits.
    pub(super) fn inheriting(self, text: &str, inherited: &StackFigures) -> Result<Stack, toml::de::Error> {
        let StackFigures { overheads, memory } = inherited.with(&toml::from_str(text)?)?;
        Ok(Stack { overheads, memory, ..self })
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
