//! Simple commands: what is set before them, for how long, and in arrays.
//!
//! In: a [`Simple`]. Out: changes of a [`Shell`].

use std::collections::BTreeMap;

use super::state::{Ending, Flow, Shell, ShellValue};
use super::syntax::{Assignment, Simple};

impl Shell<'_> {
    pub(super) fn simple(&mut self, simple: &Simple) -> (Flow, Ending) {
        let words = self.expand_all(&simple.words);
        let declares = words
            .first()
            .is_some_and(|name| ["export", "declare", "local", "readonly", "typeset"].contains(&name.as_str()));
        if words.is_empty() || declares {
            let named = words.iter().any(|word| word.starts_with('-') && word.contains('A'));
            let exports = words.first().is_some_and(|name| name == "export") || words.iter().any(|word| word == "-x");
            for set in &simple.sets {
                self.assign_to(set, named);
                if exports {
                    self.exported.insert(set.name.clone());
                }
            }
            if exports {
                self.exported.extend(words.into_iter().skip(1).filter(|word| !word.starts_with('-')));
            }
            return (Flow::On, Ending::Well);
        }
        let before: Vec<(String, Option<ShellValue>)> =
            simple.sets.iter().map(|set| (set.name.clone(), self.variables.get(&set.name).cloned())).collect();
        for set in &simple.sets {
            self.assign_to(set, false);
        }
        let own: Vec<String> = simple.sets.iter().map(|set| set.name.clone()).collect();
        let ended = self.command(words, simple, &own);
        for (name, held) in before {
            match held {
                Some(held) => drop(self.variables.insert(name, held)),
                None => drop(self.variables.remove(&name)),
            }
        }
        ended
    }

    pub(super) fn assign_to(&mut self, set: &Assignment, named: bool) {
        let name = set.name.clone();
        let old = self.variables.get(&name).cloned();
        match &set.value {
            Ok(word) => {
                let text = self.text_of(word);
                match &set.index {
                    Some(index) => {
                        let index = self.text_of(index);
                        self.set_item(name, old, &index, text, set.append);
                    }
                    None if set.append => {
                        let held = match old {
                            Some(ShellValue::Many(mut items)) => {
                                match items.first_mut() {
                                    Some(first) => first.push_str(&text),
                                    None => items.push(text),
                                }
                                ShellValue::Many(items)
                            }
                            Some(ShellValue::One(before)) => ShellValue::One(self.count(before + &text)),
                            Some(other) => other,
                            // What others have put there is not known.
                            None => ShellValue::One(text),
                        };
                        self.variables.insert(name, held);
                    }
                    None => drop(self.variables.insert(name, ShellValue::One(text))),
                }
            }
            Err(words) => {
                let mut items = match old {
                    Some(ShellValue::Many(items)) if set.append => items,
                    Some(ShellValue::One(text)) if set.append && !text.is_empty() => vec![text],
                    _ => Vec::new(),
                };
                let new = self.expand_all(words);
                let keyed = |word: &String| word.starts_with('[') && word.contains("]=");
                if (named || matches!(self.variables.get(&name), Some(ShellValue::Named(_)))) && new.iter().all(keyed) {
                    let pair = |word: String| {
                        word[1..].split_once("]=").map(|(key, value)| (key.to_owned(), value.to_owned()))
                    };
                    let map = new.into_iter().filter_map(pair).collect();
                    self.variables.insert(name, ShellValue::Named(map));
                    return;
                }
                items.extend(new);
                self.variables.insert(name, ShellValue::Many(items));
            }
        }
    }

    pub(super) fn set_item(&mut self, name: String, old: Option<ShellValue>, index: &str, text: String, append: bool) {
        const LONGEST: usize = 4096;
        let held = match (old, self.number_of(index).ok().and_then(|at| usize::try_from(at).ok())) {
            (Some(ShellValue::Named(mut items)), _) => {
                let item = items.entry(index.to_owned()).or_default();
                *item = if append { item.clone() + &text } else { text };
                ShellValue::Named(items)
            }
            (old, Some(at)) if at < LONGEST => {
                let mut items = match old {
                    Some(ShellValue::Many(items)) => items,
                    Some(ShellValue::One(text)) => vec![text],
                    _ => Vec::new(),
                };
                items.resize(items.len().max(at + 1), String::new());
                items[at] = if append { items[at].clone() + &text } else { text };
                ShellValue::Many(items)
            }
            (_, _) => ShellValue::Named(BTreeMap::from([(index.to_owned(), text)])),
        };
        self.variables.insert(name, held);
    }
}
