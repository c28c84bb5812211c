//! Words as a command gets them: variables put in, unquoted ones cut at blanks.
//!
//! In: a [`RawWord`]. Out: words, with holes for what is not known.

use std::rc::Rc;

use super::arithmetic::{Numbers, evaluate};
use super::parameter::Filling;
use super::parser::{parse, parse_word};
use super::state::{Flow, Shell, ShellValue};
use super::syntax::{RawWord, WordPiece};

impl Shell<'_> {
    /// A word as words.
    pub fn expand(&mut self, word: &RawWord) -> Vec<String> {
        let mut words = Vec::new();
        // What is being made, if anything is there yet.
        let mut open: Option<String> = None;
        for piece in word {
            match piece {
                WordPiece::Text(text) => open.get_or_insert_default().push_str(text),
                WordPiece::Quoted(text) => open.get_or_insert_default().push_str(text),
                piece => {
                    let (filling, quoted) = self.fill(piece);
                    put(filling, quoted, &mut words, &mut open);
                }
            }
        }
        words.extend(open);
        words.into_iter().map(|word| self.count(word)).collect()
    }

    /// Several words.
    pub fn expand_all(&mut self, words: &[RawWord]) -> Vec<String> {
        words
            .iter()
            .flat_map(|word| braces(word).iter().flat_map(|word| self.expand(word)).collect::<Vec<_>>())
            .collect()
    }

    /// A word as one text.
    pub fn text_of(&mut self, word: &RawWord) -> String {
        let mut text = String::new();
        for piece in word {
            match piece {
                WordPiece::Text(part) | WordPiece::Quoted(part) => text += part,
                piece => match self.fill(piece).0 {
                    Filling::One(part) => text += &part,
                    Filling::Many(parts) => text += &parts.join(" "),
                },
            }
        }
        self.count(text)
    }

    fn fill(&mut self, piece: &WordPiece) -> (Filling, bool) {
        match piece {
            WordPiece::Text(text) | WordPiece::Quoted(text) => (Filling::One(text.clone()), true),
            WordPiece::Variable(text, quoted) => (self.parameter(text), *quoted),
            WordPiece::Sum(text, quoted) => (Filling::One(self.sum(text)), *quoted),
            WordPiece::Output(text, quoted) => (Filling::One(self.output(text)), *quoted),
        }
    }

    /// The value of `$(( … ))`.
    pub fn sum(&mut self, text: &str) -> String {
        match self.number_of(text) {
            Ok(value) => value.to_string(),
            Err(why) => self.other(&format!("$(({}))", text.trim()), &why),
        }
    }

    /// The value of an expression.
    pub fn number_of(&mut self, text: &str) -> Result<i64, String> {
        if !self.step() {
            return Err("the script is longer than is read".to_owned());
        }
        let plain = if text.contains(['$', '`']) {
            let word = parse_word(&text.replace(['"', '\''], ""))?;
            self.text_of(&word)
        } else {
            text.to_owned()
        };
        if let Some(hole) = self.hole_in(&plain) {
            return Err(format!("{}: {}", hole.spelt, hole.why));
        }
        evaluate(&plain, self, 0)
    }

    /// What a command in `$( … )` says, where that is known without running it.
    fn output(&mut self, text: &str) -> String {
        let spelt = format!("$({})", text.trim());
        let unknown = "what a command says is not known before it runs";
        if self.depth > 20 || !self.step() {
            return self.other(&spelt, unknown);
        }
        let Ok(script) = parse(text) else { return self.other(&spelt, unknown) };
        self.depth += 1;
        let script = Rc::new(script);
        self.scripts.push(script.clone());
        let said = match &script.nodes[..] {
            [node] => self.said(node, None),
            _ => None,
        };
        self.scripts.pop();
        self.depth -= 1;
        match said {
            Some(text) => text.trim_end_matches('\n').to_owned(),
            None => self.other(&spelt, unknown),
        }
    }

    /// Runs a text as commands: `eval`, `bash -c`.
    pub fn run_text(&mut self, text: &str) -> Flow {
        // Holes are signs of words like others.
        match parse(text) {
            Ok(script) => self.run_script(script),
            Err(problem) => {
                let shown: String = self.show(text).chars().take(60).collect();
                self.note(format!("a command in a text cannot be read ({problem}): {shown}"));
                Flow::On
            }
        }
    }
}

impl Numbers for Shell<'_> {
    fn number(&mut self, name: &str) -> Result<String, String> {
        let value = match self.variables.get(name) {
            Some(ShellValue::One(text)) => text.clone(),
            Some(ShellValue::Many(items)) => items.first().cloned().unwrap_or_default(),
            Some(ShellValue::Named(_)) => String::new(),
            None => return Err(format!("`{name}` is set nowhere")),
        };
        match self.hole_in(&value) {
            Some(hole) => Err(format!("{}: {}", hole.spelt, hole.why)),
            None if value.trim().is_empty() => Ok("0".to_owned()),
            None => Ok(value),
        }
    }

    fn assign(&mut self, name: &str, value: i64) {
        self.variables.insert(name.to_owned(), ShellValue::One(value.to_string()));
    }
}

fn put(filling: Filling, quoted: bool, words: &mut Vec<String>, open: &mut Option<String>) {
    match (filling, quoted) {
        (Filling::One(text), true) => open.get_or_insert_default().push_str(&text),
        (Filling::Many(all), true) => {
            for (at, text) in all.into_iter().enumerate() {
                if at > 0 {
                    words.extend(open.take());
                }
                open.get_or_insert_default().push_str(&text);
            }
        }
        (Filling::One(text), false) => split(&text, words, open),
        (Filling::Many(all), false) => {
            for (at, text) in all.into_iter().enumerate() {
                if at > 0 {
                    words.extend(open.take());
                }
                split(&text, words, open);
            }
        }
    }
}

/// Puts a text's words in, of which the first goes on where others ended.
fn split(text: &str, words: &mut Vec<String>, open: &mut Option<String>) {
    let blank = |c: char| c == ' ' || c == '\t' || c == '\n';
    if text.starts_with(blank) {
        words.extend(open.take());
    }
    let mut parts = text.split(blank).filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        open.get_or_insert_default().push_str(part);
        if parts.peek().is_some() || text.ends_with(blank) {
            words.extend(open.take());
        }
    }
}

/// `{1..4}` and `{a,b}` in plain signs, as words each.
fn braces(word: &RawWord) -> Vec<RawWord> {
    const MOST: i64 = 256;
    let one = || vec![word.clone()];
    let Some((at, text)) = word.iter().enumerate().find_map(|(at, piece)| match piece {
        WordPiece::Text(text) if text.contains('{') && text.contains('}') => Some((at, text)),
        _ => None,
    }) else {
        return one();
    };
    let (Some(open), Some(close)) = (text.find('{'), text.find('}')) else { return one() };
    if open > close {
        return one();
    }
    let inside = &text[open + 1..close];
    let items: Vec<String> = match inside.split_once("..") {
        Some((from, to)) => match (from.parse::<i64>(), to.parse::<i64>()) {
            (Ok(from), Ok(to)) if from <= to && to - from < MOST => (from..=to).map(|n| n.to_string()).collect(),
            _ => return one(),
        },
        None if inside.contains(',') && !inside.contains(['"', ':', ' ']) => {
            inside.split(',').map(str::to_owned).collect()
        }
        None => return one(),
    };
    let with = |item: String| {
        let mut word = word.clone();
        word[at] = WordPiece::Text(format!("{}{item}{}", &text[..open], &text[close + 1..]));
        word
    };
    items.into_iter().map(with).collect()
}
