//! Commands that hold others: groups, conditions, loops, functions.
//!
//! In: the parser at one. Out: its [`ShellNode`].

use super::parser::Parser;
use super::syntax::{RawWord, ShellNode, WordPiece};

impl Parser {
    pub(super) fn name(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || "_-.:".contains(c)) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    pub(super) fn function(&mut self, name: String) -> Result<ShellNode, String> {
        self.gap(false)?;
        let ShellNode::Group { body, .. } = self.group()? else { unreachable!("a group is one") };
        Ok(ShellNode::Function { name, body })
    }

    pub(super) fn group(&mut self) -> Result<ShellNode, String> {
        let apart = self.peek() == Some('(');
        if !apart && self.peek() != Some('{') {
            return Err(self.wrong("a group's `{` is missing"));
        }
        self.at += 1;
        let body = self.list(&["}"])?;
        self.expect(if apart { ")" } else { "}" })?;
        Ok(ShellNode::Group { apart, body })
    }

    pub(super) fn choice(&mut self) -> Result<ShellNode, String> {
        let (mut arms, mut otherwise) = (Vec::new(), Vec::new());
        self.at += "if".len();
        loop {
            let condition = self.list(&["then"])?;
            self.expect("then")?;
            let body = self.list(&["elif", "else", "fi"])?;
            arms.push((condition, body));
            if self.reserved() != Some("elif") {
                break;
            }
            self.at += "elif".len();
        }
        if self.reserved() == Some("else") {
            self.at += "else".len();
            otherwise = self.list(&["fi"])?;
        }
        self.expect("fi")?;
        Ok(ShellNode::If { arms, otherwise })
    }

    pub(super) fn repeat(&mut self, word: &str) -> Result<ShellNode, String> {
        self.at += word.len();
        let condition = self.list(&["do"])?;
        Ok(ShellNode::While { until: word == "until", condition, body: self.body()? })
    }

    pub(super) fn body(&mut self) -> Result<Vec<ShellNode>, String> {
        self.expect("do")?;
        let body = self.list(&["done"])?;
        self.expect("done")?;
        Ok(body)
    }

    pub(super) fn each(&mut self) -> Result<ShellNode, String> {
        self.at += "for".len();
        self.blank();
        if self.starts("((") {
            let ShellNode::Arithmetic(text) = self.arithmetic()? else { unreachable!("it is arithmetic") };
            let mut parts = text.splitn(3, ';').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            let parts = [part(), part(), part()];
            return Ok(ShellNode::Count { parts, body: self.body()? });
        }
        let name = self.name();
        self.gap(false)?;
        let mut words = None;
        if self.starts("in") && self.ahead(2).is_none_or(char::is_whitespace) {
            self.at += 2;
            let mut all = Vec::new();
            loop {
                self.blank();
                if self.peek().is_none_or(|c| "\n;".contains(c)) {
                    break;
                }
                all.push(self.word()?);
            }
            words = Some(all);
        }
        Ok(ShellNode::For { name, words, body: self.body()? })
    }

    pub(super) fn case(&mut self) -> Result<ShellNode, String> {
        self.at += "case".len();
        self.blank();
        let word = self.word()?;
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.gap(true)?;
            if self.reserved() == Some("esac") {
                self.at += "esac".len();
                return Ok(ShellNode::Case { word, arms });
            }
            if self.peek() == Some('(') {
                self.at += 1;
            }
            let mut patterns = Vec::new();
            loop {
                self.blank();
                patterns.push(self.word()?);
                self.blank();
                match self.peek() {
                    Some('|') => self.at += 1,
                    Some(')') => break,
                    _ => return Err(self.wrong("a pattern of `case` ends in `)`")),
                }
            }
            self.at += 1;
            arms.push((patterns, self.list(&["esac"])?));
            self.gap(false)?;
            while self.peek().is_some_and(|c| c == ';' || c == '&') {
                self.at += 1;
            }
        }
    }

    pub(super) fn arithmetic(&mut self) -> Result<ShellNode, String> {
        self.at += 2;
        let text = self.until_balanced("))")?;
        Ok(ShellNode::Arithmetic(text))
    }

    /// The text to a closing sign, parentheses inside left out; past it.
    pub(super) fn until_balanced(&mut self, end: &str) -> Result<String, String> {
        let (start, mut open) = (self.at, 0_usize);
        while let Some(c) = self.peek() {
            if open == 0 && self.starts(end) {
                let text = self.chars[start..self.at].iter().collect();
                self.at += end.len();
                return Ok(text);
            }
            match c {
                '(' => open += 1,
                ')' => open = open.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
        self.at = start;
        Err(self.wrong(format!("`{end}` is missing")))
    }

    pub(super) fn test(&mut self) -> Result<ShellNode, String> {
        self.at += 2;
        let mut words: Vec<RawWord> = Vec::new();
        loop {
            self.gap(false)?;
            let sign = ["&&", "||", "(", ")", "<", ">"].into_iter().find(|sign| self.starts(sign));
            let pattern = words.last().is_some_and(|word| matches!(&word[..], [WordPiece::Text(text)] if text == "=~"));
            if self.starts("]]") {
                self.at += 2;
                return Ok(ShellNode::Test(words));
            } else if let Some(sign) = sign.filter(|sign| !(pattern && *sign == "(")) {
                self.at += sign.len();
                words.push(vec![WordPiece::Text(sign.to_owned())]);
            } else if self.peek().is_none() {
                return Err(self.wrong("`]]` is missing"));
            } else if pattern {
                let mut word = RawWord::new();
                self.word_into(&mut word, &|c| c.is_whitespace())?;
                words.push(word);
            } else {
                words.push(self.word()?);
            }
        }
    }
}
