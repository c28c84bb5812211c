//! The keys of a `config.json`.
//!
//! In: its object. Out: values of the types that they should have, or the [`Fault`].
//!
//! Invariant: a value of another type is never taken for a key that is absent.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::Fault;

/// The file's object. Keys whose value is `null` count as absent.
pub(super) struct Config<'a> {
    object: &'a Map<String, Value>,
    /// Keys that were asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Config<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Config { object, asked: RefCell::default() }
    }

    /// All keys.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.object.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The keys for which nobody asked.
    pub(super) fn unread(&self) -> Vec<(&'a str, &'a Value)> {
        let asked = self.asked.borrow();
        self.object.iter().filter(|(key, _)| !asked.contains(*key)).map(|(key, value)| (key.as_str(), value)).collect()
    }

    /// The value of a key that is there.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there and says that there is none.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// A key's value as `read` sees it, or a refusal that says what it should be.
    pub(super) fn typed<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let refused = |value: &Value| Fault::new(key, value, format!("it must be {what}"));
        self.get(key).map(|value| read(value).ok_or_else(|| refused(value))).transpose()
    }

    /// The count that the first of these keys states that is there; in a list of one for each layer all must be equal.
    pub(super) fn count(&self, keys: &[&str]) -> Result<Option<usize>, Fault> {
        let whole = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        let read = |value: &Value| match value.as_array() {
            Some(all) => whole(all.first()?).filter(|_| all.iter().all(|one| *one == all[0])),
            None => whole(value),
        };
        let what = "a count, a whole number from 0 up, and the same in every layer";
        // The other names of a size are read by it too.
        self.asked.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
        let Some(key) = keys.iter().find(|key| self.get(key).is_some()) else { return Ok(None) };
        self.typed(key, what, read)
    }

    pub(super) fn needed(&self, keys: &[&str]) -> Result<usize, Fault> {
        let problem = match keys {
            [_] => "give it: its architecture does not define it".to_owned(),
            _ => format!("none of {} holds a count", keys.join(", ")),
        };
        self.count(keys)?.ok_or_else(|| Fault::new(keys[0], "missing", problem))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Fault> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Fault> {
        self.typed(key, "true or false", Value::as_bool)
    }
}
