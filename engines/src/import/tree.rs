//! Configurations as trees: JSON, YAML and TOML.
//!
//! In: a text. Out: its tree, or why there is none.
//!
//! Invariant: a text that would grow as it is read (aliases of aliases), or nests without end, is refused.

use serde_json::Value;

/// Values of a tree at most.
const MOST_VALUES: usize = 200_000;
/// How deep tables may stand in each other.
const DEEPEST: usize = 64;

/// JSON; with comments of `//` at the beginning of lines, as some have.
///
/// # Errors
/// What is wrong, and where.
pub fn json(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(problem) => {
            let kept: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            // As Python's readers, that take a comma before a closing brace for a mistake, but users' own do not.
            serde_json::from_str(&kept.join("\n")).map_err(|_| problem.to_string())
        }
    }
}

/// YAML; the first document.
///
/// # Errors
/// What is wrong, and where.
pub fn yaml(text: &str) -> Result<Value, String> {
    let mut documents = serde_yaml_ng::Deserializer::from_str(text);
    let Some(first) = documents.next() else { return Err("it is empty".to_owned()) };
    let mut value: serde_yaml_ng::Value =
        serde::Deserialize::deserialize(first).map_err(|problem| problem.to_string())?;
    value.apply_merge().map_err(|problem| problem.to_string())?;
    let mut left = MOST_VALUES;
    plain(value, 0, &mut left)
}

/// TOML.
///
/// # Errors
/// What is wrong, and where.
pub fn toml(text: &str) -> Result<Value, String> {
    let value: toml::Value = toml::from_str(text).map_err(|problem| problem.message().to_owned())?;
    serde_json::to_value(value).map_err(|problem| problem.to_string())
}

/// A tree of YAML as one of JSON.
fn plain(value: serde_yaml_ng::Value, depth: usize, left: &mut usize) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    *left = left.checked_sub(1).ok_or("its aliases make more values of it than are read")?;
    if depth > DEEPEST {
        return Err(format!("it nests more than {DEEPEST} deep"));
    }
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(yes) => Value::Bool(yes),
        Yaml::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(n), _, _) => n.into(),
            (_, Some(n), _) => n.into(),
            (_, _, Some(x)) => serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number),
            _ => Value::Null,
        },
        // `1e-4` is a text to YAML 1.1 and a number to whoever wrote it.
        Yaml::String(text) => match super::draft::number(&text).filter(|_| text.contains(['e', 'E', '_'])) {
            Some(number) => number,
            None => Value::String(text),
        },
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(|item| plain(item, depth + 1, left)).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(table) => {
            let mut all = serde_json::Map::new();
            for (name, value) in table {
                let name = match name {
                    Yaml::String(name) => name,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(yes) => yes.to_string(),
                    _ => return Err("a name is no text".to_owned()),
                };
                all.insert(name, plain(value, depth + 1, left)?);
            }
            Value::Object(all)
        }
        Yaml::Tagged(tagged) => plain(tagged.value, depth + 1, left)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_and_merges_are_made() {
        let value = yaml("base: &b {lr: 1e-4, n: 3}\nrun:\n  <<: *b\n  n: 4\n").unwrap();
        assert_eq!(value["run"]["lr"], 1e-4);
        assert_eq!(value["run"]["n"], 4);
    }

    #[test]
    fn what_grows_as_it_is_read_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![item; 9].join(", "));
        }
        assert!(yaml(&bomb).is_err());
        assert!(yaml(&"[".repeat(100_000)).is_err());
        assert!(json(&"[".repeat(100_000)).is_err());
    }
}
