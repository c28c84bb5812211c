//! Command lines: flags with their values, and what of them is not known.
//!
//! In: words with holes. Out: [`Flag`]s in their order.

use super::shell::{Hole, Reading};

/// A flag.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// With its dashes.
    pub name: String,
    /// Its values; why each is not known.
    pub values: Vec<Result<String, String>>,
    /// The condition that it depends on, where that is not known.
    pub depends: Option<String>,
}

/// A command line.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// Flags in their order.
    pub flags: Vec<Flag>,
    /// What stands before the first flag.
    pub loose: Vec<Result<String, String>>,
    /// What may hold more flags, and nobody knows which.
    pub more: Vec<Hole>,
}

impl Flag {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&Result<String, String>> {
        self.values.first()
    }

    /// As it stands.
    pub fn shown(&self) -> String {
        let values = self.values.iter().map(|value| value.clone().unwrap_or_else(|why| format!("({why})")));
        std::iter::once(self.name.clone()).chain(values).collect::<Vec<_>>().join(" ")
    }
}

impl CommandLine {
    /// Of words: a flag's values are what follows until the next.
    pub fn read(words: &[String], reading: &Reading) -> CommandLine {
        let mut line = CommandLine::default();
        line.take(words, reading, None);
        line
    }

    fn take(&mut self, words: &[String], reading: &Reading, depends: Option<&str>) {
        let is_flag = |word: &str| {
            let rest = word.trim_start_matches('-');
            word.starts_with('-') && rest.starts_with(|c: char| c.is_ascii_alphabetic())
        };
        for word in words {
            let whole = word.chars().count() == 1;
            if let Some(hole) = reading.hole(word).filter(|_| whole).cloned() {
                let open = self.flags.last().is_some_and(|flag| flag.values.is_empty());
                let flags = hole.maybe.iter().flatten().any(|word| is_flag(word));
                if flags || (hole.maybe.iter().any(Vec::is_empty) && !open) {
                    // Each way's flags may hold or not.
                    for way in hole.maybe.iter().filter(|_| depends.is_none()) {
                        self.take(way, reading, Some(&hole.why));
                    }
                    continue;
                }
                if !open {
                    self.more.push(hole);
                    continue;
                }
            }
            let value = match reading.hole(word) {
                Some(hole) => Err(unknown(hole, reading)),
                None => Ok(word.clone()),
            };
            if is_flag(word) {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.clone(), None),
                };
                let value = value.map(|text| match reading.hole(&text) {
                    Some(hole) => Err(unknown(hole, reading)),
                    None => Ok(text),
                });
                let name = reading.shown(&name);
                self.flags.push(Flag {
                    name,
                    values: value.into_iter().collect(),
                    depends: depends.map(str::to_owned),
                });
            } else if let Some(flag) = self.flags.last_mut() {
                flag.values.push(value);
            } else {
                self.loose.push(value);
            }
        }
    }

    /// The last of a flag by any of these names.
    pub fn find(&self, names: &[&str]) -> Option<&Flag> {
        self.flags.iter().rev().find(|flag| names.contains(&flag.name.as_str()))
    }

    /// The value of a flag by any of these names, where it is known.
    pub fn text(&self, names: &[&str]) -> Option<String> {
        self.find(names)?.value()?.clone().ok()
    }

    /// Whether a flag stands.
    pub fn has(&self, names: &[&str]) -> bool {
        self.find(names).is_some()
    }
}

/// Why a value is not known, with what it may be.
fn unknown(hole: &Hole, reading: &Reading) -> String {
    let ways: Vec<String> =
        hole.maybe.iter().map(|way| reading.shown(&way.join(" "))).filter(|way| !way.is_empty()).collect();
    if ways.is_empty() {
        format!("{}: {}", hole.spelt, hole.why)
    } else {
        format!("{}: {}; {}", hole.spelt, ways.join(" or "), hole.why)
    }
}
