//! What was read of an engine's files, value by value, each with where it comes from.
//!
//! In: facts by one key a concept, whatever the engine calls it. Out: [`Draft`], which answers for a key.
//!
//! Invariant: a key has one fact, the last that was stated; what is unknown is said to be, and answers as nothing.

use std::collections::BTreeMap;

use meshwright_planner::limits;
use serde_json::Value;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueOrigin {
    /// It stands in a file.
    Stated,
    /// It follows from others.
    Computed,
    /// No file says it: the engine's own.
    Default,
    /// It stands in a file, and changes nothing beside the others.
    Inert,
    /// Nobody can know it from the files.
    Unknown,
}

impl ValueOrigin {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            ValueOrigin::Stated => "stated",
            ValueOrigin::Computed => "computed",
            ValueOrigin::Default => "default",
            ValueOrigin::Inert => "inert",
            ValueOrigin::Unknown => "unknown",
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Where it comes from.
    pub origin: ValueOrigin,
    /// The engine's word for it; empty where it has none.
    pub word: String,
    /// The value; `null` where it is unknown.
    pub value: Value,
    /// Of whose default, from what it was computed, why it is inert or unknown.
    pub why: String,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The engine.
    pub engine: String,
    /// The release whose defaults hold.
    pub version: String,
    /// Facts by key.
    pub facts: BTreeMap<&'static str, Fact>,
    /// What is stated and has no part in a price, as it stands.
    pub unpriced: Vec<String>,
    /// What the engine itself refuses, or passes over in silence.
    pub faults: Vec<String>,
    /// What the engine passes over in silence, and its user hardly means.
    pub oddities: Vec<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

impl Draft {
    /// Of an engine.
    pub fn new(engine: &str, version: &str) -> Draft {
        Draft { engine: engine.to_owned(), version: version.to_owned(), ..Draft::default() }
    }

    /// A count of more than is modelled is a fault, and not known: so no product of counts overflows.
    fn put(&mut self, key: &'static str, origin: ValueOrigin, word: &str, value: Value, why: String) {
        let word = word.to_owned();
        let beyond = most(key).filter(|most| value.as_f64().is_some_and(|value| value > *most as f64));
        let fact = match beyond {
            None => Fact { origin, word, value, why },
            Some(most) => {
                let named = if word.is_empty() { key } else { &word };
                let why = format!("{named} is {value}: at most {most} is modelled");
                self.fault(why.clone());
                Fact { origin: ValueOrigin::Unknown, word, value: Value::Null, why }
            }
        };
        self.facts.insert(key, fact);
    }

    /// It stands in a file.
    pub fn state(&mut self, key: &'static str, word: &str, value: impl Into<Value>) {
        self.put(key, ValueOrigin::Stated, word, value.into(), String::new());
    }

    /// The engine's own, where nothing else is said.
    pub fn usual(&mut self, key: &'static str, word: &str, value: impl Into<Value>) {
        if !self.facts.contains_key(key) {
            let why = format!("of {}", self.version);
            self.put(key, ValueOrigin::Default, word, value.into(), why);
        }
    }

    /// Several of these: keys, the engine's words, values.
    pub fn usuals<T: Into<Value>, const N: usize>(&mut self, all: [(&'static str, &str, T); N]) {
        for (key, word, value) in all {
            self.usual(key, word, value);
        }
    }

    /// An optimizer whose states and update are not known.
    pub fn lack_optimizer(&mut self, word: &str, name: &str) {
        self.lack("optimizer", word, format!("`{name}` is no optimizer that is modelled"));
    }

    /// It follows from others, where nothing else is said.
    pub fn compute(&mut self, key: &'static str, value: impl Into<Value>, why: impl Into<String>) {
        if !self.facts.contains_key(key) {
            self.put(key, ValueOrigin::Computed, "", value.into(), why.into());
        }
    }

    /// It follows from others, whatever was said.
    pub fn recompute(&mut self, key: &'static str, value: impl Into<Value>, why: impl Into<String>) {
        let word = self.facts.get(key).map_or(String::new(), |fact| fact.word.clone());
        self.put(key, ValueOrigin::Computed, &word, value.into(), why.into());
    }

    /// Nobody can know it.
    pub fn lack(&mut self, key: &'static str, word: &str, why: impl Into<String>) {
        self.put(key, ValueOrigin::Unknown, word, Value::Null, why.into());
    }

    /// It is stated and changes nothing: what holds instead.
    pub fn inert(&mut self, key: &'static str, value: impl Into<Value>, why: impl Into<String>) {
        let word = self.facts.get(key).map_or(String::new(), |fact| fact.word.clone());
        self.put(key, ValueOrigin::Inert, &word, value.into(), why.into());
    }

    /// A value in words, as flags and settings have it: a count, a number, yes or no, or a text.
    pub fn state_text(&mut self, key: &'static str, word: &str, text: &str) {
        let value = match text {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            text => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
        };
        self.state(key, word, value);
    }

    /// Whether something is said or known of a key.
    pub fn says(&self, key: &str) -> bool {
        self.facts.contains_key(key)
    }

    /// Whether a key's value is unknown although a file is about it.
    pub fn lacks(&self, key: &str) -> bool {
        self.facts.get(key).is_some_and(|fact| fact.origin == ValueOrigin::Unknown)
    }

    /// A key's value.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.facts.get(key).map(|fact| &fact.value).filter(|value| !value.is_null())
    }

    /// A count.
    pub fn count(&self, key: &str) -> Option<usize> {
        let value = self.value(key)?;
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 1e15).then_some(x as usize);
        value.as_u64().and_then(|n| usize::try_from(n).ok()).or_else(|| whole(value.as_f64()?))
    }

    /// A count, or this where nothing is said; nothing where it is unknown.
    pub fn count_or(&self, key: &str, usual: usize) -> Option<usize> {
        if self.says(key) { self.count(key) } else { Some(usual) }
    }

    /// A number.
    pub fn float(&self, key: &str) -> Option<f64> {
        self.value(key)?.as_f64()
    }

    /// Yes or no.
    pub fn flag(&self, key: &str) -> bool {
        self.value(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    /// The engine's word for a key.
    pub fn word<'a>(&'a self, key: &'a str) -> &'a str {
        self.facts.get(key).map(|fact| fact.word.as_str()).filter(|word| !word.is_empty()).unwrap_or(key)
    }

    /// A note, once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What has no part in a price, once.
    pub fn unprice(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.unpriced.contains(&what) {
            self.unpriced.push(what);
        }
    }

    /// What the engine passes over, once.
    pub fn advise(&mut self, oddity: impl Into<String>) {
        let oddity = oddity.into();
        if !self.oddities.contains(&oddity) {
            self.oddities.push(oddity);
        }
    }

    /// A fault, once.
    pub fn fault(&mut self, fault: impl Into<String>) {
        let fault = fault.into();
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

/// The most that a count may be; nothing where it is multiplied with none.
fn most(key: &str) -> Option<usize> {
    Some(match key {
        "dp" | "tp" | "pp" | "cp" | "ep" | "etp" | "devices" | "shard" | "shard_degree" | "replicate" | "instances" => {
            limits::RANKS
        }
        "layers" | "decoder_layers" | "chunks" => limits::LAYERS,
        "microbatch" | "accumulation" | "global_batch" | "local_batch" | "device_batch" => limits::BATCH,
        "hidden" => limits::HIDDEN,
        "heads" | "kv_heads" => limits::HEADS,
        "ffn" | "expert_ffn" | "shared_ffn" => limits::FFN,
        "experts" | "top_k" | "expert_groups" | "top_groups" => limits::EXPERTS,
        "seq" | "target_seq" => limits::SEQ,
        "vocab" => limits::VOCAB,
        "seed" | "steps" | "tokens" | "samples" | "warmup" | "warmup_samples" | "rope_theta" => return None,
        _ => 1 << 31,
    })
}

/// A number as configurations and command lines write it: `8`, `1e-4`, `1_000`.
pub fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    if text.starts_with('_')
        || plain.is_empty()
        || plain.contains(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E')
    {
        return None;
    }
    if let Ok(n) = plain.parse::<u64>() {
        return Some(n.into());
    }
    plain.parse::<i64>().map(Value::from).ok().or_else(|| {
        // Its own digits: a number of half the length reads back to the bit.
        serde_json::Number::from_f64(plain.parse().ok()?).map(Value::Number)
    })
}
