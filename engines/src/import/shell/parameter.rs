//! Variables with what stands beside their name in braces: `${NAME:-usual}`, `${NAME[@]}`, `${NAME%.*}`.
//!
//! In: the inside of the braces. Out: the value, with a hole where it is not known.

use super::glob::trim;
use super::parser::parse_word;
use super::state::{Lack, Shell, ShellValue};

/// What stands in a word's place.
pub(super) enum Filling {
    /// A text.
    One(String),
    /// Several, each a word of its own in quotes.
    Many(Vec<String>),
}

/// The longest text that is cut by a pattern.
const LONGEST_CUT: usize = 4096;

impl Shell<'_> {
    /// The value of what stands in braces, or of a name.
    pub fn parameter(&mut self, text: &str) -> Filling {
        let one = |text: &str| Filling::One(text.to_owned());
        match text {
            "@" | "*" => return self.all_arguments(),
            "#" => return Filling::One(self.argument_count()),
            "?" => return one("0"),
            "0" | "BASH_SOURCE" | "BASH_SOURCE[0]" => return one(self.given.name),
            _ => {}
        }
        if let Some(name) = text.strip_prefix('#') {
            return Filling::One(self.length(name));
        }
        if let Some(name) = text.strip_prefix('!') {
            return match self.variables.get(name).cloned() {
                Some(ShellValue::One(name)) if self.hole_in(&name).is_none() && !name.starts_with('!') => {
                    self.parameter(&name)
                }
                _ => Filling::One(self.other(&format!("${{{text}}}"), "a variable that another names")),
            };
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = text.find(|c| !plain(c)).unwrap_or(text.len());
        // Arguments beyond the ninth stand in braces; `$@` with a rule is rare.
        let (name, mut rest) = text.split_at(if text.starts_with(['@', '*']) { 1 } else { end });
        let mut index = None;
        if rest.starts_with('[')
            && let Some(close) = rest.find(']')
        {
            index = Some(rest[1..close].to_owned());
            rest = &rest[close + 1..];
        }
        let value = match index.as_deref() {
            Some("@" | "*") => match self.variables.get(name).cloned() {
                Some(ShellValue::Many(items)) => Some(Filling::Many(items)),
                Some(ShellValue::Named(items)) => Some(Filling::Many(items.into_values().collect())),
                Some(ShellValue::One(text)) => Some(Filling::One(text)),
                None => None,
            },
            Some(index) => self.item(name, index).map(Filling::One),
            None if name == "@" || name == "*" => Some(self.all_arguments()),
            None => self.value(name).map(Filling::One),
        };
        self.ruled(text, name, value, rest)
    }

    /// The text of a variable; nothing where it is not set.
    pub fn value(&mut self, name: &str) -> Option<String> {
        if let Ok(number) = name.parse::<usize>() {
            return self.arguments.get(number.wrapping_sub(1)).cloned();
        }
        match self.variables.get(name)? {
            ShellValue::One(text) => Some(text.clone()),
            ShellValue::Many(items) => Some(items.first().cloned().unwrap_or_default()),
            ShellValue::Named(items) => Some(items.get("0").cloned().unwrap_or_default()),
        }
    }

    fn item(&mut self, name: &str, index: &str) -> Option<String> {
        let index = parse_word(index).ok().map(|word| self.text_of(&word)).unwrap_or_default();
        if self.hole_in(&index).is_some() {
            let spelt = format!("${{{name}[{}]}}", self.show(&index));
            return Some(self.other(&spelt, "a place in an array that is not known"));
        }
        match self.variables.get(name)?.clone() {
            ShellValue::One(text) => (index.trim() == "0").then_some(text),
            ShellValue::Named(items) => items.get(index.trim_matches(['"', '\''])).cloned(),
            ShellValue::Many(items) => {
                let at = self.number_of(&index).ok()?;
                let at = if at < 0 { at + items.len() as i64 } else { at };
                let known = usize::try_from(at).ok()?;
                // What a hole stands for may be several items.
                let before = items.get(..=known.min(items.len().saturating_sub(1)))?;
                if before.iter().any(|item| self.lack(item).is_some()) {
                    return Some(
                        self.other(&format!("${{{name}[{index}]}}"), "a place in an array that is not all known"),
                    );
                }
                items.get(known).cloned()
            }
        }
    }

    fn all_arguments(&mut self) -> Filling {
        if !self.told && self.arguments.is_empty() {
            // As if it were started without any; said once.
            self.unset.insert("$@".to_owned());
        }
        Filling::Many(self.arguments.clone())
    }

    fn argument_count(&mut self) -> String {
        if self.told {
            self.arguments.len().to_string()
        } else {
            self.hole("$#", "no arguments were given (after `--`)", Lack::Other, Vec::new())
        }
    }

    fn length(&mut self, name: &str) -> String {
        let (name, all) = match name.strip_suffix("[@]").or(name.strip_suffix("[*]")) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let held = self.variables.get(name).cloned();
        let unknown = |items: &[String]| items.iter().any(|item| self.hole_in(item).is_some());
        let length = match &held {
            Some(ShellValue::Many(items)) if all => (!unknown(items)).then_some(items.len()),
            Some(ShellValue::Named(items)) if all => Some(items.len()),
            Some(ShellValue::One(_)) if all => Some(1),
            Some(ShellValue::One(text)) => self.hole_in(text).is_none().then(|| text.chars().count()),
            Some(ShellValue::Many(items)) => items.first().map(|item| item.chars().count()),
            Some(ShellValue::Named(_)) | None => Some(0),
        };
        match length {
            Some(length) => length.to_string(),
            None => self.other(&format!("${{#{name}}}"), "how long it is, is not known"),
        }
    }

    /// Why a variable has no value.
    fn lacking(&mut self, text: &str, name: &str) -> String {
        let spelt = if text == name { format!("${name}") } else { format!("${{{text}}}") };
        if name.parse::<usize>().is_ok() {
            if self.told {
                return String::new();
            }
            return self.hole(&spelt, "an argument of the script; give it after `--`", Lack::Argument, Vec::new());
        }
        let machine = ["RANDOM", "SECONDS", "PWD", "HOME", "USER", "HOSTNAME", "$", "!", "EPOCHSECONDS", "PATH", "UID"];
        if machine.contains(&name) {
            return self.other(&spelt, "the machine's own");
        }
        self.hole(&spelt, format!("`{name}` is set nowhere; give it by --env {name}=…"), Lack::Unset, Vec::new())
    }

    /// A value by the rule behind its name.
    fn ruled(&mut self, text: &str, name: &str, value: Option<Filling>, rule: &str) -> Filling {
        if rule.is_empty() {
            return value.unwrap_or_else(|| Filling::One(self.lacking(text, name)));
        }
        let empty = match &value {
            None => true,
            Some(Filling::One(text)) => text.is_empty(),
            Some(Filling::Many(items)) => items.is_empty(),
        };
        let colon = rule.starts_with(':') && rule.len() > 1 && "-=+?".contains(&rule[1..2]);
        let sign = rule.chars().nth(usize::from(colon)).unwrap_or(' ');
        if "-=+?".contains(sign) && (colon || !rule.starts_with(':')) {
            let word = &rule[usize::from(colon) + 1..];
            let lacks = if colon { empty } else { value.is_none() };
            // A machine's own is there, whatever it is.
            if lacks && value.is_none() && sign != '+' {
                self.unset.insert(if name.parse::<usize>().is_ok() { format!("${name}") } else { name.to_owned() });
            }
            return match (sign, lacks) {
                ('+', true) => Filling::One(String::new()),
                ('+', false) => self.alternative(word),
                ('?', true) => Filling::One(self.lacking(name, name)),
                ('-' | '=', true) => {
                    let usual = self.alternative(word);
                    if let ('=', Filling::One(text)) = (sign, &usual) {
                        self.variables.insert(name.to_owned(), ShellValue::One(text.clone()));
                    }
                    usual
                }
                _ => value.unwrap_or(Filling::One(String::new())),
            };
        }
        match value {
            Some(Filling::One(value)) => Filling::One(self.cut(text, value, rule)),
            Some(Filling::Many(items)) => match slice(self, rule) {
                Some((from, count)) => Filling::Many(items.into_iter().skip(from).take(count).collect()),
                None => Filling::Many(items.into_iter().map(|item| self.cut(text, item, rule)).collect()),
            },
            None => Filling::One(self.lacking(text, name)),
        }
    }

    fn alternative(&mut self, word: &str) -> Filling {
        let Ok(word) = parse_word(word) else { return Filling::One(self.other(word, "it cannot be read")) };
        Filling::One(self.text_of(&word))
    }

    /// A text cut or changed by a rule.
    fn cut(&mut self, text: &str, value: String, rule: &str) -> String {
        if self.hole_in(&value).is_some() {
            let shown = self.show(&value);
            return self.other(&format!("${{{text}}}"), &format!("{shown} is not known"));
        }
        if value.len() > LONGEST_CUT || rule.len() > LONGEST_CUT {
            return self.other(&format!("${{{text}}}"), "a text longer than is cut");
        }
        let pattern =
            |shell: &mut Self, text: &str| parse_word(text).ok().map(|word| shell.text_of(&word)).unwrap_or_default();
        if let Some((from, count)) = slice(self, rule) {
            return value.chars().skip(from).take(count).collect();
        }
        if let Some(rest) = rule.strip_prefix('/') {
            let all = rest.starts_with('/');
            let rest = rest.strip_prefix('/').unwrap_or(rest);
            let (what, by) = rest.split_once('/').unwrap_or((rest, ""));
            let (what, by) = (pattern(self, what), pattern(self, by));
            return if all { value.replace(&what, &by) } else { value.replacen(&what, &by, 1) };
        }
        match rule {
            "^^" => return value.to_uppercase(),
            ",," => return value.to_lowercase(),
            _ => {}
        }
        for (sign, end, long) in [("%%", true, true), ("%", true, false), ("##", false, true), ("#", false, false)] {
            if let Some(what) = rule.strip_prefix(sign) {
                return trim(&value, &pattern(self, what), end, long);
            }
        }
        self.other(&format!("${{{text}}}"), "a rule that is not read")
    }
}

/// `:from:count`.
fn slice(shell: &mut Shell, rule: &str) -> Option<(usize, usize)> {
    let mut parts = rule.strip_prefix(':')?.splitn(2, ':');
    let from = usize::try_from(shell.number_of(parts.next()?).ok()?).ok()?;
    let count = parts.next().map_or(Some(usize::MAX), |text| usize::try_from(shell.number_of(text).ok()?).ok())?;
    Some((from, count))
}
