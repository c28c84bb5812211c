//! Settings: names and values in an engine's spelling, with what decided them.
//!
//! In: what an engine's file makes of a plan. Out: lines of shell, YAML, JSON or Python.
//!
//! Invariant: a number is written so that it reads back to the bit, and a text so that no reader takes it for anything else.

use std::fmt::Write;

use serde_json::json;

/// What decided a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The plan: how the job is laid over devices.
    Plan,
    /// The job: what is trained, and how long.
    Job,
    /// The engine needs it said to do what was priced.
    Engine,
}

/// A setting's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// The name alone says it.
    Flag,
    /// A count.
    Int(usize),
    /// A number.
    Float(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
    /// What the engine's own language makes of it: an expression in Python.
    Code(String),
}

/// A setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Name; parts of nested ones are joined by dots.
    pub key: String,
    /// Value.
    pub value: Word,
    /// What decided it.
    pub from: Whence,
}

/// Settings that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// One word for all of them.
    pub title: &'static str,
    /// In the order in which they are written.
    pub settings: Vec<Setting>,
    from: Whence,
}

impl Section {
    /// An empty one, whose settings are decided by this.
    pub fn new(title: &'static str, from: Whence) -> Section {
        Section { title, settings: Vec::new(), from }
    }

    /// Another setting.
    pub fn set(&mut self, key: impl Into<String>, value: Word) -> &mut Self {
        self.settings.push(Setting { key: key.into(), value, from: self.from });
        self
    }

    /// A count.
    pub fn int(&mut self, key: &str, value: usize) -> &mut Self {
        self.set(key, Word::Int(value))
    }

    /// A number.
    pub fn float(&mut self, key: &str, value: f32) -> &mut Self {
        self.set(key, Word::Float(value))
    }

    /// Yes or no.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.set(key, Word::Bool(value))
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.set(key, Word::Text(value.into()))
    }

    /// A name that says it all, where it holds.
    pub fn flag(&mut self, key: &str, holds: bool) -> &mut Self {
        if holds { self.set(key, Word::Flag) } else { self }
    }
}

impl Word {
    /// As one or more words of a shell; nothing of a flag.
    pub fn shell(&self) -> String {
        match self {
            Word::Flag => String::new(),
            Word::Int(n) => n.to_string(),
            Word::Float(x) => x.to_string(),
            Word::Bool(b) => b.to_string(),
            Word::Text(text) | Word::Code(text) => shell_word(text),
            Word::List(items) => items.iter().map(|item| shell_word(item)).collect::<Vec<_>>().join(" "),
        }
    }

    /// As JSON, which is YAML too.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Word::Flag => json!(true),
            Word::Int(n) => json!(n),
            // Its own digits, not those of the nearest number of twice the length.
            Word::Float(x) => json!(x.to_string().parse::<f64>().unwrap_or(f64::from(*x))),
            Word::Bool(b) => json!(b),
            Word::Text(text) | Word::Code(text) => json!(text),
            Word::List(items) => json!(items),
        }
    }

    /// As Python.
    pub fn python(&self) -> String {
        match self {
            Word::Flag | Word::Bool(true) => "True".to_owned(),
            Word::Bool(false) => "False".to_owned(),
            Word::Float(x) if x.fract() == 0.0 => format!("{x:.1}"),
            Word::Code(code) => code.clone(),
            other => other.json().to_string(),
        }
    }
}

/// A word as a shell reads it back: quoted where it holds anything but the plainest signs.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Each section as an array of bash by its title.
pub fn bash_arrays(sections: &[Section]) -> String {
    let mut text = String::new();
    for Section { title, settings, .. } in sections.iter().filter(|section| !section.settings.is_empty()) {
        let lines = settings.iter().map(|Setting { key, value, .. }| format!("  {key} {}", value.shell()));
        let lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
        let _ = write!(text, "{title}=(\n{}\n)\n\n", lines.join("\n"));
    }
    text
}

/// Those arrays as words of a command.
pub fn bash_words(sections: &[Section]) -> String {
    let full = sections.iter().filter(|section| !section.settings.is_empty());
    full.map(|section| format!("\"${{{}[@]}}\"", section.title)).collect::<Vec<_>>().join(" ")
}

/// Flat YAML, each section under a comment.
pub fn yaml(sections: &[Section]) -> String {
    let mut text = String::new();
    for Section { title, settings, .. } in sections.iter().filter(|section| !section.settings.is_empty()) {
        let _ = writeln!(text, "\n# {title}");
        for Setting { key, value, .. } in settings {
            let _ = writeln!(text, "{key}: {}", value.json());
        }
    }
    text
}

/// One JSON object; dots in names open objects inside.
pub fn json_object(sections: &[Section]) -> serde_json::Value {
    let mut root = json!({});
    for Setting { key, value, .. } in sections.iter().flat_map(|section| &section.settings) {
        let place = key.split('.').fold(&mut root, |table, part| &mut table[part]);
        *place = value.json();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_what_they_are_in_a_shell() {
        assert_eq!(shell_word("Et*3|t*4L"), "'Et*3|t*4L'");
        assert_eq!(shell_word("$(rm -rf '~')"), r"'$(rm -rf '\''~'\'')'");
        assert_eq!((shell_word(""), shell_word("a/b-1.5")), ("''".to_owned(), "a/b-1.5".to_owned()));
    }

    #[test]
    fn numbers_read_back_to_the_bit() {
        for x in [3e-4_f32, 1e-8, 0.95, 1.0, 1e6] {
            assert_eq!(Word::Float(x).shell().parse::<f32>().unwrap().to_bits(), x.to_bits());
            assert_eq!((Word::Float(x).json().as_f64().unwrap() as f32).to_bits(), x.to_bits());
            assert_eq!(Word::Float(x).python().parse::<f32>().unwrap().to_bits(), x.to_bits());
        }
    }
}
