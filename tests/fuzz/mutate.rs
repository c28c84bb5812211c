//! Inputs that were valid, changed: keys, values, types, nesting, lines, bytes.
//!
//! In: a text, what it is written in, random numbers. Out: another text.
//!
//! Invariant: the same numbers give the same text.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// What a text is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Toml,
    Json,
    /// Anything else: changed by numbers, lines and bytes.
    Text,
}

/// Random numbers of a case.
pub struct Random(SplitMix64);

impl Random {
    pub fn of(seed: u64, case: u64) -> Random {
        let mut first = SplitMix64::seed_from_u64(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        first.next_u64();
        Random(first)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Values that files have where somebody slipped, or meant harm.
const VALUES: &[&str] = &[
    "0",
    "-1",
    "-0.0",
    "1",
    "2",
    "3",
    "7",
    "0.5",
    "1.5",
    "1000000",
    "1e-300",
    "1e300",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "Infinity",
    "65536",
    "4294967296",
    "2305843009213693952",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "true",
    "false",
    "null",
    "\"\"",
    "\"x\"",
    "\"-1\"",
    "\"nan\"",
    "\"1e400 T\"",
    "\"0 B\"",
    "\"-5 GB\"",
    "\"1e300 TB/s\"",
    "\"1e-300 s\"",
    "\"h100\"",
    "\"\\u0000\"",
    "\"ü\\n\"",
    "\"=1+1\"",
    "\"../../x\"",
    "[]",
    "[[]]",
    "{}",
    "[0]",
    "[-1, nan]",
    "1979-05-27",
];

/// What bytes are changed into.
const SPLICES: &[&str] = &[
    "\"", "'", "[", "]", "{", "}", ",", "=", ":", "\n", "\\", "#", "\u{0}", "\u{feff}", "ü", "$(", "${", "((", "`",
    ";", "|", "-", "--", "x", " + ", "@", "(", ")", "%", "\t", "\r",
];

/// One text's worth of changes: one to three.
pub fn mutated(text: &str, form: Form, random: &mut Random) -> String {
    let mut text = text.to_owned();
    let mut tree = if random.below(5) > 0 { Node::read(&text, form) } else { None };
    for _ in 0..=random.below(3) {
        match &mut tree {
            Some(tree) => tree.change(random),
            None => text = change_text(&text, random),
        }
    }
    match tree {
        Some(tree) if form == Form::Json => tree.json(),
        Some(tree) => tree.toml(),
        None => text,
    }
}

/// A text in which a key, dotted, has another value.
pub fn set(text: &str, form: Form, key: &str, value: &str) -> String {
    let mut tree = Node::read(text, form).expect("it is valid");
    let steps = key.split('.').collect::<Vec<_>>();
    let leaf = steps.iter().fold(&mut tree, |node, step| node.entry(step));
    *leaf = Node::Leaf(value.to_owned());
    if form == Form::Json { tree.json() } else { tree.toml() }
}

/// A file's values by key; a leaf is its text.
#[derive(Clone, Debug)]
enum Node {
    Leaf(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Node {
    fn read(text: &str, form: Form) -> Option<Node> {
        match form {
            Form::Toml => toml::from_str(text).ok().map(|table| Node::of_toml(&toml::Value::Table(table))),
            Form::Json => serde_json::from_str(text).ok().map(|value| Node::of_json(&value)),
            Form::Text => None,
        }
    }

    fn of_toml(value: &toml::Value) -> Node {
        match value {
            toml::Value::Array(items) => Node::List(items.iter().map(Node::of_toml).collect()),
            toml::Value::Table(table) => {
                Node::Table(table.iter().map(|(key, value)| (key.clone(), Node::of_toml(value))).collect())
            }
            leaf => Node::Leaf(leaf.to_string()),
        }
    }

    fn of_json(value: &serde_json::Value) -> Node {
        match value {
            serde_json::Value::Array(items) => Node::List(items.iter().map(Node::of_json).collect()),
            serde_json::Value::Object(table) => {
                Node::Table(table.iter().map(|(key, value)| (key.clone(), Node::of_json(value))).collect())
            }
            leaf => Node::Leaf(leaf.to_string()),
        }
    }

    fn json(&self) -> String {
        match self {
            Node::Leaf(text) => text.clone(),
            Node::List(items) => format!("[{}]", items.iter().map(Node::json).collect::<Vec<_>>().join(", ")),
            Node::Table(table) => {
                let pair = |(key, value): &(String, Node)| format!("{key:?}: {}", value.json());
                format!("{{{}}}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Tables within the file's own stand on one line.
    fn toml(&self) -> String {
        let Node::Table(table) = self else { return self.inline() };
        table.iter().map(|(key, value)| format!("{key:?} = {}\n", value.inline())).collect()
    }

    fn inline(&self) -> String {
        match self {
            Node::Leaf(text) => text.clone(),
            Node::List(items) => format!("[{}]", items.iter().map(Node::inline).collect::<Vec<_>>().join(", ")),
            Node::Table(table) => {
                let pair = |(key, value): &(String, Node)| format!("{key:?} = {}", value.inline());
                format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What a table has at a key; nothing yet, where it is not there.
    fn entry(&mut self, key: &str) -> &mut Node {
        let Node::Table(table) = self else { panic!("`{key}` stands in no table") };
        let at = table.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            table.push((key.to_owned(), Node::Table(Vec::new())));
            table.len() - 1
        });
        &mut table[at].1
    }

    /// Ways to every list and table that holds something.
    fn holders(&self, way: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        let children: Vec<&Node> = match self {
            Node::Leaf(_) => return,
            Node::List(items) => items.iter().collect(),
            Node::Table(table) => table.iter().map(|(_, value)| value).collect(),
        };
        if !children.is_empty() {
            all.push(way.clone());
        }
        for (at, child) in children.into_iter().enumerate() {
            way.push(at);
            child.holders(way, all);
            way.pop();
        }
    }

    fn child(&mut self, at: usize) -> &mut Node {
        match self {
            Node::List(items) => &mut items[at],
            Node::Table(table) => &mut table[at].1,
            Node::Leaf(_) => unreachable!("a leaf holds nothing"),
        }
    }

    /// Changes one thing that a list or table holds.
    fn change(&mut self, random: &mut Random) {
        let mut ways = Vec::new();
        self.holders(&mut Vec::new(), &mut ways);
        if ways.is_empty() {
            return;
        }
        let [way, other] = [0, 0].map(|_| ways[random.below(ways.len())].clone());
        let donor = other.iter().fold(&mut *self, |node, &at| node.child(at)).clone();
        let holder = way.iter().fold(self, |node, &at| node.child(at));
        let len = match holder {
            Node::List(items) => items.len(),
            Node::Table(table) => table.len(),
            Node::Leaf(_) => return,
        };
        let at = random.below(len);
        match random.below(12) {
            0 => match holder {
                Node::List(items) => drop(items.remove(at)),
                Node::Table(table) => drop(table.remove(at)),
                Node::Leaf(_) => {}
            },
            1 => match holder {
                Node::List(items) => items.insert(at, items[at].clone()),
                Node::Table(table) => {
                    let twice = table[at].clone();
                    table.push(twice);
                }
                Node::Leaf(_) => {}
            },
            2 => {
                if let Node::Table(table) = holder {
                    let key = table[random.below(table.len())].0.clone();
                    table[at].0 = if random.below(2) == 0 { key } else { format!("{key}s") };
                }
            }
            3 => *holder.child(at) = donor,
            4 => {
                let inner = holder.child(at).clone();
                let key = "layers".to_owned();
                *holder.child(at) =
                    if random.below(2) == 0 { Node::List(vec![inner]) } else { Node::Table(vec![(key, inner)]) };
            }
            5 | 6 => {
                let child = holder.child(at);
                if let Node::Leaf(text) = child
                    && let Ok(number) = text.parse::<f64>()
                {
                    let other = [number * 2.0, number + 1.0, number - 1.0, -number, number * 1000.0, number / 3.0];
                    *text = other[random.below(other.len())].to_string();
                }
            }
            _ => *holder.child(at) = Node::Leaf(random.pick(VALUES).to_owned()),
        }
    }
}

/// Changes a line, a number or some bytes.
fn change_text(text: &str, random: &mut Random) -> String {
    let at = text.floor_char_boundary(random.below(text.len() + 1));
    let end = text.floor_char_boundary((at + 1 + random.below(16)).min(text.len())).max(at);
    let (before, after) = (&text[..at], &text[at..]);
    match random.below(12) {
        0 => before.to_owned(),
        1 => format!("{before}{}", &text[end..]),
        2 => format!("{before}{}{after}", &text[at..end]),
        3 | 4 => format!("{before}{}{after}", random.pick(SPLICES)),
        5 => format!("{before}{}{}", random.pick(SPLICES), &text[end..]),
        6 | 7 => change_line(text, random),
        8 if random.below(8) == 0 => format!("{before}{}{after}", random.pick(SPLICES).repeat(20_000)),
        _ => change_number(text, random),
    }
}

fn change_line(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "\n".to_owned();
    }
    let (at, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(3) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(other, lines[at]),
        _ => lines.swap(at, other),
    }
    lines.join("\n")
}

fn change_number(text: &str, random: &mut Random) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let starts: Vec<usize> =
        text.match_indices(is_digit).map(|(at, _)| at).filter(|&at| !text[..at].ends_with(is_digit)).collect();
    if starts.is_empty() {
        return text.to_owned();
    }
    let start = starts[random.below(starts.len())];
    let end = text[start..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |len| start + len);
    format!("{}{}{}", &text[..start], random.pick(VALUES).trim_matches('"'), &text[end..])
}
