//! Commands by name: assignments, words, and files beside them.
//!
//! In: the parser at one. Out: its [`ShellNode`].

use super::parser::{Parser, parse_word};
use super::syntax::{Assignment, RawWord, Redirect, ShellNode, Simple, WordPiece};

/// Commands whose arguments are assignments.
const DECLARE: &[&str] = &["export", "declare", "local", "readonly", "typeset"];

impl Parser {
    pub(super) fn simple(&mut self) -> Result<ShellNode, String> {
        let mut command = Simple { line: self.line(), ..Simple::default() };
        let mut declares = true;
        loop {
            self.blank();
            if self.redirect(&mut command)? {
                continue;
            }
            match self.peek() {
                None | Some('\n' | ';' | '&' | '|' | ')') => break,
                Some('(') if command.words.len() == 1 && self.ahead(1) == Some(')') => {
                    self.at += 2;
                    let name = command.words.remove(0);
                    return match &name[..] {
                        [WordPiece::Text(name)] => self.function(name.clone()),
                        _ => Err(self.wrong("a function's name is no plain word")),
                    };
                }
                Some('(') => return Err(self.wrong("`(` in a command")),
                Some(_) => {}
            }
            if declares && let Some(set) = self.assignment()? {
                command.sets.push(set);
                continue;
            }
            let word = self.word()?;
            if command.words.is_empty() {
                declares = matches!(&word[..], [WordPiece::Text(name)] if DECLARE.contains(&name.as_str()));
            }
            command.words.push(word);
        }
        Ok(ShellNode::Simple(command))
    }

    pub(super) fn assignment(&mut self) -> Result<Option<Assignment>, String> {
        let start = self.at;
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            return Ok(None);
        }
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let name: String = self.chars[start..self.at].iter().collect();
        let mut index = None;
        if self.peek() == Some('[') {
            let open = self.at + 1;
            match self.chars[open..].iter().position(|c| *c == ']' || *c == '\n') {
                Some(by) if self.chars[open + by] == ']' => {
                    index = Some(parse_word(&self.chars[open..open + by].iter().collect::<String>())?);
                    self.at = open + by + 1;
                }
                _ => {}
            }
        }
        let append = self.starts("+=");
        if !append && self.peek() != Some('=') {
            self.at = start;
            return Ok(None);
        }
        self.at += if append { 2 } else { 1 };
        if self.peek() != Some('(') {
            return Ok(Some(Assignment { name, index, append, value: Ok(self.maybe_word()?) }));
        }
        self.at += 1;
        let mut all = Vec::new();
        loop {
            self.gap(false)?;
            match self.peek() {
                Some(')') => break,
                None => return Err(self.wrong(format!("the array `{name}` has no end"))),
                Some(c) if ";&|<>(".contains(c) => return Err(self.wrong(format!("`{c}` in the array `{name}`"))),
                Some(_) => all.push(self.word()?),
            }
        }
        self.at += 1;
        Ok(Some(Assignment { name, index, append, value: Err(all) }))
    }

    pub(super) fn redirect(&mut self, command: &mut Simple) -> Result<bool, String> {
        self.blank();
        let digits = self.chars[self.at..].iter().take_while(|c| c.is_ascii_digit()).count();
        let sign = |at: usize| {
            let signs = ["&>>", "&>", "<<<", "<<-", "<<", "<>", ">>", ">|", ">&", "<&", ">", "<"];
            signs.into_iter().find(|sign| sign.chars().enumerate().all(|(by, c)| self.chars.get(at + by) == Some(&c)))
        };
        let Some(sign) = sign(self.at + digits) else { return Ok(false) };
        if digits > 0 && sign.starts_with('&') {
            return Ok(false);
        }
        // `<( … )` is a word.
        if matches!(sign, "<" | ">") && self.ahead(digits + 1) == Some('(') {
            return Ok(false);
        }
        self.at += digits + sign.len();
        self.blank();
        let target = self.word()?;
        let mut here = None;
        if sign == "<<" || sign == "<<-" {
            let plain = target.iter().any(|piece| matches!(piece, WordPiece::Quoted(_)));
            let end = target.iter().map(WordPiece::source).collect::<String>();
            here = Some(self.heres.len());
            self.heres.push((String::new(), plain));
            self.pending.push((self.heres.len() - 1, end, sign == "<<-"));
        }
        let sign = if sign == "<<-" { "<<" } else { sign }.to_owned();
        // Errors and other streams are no output.
        if digits == 0 || here.is_some() {
            command.redirects.push(Redirect { sign, target, here });
        }
        Ok(true)
    }

    pub(super) fn word(&mut self) -> Result<RawWord, String> {
        let start = self.at;
        let word = self.maybe_word()?;
        if self.at == start {
            let c = self.peek().map_or("the end".to_owned(), |c| format!("`{c}`"));
            return Err(self.wrong(format!("a word is missing before {c}")));
        }
        Ok(word)
    }

    pub(super) fn maybe_word(&mut self) -> Result<RawWord, String> {
        let mut word = RawWord::new();
        self.word_into(&mut word, &|c| c.is_whitespace() || ";&|()<>".contains(c))?;
        Ok(word)
    }
}
