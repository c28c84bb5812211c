//! Text to programs.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::classes::Classes;
use crate::mesh::{Axis, Mesh, Order};
use crate::op::Op;
use crate::program::{ArgView, Block, BlockParam, Buffer, Call, Instr, Kind, Program, RankProgram, View};

/// A line that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TextError {
    /// From 1.
    pub line: usize,
    /// What was expected and what stands there.
    pub problem: String,
}

/// Reads what [`super::print`] writes.
///
/// # Errors
/// [`TextError`] with the first line that does not read; whether the program makes sense only `verify` says.
pub fn parse(text: &str) -> Result<Program, TextError> {
    let mut program = Program { mesh: Mesh::ONE, classes: Classes::ONE, blocks: Vec::new(), roles: Vec::new() };
    let mut meshed = false;
    for (number, line) in text.lines().enumerate() {
        let fail = |problem| TextError { line: number + 1, problem };
        if line.trim().is_empty() {
            continue;
        }
        meshed |= line.starts_with("mesh ");
        if !meshed {
            return Err(fail(format!("a program begins with `mesh dp=… pp=… tp=… cp=… ep=…`, not `{}`", line.trim())));
        }
        parse_line(&mut program, line).map_err(fail)?;
    }
    if meshed { Ok(program) } else { Err(TextError { line: 1, problem: "no program: the text is empty".to_owned() }) }
}

fn parse_line(program: &mut Program, line: &str) -> Result<(), String> {
    let (first, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    match first {
        "mesh" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let size = |key| field(&words, key);
            let named = words.iter().find_map(|word| word.strip_prefix("order="));
            let order = named.map_or(Ok(Order::default()), |name| {
                let known = Order::ALL.into_iter().find(|order| order.name() == name);
                known.ok_or_else(|| format!("`{name}` is no order of axes: tp-data-pp and its permutations are"))
            })?;
            let given =
                |key: &str| words.iter().any(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')));
            let optional = |key| given(key).then(|| size(key)).transpose();
            let (etp, shard) = (optional("etp")?, optional("shard")?);
            let (dp, pp, tp, cp, ep) = (size("dp")?, size("pp")?, size("tp")?, size("cp")?, size("ep")?);
            program.mesh = Mesh { dp, pp, tp, cp, ep, etp, shard, order };
        }
        "block" => {
            let (number, name) = rest.split_once(' ').ok_or("expected `block NUMBER \"NAME\"`")?;
            in_order(number, program.blocks.len())?;
            let name = serde_json::from_str(name).map_err(|_| format!("`{name}` is no quoted name"))?;
            program.blocks.push(Block { name, params: Vec::new(), calls: Vec::new() });
        }
        "param" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let name = words.first().ok_or("expected `param NAME elems=…`")?.to_string();
            let elems = field(&words, "elems")?;
            block(program)?.params.push(BlockParam { name, elems });
        }
        "call" => {
            let call = parse_call(rest)?;
            block(program)?.calls.push(call);
        }
        "role" => {
            in_order(rest, program.roles.len())?;
            program.roles.push(RankProgram::default());
        }
        "buffer" => {
            let role = role(program)?;
            let buffer = parse_buffer(rest, role.buffers.len())?;
            role.buffers.push(buffer);
        }
        "classes" => {
            let sizes = rest.split_whitespace().map(number).collect::<Result<_, _>>()?;
            program.classes = Classes::of_sizes(sizes);
        }
        other => {
            let role = role(program)?;
            in_order(other, role.instrs.len())?;
            let instr = parse_instr(rest)?;
            role.instrs.push(instr);
        }
    }
    Ok(())
}

fn block(program: &mut Program) -> Result<&mut Block, String> {
    program.blocks.last_mut().ok_or_else(|| "a `block` line must come before".to_owned())
}

fn role(program: &mut Program) -> Result<&mut RankProgram, String> {
    program.roles.last_mut().ok_or_else(|| "a `role` line must come before".to_owned())
}

fn in_order(number: &str, next: usize) -> Result<(), String> {
    if number.trim() == next.to_string() { Ok(()) } else { Err(format!("expected number {next}, not `{number}`")) }
}

fn parse_call(text: &str) -> Result<Call, String> {
    let (op, args) = text.split_once(" :").ok_or("expected `call OP DIM=… : FORMAL+OFFSET …`")?;
    let mut words = op.split_whitespace();
    let name = words.next().ok_or("a call names an op")?;
    let mut dims = serde_json::Map::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("`{word}` of `{name}` is no DIM=VALUE"))?;
        let value =
            serde_json::from_str(value).map_err(|_| format!("`{word}` of `{name}`: no number, word or truth"))?;
        dims.insert(key.to_owned(), value);
    }
    let tagged = Value::Object([(name.to_owned(), Value::Object(dims))].into_iter().collect());
    let op: Op = serde_json::from_value(tagged).map_err(|error| format!("op `{name}`: {error}"))?;
    let arg = |word: &str| {
        let (param, offset) = word.split_once('+').ok_or_else(|| format!("`{word}` is no FORMAL+OFFSET"))?;
        Ok::<_, String>(ArgView { param: number(param)?, offset: number(offset)? })
    };
    Ok(Call { op, args: args.split_whitespace().map(arg).collect::<Result<_, _>>()? })
}

fn parse_buffer(text: &str, next: usize) -> Result<Buffer, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [place, name, _, lifetime, elem] = words[..] else {
        return Err("expected `buffer NUMBER NAME elems=… LIFETIME ELEMENT`".to_owned());
    };
    in_order(place, next)?;
    Ok(Buffer { name: name.to_owned(), elems: field(&words, "elems")?, lifetime: word(lifetime)?, elem: word(elem)? })
}

fn parse_instr(text: &str) -> Result<Instr, String> {
    let (body, rest) = text.split_once(" ;").unwrap_or((text, ""));
    let (head, args) = body
        .split_once(" :")
        .ok_or("expected `NUMBER STREAM KIND … : ARGUMENTS`")
        .map_err(|problem| format!("{problem}, not `{text}`"))?;
    let words: Vec<&str> = head.split_whitespace().collect();
    let (stream, kind) = match words[..] {
        [stream, ref kind @ ..] if !kind.is_empty() => (word(stream)?, parse_kind(kind, args)?),
        _ => return Err(format!("expected a stream and a kind, not `{head}`")),
    };
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let optional = |key: &str| rest.iter().any(|word| word.starts_with(key)).then(|| field(&rest, key)).transpose();
    let waits = match rest.iter().find_map(|word| word.strip_prefix("waits=")) {
        Some(list) => list.split(',').map(number).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(Instr { kind, stream, waits, microbatch: optional("mb")?, layer: optional("layer")? })
}

fn parse_kind(words: &[&str], args: &str) -> Result<Kind, String> {
    let views = || args.split_whitespace().map(parse_view).collect::<Result<Vec<View>, String>>();
    let view = || {
        let mut all = views()?;
        if all.len() == 1 { Ok(all.remove(0)) } else { Err(format!("expected one view, not `{}`", args.trim())) }
    };
    match words {
        ["load", input] => Ok(Kind::Load { input: word(input)?, into: view()? }),
        ["run", block, phase] => Ok(Kind::Run { block: number(block)?, phase: word(phase)?, args: views()? }),
        ["send", ..] => Ok(Kind::Send { to: field(words, "to")?, tag: field(words, "tag")?, view: view()? }),
        ["recv", ..] => Ok(Kind::Recv { from: field(words, "from")?, tag: field(words, "tag")?, view: view()? }),
        ["collective", op, axis] => Ok(Kind::Collective { op: word(op)?, axis: word(axis)?, view: view()? }),
        ["move"] => match views()?[..] {
            [from, to] => Ok(Kind::Move { from, to }),
            _ => Err(format!("expected two views, not `{}`", args.trim())),
        },
        ["free"] => Ok(Kind::Free { buffers: args.split_whitespace().map(number).collect::<Result<_, _>>()? }),
        other => Err(format!("`{}` is none of load, run, send, recv, collective, move, free", other.join(" "))),
    }
}

fn parse_view(text: &str) -> Result<View, String> {
    let (place, shard) = match text.split_once('@') {
        Some((place, axis)) => (place, Some(word::<Axis>(axis)?)),
        None => (text, None),
    };
    let parts = place.split_once('+').and_then(|(buffer, rest)| Some((buffer, rest.split_once(':')?)));
    let (buffer, (offset, elems)) = parts.ok_or_else(|| format!("`{text}` is no BUFFER+OFFSET:ELEMS[@AXIS]"))?;
    Ok(View { buffer: number(buffer)?, offset: number(offset)?, elems: number(elems)?, shard })
}

fn field<T: FromStr>(words: &[&str], key: &str) -> Result<T, String> {
    let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let value = value.ok_or_else(|| format!("`{key}=…` is missing"))?;
    value.parse().map_err(|_| format!("`{key}={value}`: no number that fits"))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no number that fits"))
}

/// A fieldless enum by its name in files.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}
