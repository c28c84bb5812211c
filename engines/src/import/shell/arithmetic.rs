//! Arithmetic of a shell: `$(( ))`, `(( ))` and `let`.
//!
//! In: an expression's text, and what variables hold. Out: a whole number, with what is set by the way; or why it is unknown.
//!
//! Invariant: it ends, and what overflows, divides by zero or names what is unknown has no value.

/// How deep parentheses, and variables that name expressions, may go.
const DEEPEST: usize = 40;

/// Variables as an expression sees them.
pub trait Numbers {
    /// The text of a variable; why it has none.
    fn number(&mut self, name: &str) -> Result<String, String>;
    /// Sets one.
    fn assign(&mut self, name: &str, value: i64);
}

/// The value of an expression.
///
/// # Errors
/// Why it has none.
pub fn evaluate(text: &str, numbers: &mut dyn Numbers, depth: usize) -> Result<i64, String> {
    if depth > DEEPEST {
        return Err("variables name each other in a circle".to_owned());
    }
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(0);
    }
    let mut reader = Reader { tokens, at: 0, numbers, depth };
    let mut value = reader.choice(0)?;
    while reader.take(&[","]).is_some() {
        value = reader.choice(0)?;
    }
    match reader.tokens.get(reader.at) {
        None => Ok(value),
        Some(odd) => Err(format!("`{odd}` in arithmetic")),
    }
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    const SIGNS: [&str; 33] = [
        "<<=", ">>=", "**", "++", "--", "+=", "-=", "*=", "/=", "%=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||",
        "+", "-", "*", "/", "%", "<", ">", "!", "~", "&", "|", "^", "?", ":", "(",
    ];
    let (chars, mut all, mut at) = (text.chars().collect::<Vec<_>>(), Vec::new(), 0);
    while at < chars.len() {
        let c = chars[at];
        if c.is_whitespace() || c == '"' || c == '$' || c == '\'' {
            at += 1;
        } else if c.is_alphanumeric() || c == '_' || c == '.' {
            let start = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || "_#.".contains(chars[at])) {
                at += 1;
            }
            all.push(chars[start..at].iter().collect());
        } else {
            let starts = |sign: &&&str| sign.chars().enumerate().all(|(by, c)| chars.get(at + by) == Some(&c));
            let sign = SIGNS.iter().find(starts).copied();
            let sign = sign.or([")", "=", ","].into_iter().find(|sign| sign.starts_with(c)));
            let sign = sign.ok_or_else(|| format!("`{c}` in arithmetic"))?;
            at += sign.len();
            all.push(sign.to_owned());
        }
    }
    Ok(all)
}

struct Reader<'a> {
    tokens: Vec<String>,
    at: usize,
    numbers: &'a mut dyn Numbers,
    depth: usize,
}

/// Operators of two sides, those that bind least first.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

impl Reader<'_> {
    fn take(&mut self, signs: &[&str]) -> Option<String> {
        let token = self.tokens.get(self.at).filter(|token| signs.contains(&token.as_str()))?.clone();
        self.at += 1;
        Some(token)
    }

    fn choice(&mut self, depth: usize) -> Result<i64, String> {
        if depth > DEEPEST {
            return Err(format!("arithmetic nested more than {DEEPEST} deep"));
        }
        if let Some(value) = self.setting(depth)? {
            return Ok(value);
        }
        let condition = self.level(0, depth)?;
        if self.take(&["?"]).is_none() {
            return Ok(condition);
        }
        let yes = self.choice(depth + 1)?;
        self.take(&[":"]).ok_or("`:` is missing in arithmetic")?;
        let no = self.choice(depth + 1)?;
        Ok(if condition != 0 { yes } else { no })
    }

    /// `name = …`, `name += …`.
    fn setting(&mut self, depth: usize) -> Result<Option<i64>, String> {
        let [Some(name), Some(sign)] = [self.tokens.get(self.at), self.tokens.get(self.at + 1)] else {
            return Ok(None);
        };
        let sets = sign == "=" || (sign.ends_with('=') && !["==", "!=", "<=", ">="].contains(&sign.as_str()));
        if !sets || !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Ok(None);
        }
        let (name, sign) = (name.clone(), sign.clone());
        self.at += 2;
        let mut value = self.choice(depth + 1)?;
        if sign != "=" {
            let old = self.variable(&name)?;
            value = apply(&sign[..sign.len() - 1], old, value)?;
        }
        self.numbers.assign(&name, value);
        Ok(Some(value))
    }

    fn level(&mut self, level: usize, depth: usize) -> Result<i64, String> {
        let Some(signs) = LEVELS.get(level) else { return self.power(depth) };
        let mut left = self.level(level + 1, depth)?;
        while let Some(sign) = self.take(signs) {
            let right = self.level(level + 1, depth)?;
            left = apply(&sign, left, right)?;
        }
        Ok(left)
    }

    fn power(&mut self, depth: usize) -> Result<i64, String> {
        let base = self.unary(depth)?;
        if self.take(&["**"]).is_none() {
            return Ok(base);
        }
        let exponent = self.power(depth + 1)?;
        apply("**", base, exponent)
    }

    fn unary(&mut self, depth: usize) -> Result<i64, String> {
        if depth > DEEPEST {
            return Err(format!("arithmetic nested more than {DEEPEST} deep"));
        }
        if let Some(sign) = self.take(&["-", "+", "!", "~", "++", "--"]) {
            let value = self.unary(depth + 1)?;
            return match sign.as_str() {
                "-" => value.checked_neg().ok_or_else(|| "arithmetic overflows".to_owned()),
                "!" => Ok(i64::from(value == 0)),
                "~" => Ok(!value),
                "+" => Ok(value),
                sign => {
                    let value = apply(&sign[..1], value, 1)?;
                    let name = self.tokens[self.at - 1].clone();
                    self.numbers.assign(&name, value);
                    Ok(value)
                }
            };
        }
        if self.take(&["("]).is_some() {
            let value = self.choice(depth + 1)?;
            self.take(&[")"]).ok_or("`)` is missing in arithmetic")?;
            return Ok(value);
        }
        let token = self.tokens.get(self.at).ok_or("arithmetic ends early")?.clone();
        self.at += 1;
        if token.starts_with(|c: char| c.is_ascii_digit()) {
            return number(&token);
        }
        let value = self.variable(&token)?;
        if let Some(sign) = self.take(&["++", "--"]) {
            let next = apply(&sign[..1], value, 1)?;
            self.numbers.assign(&token, next);
        }
        Ok(value)
    }

    fn variable(&mut self, name: &str) -> Result<i64, String> {
        let text = self.numbers.number(name)?;
        number(text.trim()).or_else(|_| evaluate(&text, self.numbers, self.depth + 1))
    }
}

fn number(text: &str) -> Result<i64, String> {
    let read = match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => i64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    read.ok_or_else(|| format!("`{text}` is no whole number"))
}

fn apply(sign: &str, a: i64, b: i64) -> Result<i64, String> {
    let shift = || u32::try_from(b).ok().filter(|b| *b < 63);
    let value = match sign {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" => a.checked_div(b),
        "%" => a.checked_rem(b),
        "**" => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        "<<" => shift().and_then(|by| a.checked_shl(by)),
        ">>" => shift().and_then(|by| a.checked_shr(by)),
        "<" => Some(i64::from(a < b)),
        "<=" => Some(i64::from(a <= b)),
        ">" => Some(i64::from(a > b)),
        ">=" => Some(i64::from(a >= b)),
        "==" => Some(i64::from(a == b)),
        "!=" => Some(i64::from(a != b)),
        "&&" => Some(i64::from(a != 0 && b != 0)),
        "||" => Some(i64::from(a != 0 || b != 0)),
        "&" => Some(a & b),
        "|" => Some(a | b),
        "^" => Some(a ^ b),
        _ => None,
    };
    value.ok_or_else(|| format!("`{a} {sign} {b}` has no value"))
}
