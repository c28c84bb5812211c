//! Patterns of a shell: `*`, `?` and `[…]`.
//!
//! In: a pattern and a text. Out: whether it fits; the text without what it fits.

/// A text without what of its end or beginning a pattern fits, the longest or the shortest.
pub(super) fn trim(value: &str, pattern: &str, end: bool, long: bool) -> String {
    let mut cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    if end != long {
        cuts.reverse();
    }
    let fits = |at: &usize| fits(pattern, if end { &value[*at..] } else { &value[..*at] });
    match cuts.iter().find(|at| fits(at)) {
        Some(at) if end => value[..*at].to_owned(),
        Some(at) => value[*at..].to_owned(),
        None => value.to_owned(),
    }
}

/// Whether a text fits a pattern of `*`, `?` and `[…]`.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Where a star was last met, and how far it reaches.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('[') if pattern[p..].contains(&']') => {
                let close = p + pattern[p..].iter().position(|c| *c == ']').unwrap_or(0);
                let set = &pattern[p + 1..close];
                let (not, set) =
                    if set.first().is_some_and(|c| "!^".contains(*c)) { (true, &set[1..]) } else { (false, set) };
                let range = set.windows(3).any(|w| w[1] == '-' && (w[0]..=w[2]).contains(&text[t]));
                if (range || set.contains(&text[t])) != not {
                    (p, t) = (close + 1, t + 1);
                } else if let Some((at, from)) = star {
                    (p, t, star) = (at + 1, from + 1, Some((at, from + 1)));
                } else {
                    return false;
                }
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => (p, t, star) = (at + 1, from + 1, Some((at, from + 1))),
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}
