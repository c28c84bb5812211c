//! The parser of scripts: lists of commands, chains and pipelines.
//!
//! In: signs. Out: [`ShellNode`]s.
//!
//! Invariant: reading ends, with a tree or the line of what cannot be read, whatever the text.

use super::syntax::{RawWord, Script, ShellNode, Simple};

/// The largest script.
const MOST_CHARS: usize = 1 << 20;
/// How deep commands may stand in each other.
const DEEPEST: usize = 60;
/// Reads a script.
///
/// # Errors
/// What cannot be read, with its line.
pub fn parse(text: &str) -> Result<Script, String> {
    if text.len() > MOST_CHARS {
        return Err(format!("it has more than the {} MiB that a script may have", MOST_CHARS >> 20));
    }
    let mut parser = Parser::new(text);
    let nodes = parser.list(&[])?;
    parser.blank();
    match parser.peek() {
        None => Ok(Script { nodes, heres: parser.heres }),
        Some(c) => Err(parser.wrong(format!("`{c}` that nothing opens"))),
    }
}

/// A word by itself, as it stands in `${NAME:-word}`.
pub fn parse_word(text: &str) -> Result<RawWord, String> {
    let mut parser = Parser::new(text);
    let mut word = RawWord::new();
    while parser.peek().is_some() {
        parser.word_into(&mut word, &|_| false)?;
    }
    Ok(word)
}

/// What opens and closes groups, at the place of a command's name.
const RESERVED: &[&str] =
    &["then", "else", "elif", "fi", "do", "done", "esac", "}", "if", "while", "until", "for", "case", "function", "{"];

/// Signs, and where among them it is.
pub(super) struct Parser {
    pub(super) chars: Vec<char>,
    pub(super) at: usize,
    depth: usize,
    pub(super) heres: Vec<(String, bool)>,
    pub(super) pending: Vec<(usize, String, bool)>,
    ends: Vec<usize>,
}

impl Parser {
    pub(super) fn new(text: &str) -> Parser {
        let chars: Vec<char> = text.chars().filter(|c| *c != '\r').collect();
        let ends = chars.iter().enumerate().filter(|(_, c)| **c == '\n').map(|(at, _)| at).collect();
        Parser { chars, at: 0, depth: 0, heres: Vec::new(), pending: Vec::new(), ends }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub(super) fn ahead(&self, by: usize) -> Option<char> {
        self.chars.get(self.at + by).copied()
    }

    pub(super) fn starts(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(by, c)| self.ahead(by) == Some(c))
    }

    pub(super) fn line(&self) -> usize {
        1 + self.ends.partition_point(|end| *end < self.at)
    }

    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("line {}: {what}", self.line())
    }

    pub(super) fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEEPEST { Err(self.wrong(format!("nested more than {DEEPEST} deep"))) } else { Ok(()) }
    }

    pub(super) fn shallower(&mut self) {
        self.depth -= 1;
    }

    /// Skips blanks, comments and lines that go on.
    pub(super) fn blank(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\\') if self.ahead(1) == Some('\n') => self.at += 2,
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Skips blanks, ends of lines and of commands; takes up the texts that lines before announced.
    pub(super) fn gap(&mut self, semicolons: bool) -> Result<(), String> {
        loop {
            self.blank();
            match self.peek() {
                Some('\n') => {
                    self.at += 1;
                    self.take_heres()?;
                }
                Some(';') if semicolons && self.ahead(1) != Some(';') => self.at += 1,
                Some('&') if semicolons && self.ahead(1) != Some('&') => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn take_heres(&mut self) -> Result<(), String> {
        for (number, end, tabs) in std::mem::take(&mut self.pending) {
            let mut text = String::new();
            loop {
                if self.at >= self.chars.len() {
                    return Err(self.wrong(format!("the text until `{end}` has no end")));
                }
                let stop = self.chars[self.at..].iter().position(|c| *c == '\n');
                let stop = stop.map_or(self.chars.len(), |by| self.at + by);
                let line: String = self.chars[self.at..stop].iter().collect();
                self.at = (stop + 1).min(self.chars.len());
                let line = if tabs { line.trim_start_matches('\t').to_owned() } else { line };
                if line == end {
                    break;
                }
                text += &line;
                text.push('\n');
            }
            self.heres[number].0 = text;
        }
        Ok(())
    }

    /// The reserved word at this place, if there is one.
    pub(super) fn reserved(&self) -> Option<&'static str> {
        let ends = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || ";&|()".contains(c));
        let found = RESERVED.iter().find(|word| self.starts(word) && ends(self.ahead(word.len())));
        found.copied()
    }

    pub(super) fn expect(&mut self, word: &str) -> Result<(), String> {
        self.gap(true)?;
        if !self.starts(word) {
            let found: String = self.chars[self.at..].iter().take(20).take_while(|c| **c != '\n').collect();
            return Err(self.wrong(format!("`{word}` is missing, at `{found}`")));
        }
        self.at += word.len();
        Ok(())
    }

    /// Commands until one of these words, which is left.
    pub(super) fn list(&mut self, ends: &[&str]) -> Result<Vec<ShellNode>, String> {
        self.deeper()?;
        let mut nodes = Vec::new();
        loop {
            self.gap(true)?;
            let stop = self.peek().is_none_or(|c| c == ')' || (c == ';' && self.ahead(1) == Some(';')));
            let closed = self.reserved().is_some_and(|word| ends.contains(&word));
            if stop || closed {
                self.shallower();
                return Ok(nodes);
            }
            nodes.push(self.chain()?);
        }
    }

    pub(super) fn chain(&mut self) -> Result<ShellNode, String> {
        let mut first = self.pipeline()?;
        loop {
            self.blank();
            let or = self.starts("||");
            if !or && !self.starts("&&") {
                return Ok(first);
            }
            self.at += 2;
            self.gap(false)?;
            let second = Box::new(self.pipeline()?);
            first = ShellNode::Chain { or, first: Box::new(first), second };
        }
    }

    pub(super) fn pipeline(&mut self) -> Result<ShellNode, String> {
        self.blank();
        if self.peek() == Some('!') && self.ahead(1).is_some_and(char::is_whitespace) {
            self.at += 1;
            return Ok(ShellNode::Not(Box::new(self.pipeline()?)));
        }
        let mut all = vec![self.command()?];
        loop {
            self.blank();
            if self.peek() != Some('|') || self.ahead(1) == Some('|') {
                break;
            }
            self.at += if self.ahead(1) == Some('&') { 2 } else { 1 };
            self.gap(false)?;
            all.push(self.command()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { ShellNode::Pipeline(all) })
    }

    pub(super) fn command(&mut self) -> Result<ShellNode, String> {
        self.deeper()?;
        let node = match self.reserved() {
            Some("if") => self.choice(),
            Some(word @ ("while" | "until")) => self.repeat(word),
            Some("for") => self.each(),
            Some("case") => self.case(),
            Some("function") => {
                self.at += "function".len();
                self.blank();
                let name = self.name();
                self.blank();
                if self.starts("()") {
                    self.at += 2;
                }
                self.function(name)
            }
            Some("{") => self.group(),
            Some(word) => Err(self.wrong(format!("`{word}` that nothing opens"))),
            None if self.starts("((") => self.arithmetic(),
            None if self.peek() == Some('(') => self.group(),
            None if self.starts("[[") => self.test(),
            None => self.simple(),
        };
        self.shallower();
        let node = node?;
        // A group's own files.
        if !matches!(node, ShellNode::Simple(_)) {
            let mut unused = Simple::default();
            while self.redirect(&mut unused)? {}
        }
        Ok(node)
    }
}
