//! Bash as far as launch scripts use it: words, commands and control flow.
//!
//! In: the parser. Out: [`Script`], a tree.
//!
//! Invariant: names alone; nothing of it is run.

/// A script.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Commands in their order.
    pub nodes: Vec<ShellNode>,
    /// Texts that stand in the script itself (`<<EOF`), by number; whether their signs are plain.
    pub heres: Vec<(String, bool)>,
}

/// A command or what holds several.
#[derive(Clone, Debug)]
pub enum ShellNode {
    /// A command by name, or assignments alone.
    Simple(Simple),
    /// Several beside each other, the output of each the input of the next.
    Pipeline(Vec<ShellNode>),
    /// The second where the first ends well; where it does not, if `or`.
    Chain { or: bool, first: Box<ShellNode>, second: Box<ShellNode> },
    /// The contrary.
    Not(Box<ShellNode>),
    /// Conditions, each with its commands, and what is done where none holds.
    If { arms: Vec<(Vec<ShellNode>, Vec<ShellNode>)>, otherwise: Vec<ShellNode> },
    /// A word against patterns.
    Case { word: RawWord, arms: Vec<(Vec<RawWord>, Vec<ShellNode>)> },
    /// For each of some words; of all arguments where none are named.
    For { name: String, words: Option<Vec<RawWord>>, body: Vec<ShellNode> },
    /// `for ((a; b; c))`.
    Count { parts: [String; 3], body: Vec<ShellNode> },
    /// While a condition holds, or until it does.
    While { until: bool, condition: Vec<ShellNode>, body: Vec<ShellNode> },
    /// `{ … }`, and `( … )`, which changes nothing outside.
    Group { apart: bool, body: Vec<ShellNode> },
    /// A function.
    Function { name: String, body: Vec<ShellNode> },
    /// `(( … ))`.
    Arithmetic(String),
    /// `[[ … ]]`.
    Test(Vec<RawWord>),
}

/// A command by name.
#[derive(Clone, Debug, Default)]
pub struct Simple {
    /// What is set before it.
    pub sets: Vec<Assignment>,
    /// Name and arguments.
    pub words: Vec<RawWord>,
    /// Files it reads and writes.
    pub redirects: Vec<Redirect>,
    /// Where it begins, from 1.
    pub line: usize,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Variable.
    pub name: String,
    /// Place in an array.
    pub index: Option<RawWord>,
    /// Whether it is added to what is there.
    pub append: bool,
    /// One word, or those of an array.
    pub value: Result<RawWord, Vec<RawWord>>,
}

/// A file beside a command.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// As it is spelt: `>`, `>>`, `<`, `<<`, `<<<`.
    pub sign: String,
    /// Its name; of `<<<` the text.
    pub target: RawWord,
    /// Which of the script's own texts.
    pub here: Option<usize>,
}

/// A word as it stands.
pub type RawWord = Vec<WordPiece>;

/// A part of a word.
#[derive(Clone, Debug, PartialEq)]
pub enum WordPiece {
    /// Plain signs.
    Text(String),
    /// Signs in quotes.
    Quoted(String),
    /// A variable: what stands between braces, and whether in quotes.
    Variable(String, bool),
    /// Arithmetic: what stands in `$(( ))`.
    Sum(String, bool),
    /// Another command's output: its text.
    Output(String, bool),
}

impl WordPiece {
    /// As it was written, near enough to be recognised.
    pub fn source(&self) -> String {
        match self {
            WordPiece::Text(text) | WordPiece::Quoted(text) => text.clone(),
            WordPiece::Variable(name, _) if name.chars().all(|c| c.is_alphanumeric() || c == '_') => format!("${name}"),
            WordPiece::Variable(name, _) => format!("${{{name}}}"),
            WordPiece::Sum(text, _) => format!("$(({text}))"),
            WordPiece::Output(text, _) => format!("$({})", text.trim()),
        }
    }
}
