//! Words of a shell as they stand: plain signs, quotes, and what is to be put in.
//!
//! In: the parser at a word. Out: its [`WordPiece`]s.

use super::parser::Parser;
use super::syntax::{RawWord, WordPiece};

impl Parser {
    /// Pieces until a sign that ends a word.
    pub(super) fn word_into(&mut self, word: &mut RawWord, ends: &dyn Fn(char) -> bool) -> Result<(), String> {
        self.deeper()?;
        while let Some(c) = self.peek() {
            // A command in a word: `<( … )`.
            if "<>".contains(c) && self.ahead(1) == Some('(') && word.is_empty() {
                self.at += 2;
                let text = self.until_balanced(")")?;
                word.push(WordPiece::Output(text, true));
                continue;
            }
            if ends(c) {
                break;
            }
            self.at += 1;
            match c {
                '\\' => match self.peek() {
                    Some('\n') => self.at += 1,
                    Some(next) => {
                        self.at += 1;
                        word.push(WordPiece::Quoted(next.to_string()));
                    }
                    None => {}
                },
                '\'' => word.push(WordPiece::Quoted(self.until_quote()?)),
                '"' => self.quoted(word)?,
                '$' => self.dollar(word, false)?,
                '`' => word.push(WordPiece::Output(self.until_backtick()?, false)),
                c => push_text(word, c),
            }
        }
        self.shallower();
        Ok(())
    }

    pub(super) fn until_quote(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c == '\'' {
                return Ok(text);
            }
            text.push(c);
        }
        Err(self.wrong("a quote `'` has no end"))
    }

    pub(super) fn until_backtick(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '`' => return Ok(text),
                '\\' if self.peek().is_some_and(|c| "`$\\".contains(c)) => {}
                c => text.push(c),
            }
        }
        Err(self.wrong("a quote ` has no end"))
    }

    /// The inside of `"…"`.
    pub(super) fn quoted(&mut self, word: &mut RawWord) -> Result<(), String> {
        word.push(WordPiece::Quoted(String::new()));
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '"' => return Ok(()),
                '\\' => match self.peek() {
                    Some('\n') => self.at += 1,
                    Some(next) if "$`\"\\".contains(next) => {
                        self.at += 1;
                        push_quoted(word, next);
                    }
                    _ => push_quoted(word, '\\'),
                },
                '$' => self.dollar(word, true)?,
                '`' => word.push(WordPiece::Output(self.until_backtick()?, true)),
                c => push_quoted(word, c),
            }
        }
        Err(self.wrong("a quote `\"` has no end"))
    }

    /// What a `$` begins.
    pub(super) fn dollar(&mut self, word: &mut RawWord, quoted: bool) -> Result<(), String> {
        let Some(c) = self.peek() else {
            push_text(word, '$');
            return Ok(());
        };
        if self.starts("((") {
            let back = self.at;
            self.at += 2;
            if let Ok(text) = self.until_balanced("))") {
                word.push(WordPiece::Sum(text, quoted));
                return Ok(());
            }
            self.at = back;
        }
        match c {
            '(' => {
                self.at += 1;
                let text = self.command_text()?;
                word.push(WordPiece::Output(text, quoted));
            }
            '{' => {
                self.at += 1;
                let text = self.braces()?;
                word.push(WordPiece::Variable(text, quoted));
            }
            '\'' if !quoted => {
                self.at += 1;
                word.push(WordPiece::Quoted(self.until_quote()?));
            }
            '"' if !quoted => {}
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::new();
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
                word.push(WordPiece::Variable(name, quoted));
            }
            c if c.is_ascii_digit() || "@*#?$!-".contains(c) => {
                self.at += 1;
                word.push(WordPiece::Variable(c.to_string(), quoted));
            }
            _ if quoted => push_quoted(word, '$'),
            _ => push_text(word, '$'),
        }
        Ok(())
    }

    /// The inside of `$( … )`: quotes and parentheses in it are its own.
    pub(super) fn command_text(&mut self) -> Result<String, String> {
        let (mut text, mut open, mut quote) = (String::new(), 0_usize, None);
        while let Some(c) = self.peek() {
            self.at += 1;
            match (quote, c) {
                (_, '\\') => {
                    text.push(c);
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        text.push(next);
                    }
                    continue;
                }
                (Some(q), c) if c == q => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '(') => open += 1,
                (None, ')') if open == 0 => return Ok(text),
                (None, ')') => open -= 1,
                (None, _) => {}
            }
            text.push(c);
        }
        Err(self.wrong("`$(` has no end"))
    }

    /// The inside of `${ … }`.
    pub(super) fn braces(&mut self) -> Result<String, String> {
        let (mut text, mut open) = (String::new(), 0_usize);
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '{' => open += 1,
                '}' if open == 0 => return Ok(text),
                '}' => open -= 1,
                '\\' => {
                    text.push(c);
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        text.push(next);
                    }
                    continue;
                }
                _ => {}
            }
            text.push(c);
        }
        Err(self.wrong("`${` has no end"))
    }
}

fn push_text(word: &mut RawWord, c: char) {
    match word.last_mut() {
        Some(WordPiece::Text(text)) => text.push(c),
        _ => word.push(WordPiece::Text(c.to_string())),
    }
}

fn push_quoted(word: &mut RawWord, c: char) {
    match word.last_mut() {
        Some(WordPiece::Quoted(text)) => text.push(c),
        _ => word.push(WordPiece::Quoted(c.to_string())),
    }
}
