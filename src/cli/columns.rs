//! Lines as wide as a terminal: 80 columns, or as many as `COLUMNS` says.
//!
//! In: a line. Out: the same in several, broken between words.

use std::env::var;

/// Columns where nothing is known of the terminal.
const USUAL: usize = 80;
/// Fewer are not kept to.
const LEAST: usize = 40;

/// Columns that a line may have.
pub fn width() -> usize {
    var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL).max(LEAST)
}

/// A line, broken where it is too wide; what follows begins after so many blanks.
pub fn folded(line: &str, indent: usize) -> String {
    fold(line, indent, width())
}

fn fold(line: &str, indent: usize, width: usize) -> String {
    let indent = indent.min(width / 2);
    let (mut text, mut used) = (String::new(), 0);
    // Blanks before a word stay where the word does.
    let mut rest = line;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let end = rest[blanks..].find(' ').map_or(rest.len(), |end| blanks + end);
        let (word, wide) = (&rest[blanks..end], rest[..end].chars().count());
        if used > indent && used + wide > width {
            text += &format!("\n{}{word}", " ".repeat(indent));
            used = indent + word.chars().count();
        } else {
            text += &rest[..end];
            used += wide;
        }
        rest = &rest[end..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_go_on_indented() {
        assert_eq!(fold("one two three four", 2, 9), "one two\n  three\n  four");
        assert_eq!(fold("   a   b", 2, 80), "   a   b");
        let long = "x".repeat(100);
        assert_eq!(fold(&format!("one {long} b"), 2, 20), format!("one\n  {long}\n  b"));
        for width in 40..90 {
            let line = "dp 128 × pp 1 × tp 2 × cp 2, sequence parallel, 4 microbatches of 1, ZeRO-3".repeat(3);
            assert!(fold(&line, 3, width).lines().all(|line| line.chars().count() <= width));
        }
    }
}
