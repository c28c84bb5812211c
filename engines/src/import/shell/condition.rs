//! Conditions: `[ … ]`, `test` and `[[ … ]]`.
//!
//! In: words. Out: whether it holds, or that this is not known.
//!
//! A variable that is set nowhere counts as unset, as it is where the script is started as it stands; which were, is told.

use super::glob::fits;
use super::state::{Ending, Lack, Shell};
use super::syntax::{RawWord, WordPiece};

/// The longest text that a pattern is held against.
const LONGEST: usize = 4096;

impl Shell<'_> {
    /// `[[ … ]]`: nothing is cut at blanks.
    pub fn double_test(&mut self, words: &[RawWord]) -> Ending {
        let is_sign = |word: &RawWord| matches!(&word[..], [WordPiece::Text(text)] if ["&&", "||", "(", ")", "!"].contains(&text.as_str()));
        let words: Vec<(String, bool)> = words.iter().map(|word| (self.text_of(word), is_sign(word))).collect();
        let mut at = 0;
        self.either_test(&words, &mut at, 0)
    }

    /// `[ … ]`, without the brackets.
    pub fn single_test(&mut self, words: &[String]) -> Ending {
        let is_sign = |word: &String| ["-a", "-o", "!", "(", ")"].contains(&word.as_str());
        let words: Vec<(String, bool)> = words.iter().map(|word| (word.clone(), is_sign(word))).collect();
        let mut at = 0;
        self.either_test(&words, &mut at, 0)
    }

    fn either_test(&mut self, words: &[(String, bool)], at: &mut usize, depth: usize) -> Ending {
        let mut all = self.both_test(words, at, depth);
        while words.get(*at).is_some_and(|(word, sign)| *sign && (word == "||" || word == "-o")) {
            *at += 1;
            let next = self.both_test(words, at, depth);
            all = match (all, next) {
                (Ending::Well, _) | (_, Ending::Well) => Ending::Well,
                (Ending::Badly, other) | (other, Ending::Badly) => other,
                (Ending::Unknown(a), Ending::Unknown(b)) => Ending::Unknown(format!("{a} or {b}")),
            };
        }
        all
    }

    fn both_test(&mut self, words: &[(String, bool)], at: &mut usize, depth: usize) -> Ending {
        let mut all = self.one_test(words, at, depth);
        while words.get(*at).is_some_and(|(word, sign)| *sign && (word == "&&" || word == "-a")) {
            *at += 1;
            let next = self.one_test(words, at, depth);
            all = match (all, next) {
                (Ending::Badly, _) | (_, Ending::Badly) => Ending::Badly,
                (Ending::Well, other) | (other, Ending::Well) => other,
                (Ending::Unknown(a), Ending::Unknown(b)) => Ending::Unknown(format!("{a} and {b}")),
            };
        }
        all
    }

    fn one_test(&mut self, words: &[(String, bool)], at: &mut usize, depth: usize) -> Ending {
        const DEEPEST: usize = 40;
        let Some((word, sign)) = words.get(*at) else { return Ending::Badly };
        if depth > DEEPEST {
            return Ending::Unknown("a condition nested too deep".to_owned());
        }
        if *sign && word == "!" {
            *at += 1;
            return self.one_test(words, at, depth + 1).not();
        }
        if *sign && word == "(" {
            *at += 1;
            let inside = self.either_test(words, at, depth + 1);
            *at += usize::from(words.get(*at).is_some_and(|(word, _)| word == ")"));
            return inside;
        }
        let ends = |at: usize| words.get(at).is_none_or(|(word, sign)| *sign && word != "!" && word != "(");
        let length = (1..4).find(|length| ends(*at + length)).unwrap_or(3);
        let part: Vec<String> =
            words[*at..(*at + length).min(words.len())].iter().map(|(word, _)| word.clone()).collect();
        *at += length;
        match &part[..] {
            [one] => self.filled(one),
            [sign, value] => self.of_one(sign, value),
            [a, sign, b] => self.of_two(a, sign, b),
            _ => Ending::Unknown("a condition".to_owned()),
        }
    }

    /// What counts of a word: nothing of what is set nowhere; none where it is not known.
    fn known(&mut self, word: &str) -> Option<String> {
        if self.lack(word) == Some(Lack::Unset) {
            let name: String = self.show(word).chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            self.unset.insert(name);
            return Some(String::new());
        }
        self.hole_in(word).is_none().then(|| word.to_owned())
    }

    fn filled(&mut self, word: &str) -> Ending {
        match self.known(word) {
            Some(text) => Ending::of(!text.is_empty()),
            // A hole among other signs leaves the word something.
            None if word.chars().count() > 1 => Ending::Well,
            None => Ending::Unknown(self.show(word)),
        }
    }

    fn of_one(&mut self, sign: &str, value: &str) -> Ending {
        match sign {
            "-n" => self.filled(value),
            "-z" => self.filled(value).not(),
            "-v" => Ending::of(self.value(value).is_some()),
            _ if sign.starts_with('-') => {
                let there = self.hole_in(value).is_none()
                    && (self.written.contains_key(value) || (self.beside)(value).is_some());
                if there && ["-f", "-e", "-r", "-s"].contains(&sign) {
                    return Ending::Well;
                }
                Ending::Unknown(format!("{sign} {}", self.show(value)))
            }
            _ => Ending::Unknown(format!("{sign} {}", self.show(value))),
        }
    }

    fn of_two(&mut self, a: &str, sign: &str, b: &str) -> Ending {
        let unknown = |shell: &Self| Ending::Unknown(format!("{} {sign} {}", shell.show(a), shell.show(b)));
        let (Some(left), Some(right)) = (self.known(a), self.known(b)) else { return unknown(self) };
        if ["-eq", "-ne", "-lt", "-le", "-gt", "-ge"].contains(&sign) {
            let (Ok(left), Ok(right)) = (self.number_of(&left), self.number_of(&right)) else { return unknown(self) };
            return Ending::of(match sign {
                "-eq" => left == right,
                "-ne" => left != right,
                "-lt" => left < right,
                "-le" => left <= right,
                "-gt" => left > right,
                _ => left >= right,
            });
        }
        if left.len() > LONGEST || right.len() > LONGEST {
            return unknown(self);
        }
        match sign {
            "=" | "==" => Ending::of(fits(&right, &left)),
            "!=" => Ending::of(!fits(&right, &left)),
            "<" => Ending::of(left < right),
            ">" => Ending::of(left > right),
            // Of regular expressions only the commonest: whole numbers.
            "=~" if right == "^[0-9]+$" => Ending::of(!left.is_empty() && left.chars().all(|c| c.is_ascii_digit())),
            "=~" if right.chars().all(|c| c.is_ascii_alphanumeric() || "_- ".contains(c)) => {
                Ending::of(left.contains(&right))
            }
            _ => unknown(self),
        }
    }
}
