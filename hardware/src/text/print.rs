//! Programs to text.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::mesh::Mesh;
use crate::op::Op;
use crate::program::{Block, Instr, Kind, Program, RankProgram, View};

/// The text of a program.
pub fn print(program: &Program) -> String {
    let Mesh { dp, pp, tp, cp, ep, etp, shard, order } = program.mesh;
    let mut text = format!("mesh dp={dp} pp={pp} tp={tp} cp={cp} ep={ep}");
    for (key, size) in [("etp", etp), ("shard", shard)] {
        if let Some(size) = size {
            put(&mut text, format_args!(" {key}={size}"));
        }
    }
    if !order.is_usual() {
        put(&mut text, format_args!(" order={}", order.name()));
    }
    text.push('\n');
    if program.classes.count() > 1 {
        text.push_str("classes");
        program.classes.sizes().iter().for_each(|size| put(&mut text, format_args!(" {size}")));
        text.push('\n');
    }
    for (number, block) in program.blocks.iter().enumerate() {
        print_block(&mut text, number, block);
    }
    for (number, role) in program.roles.iter().enumerate() {
        print_role(&mut text, number, role);
    }
    text
}

fn print_block(text: &mut String, number: usize, block: &Block) {
    put(text, format_args!("block {number} {:?}\n", block.name));
    for param in &block.params {
        put(text, format_args!("  param {} elems={}\n", param.name, param.elems));
    }
    for call in &block.calls {
        let (name, fields) = op(&call.op);
        put(text, format_args!("  call {name}"));
        fields.iter().for_each(|(key, value)| put(text, format_args!(" {key}={value}")));
        text.push_str(" :");
        call.args.iter().for_each(|arg| put(text, format_args!(" {}+{}", arg.param, arg.offset)));
        text.push('\n');
    }
}

fn print_role(text: &mut String, number: usize, role: &RankProgram) {
    put(text, format_args!("role {number}\n"));
    for (number, buffer) in role.buffers.iter().enumerate() {
        let (name, elems, elem) = (&buffer.name, buffer.elems, buffer.elem.name());
        put(text, format_args!("  buffer {number} {name} elems={elems} {} {elem}\n", word(&buffer.lifetime)));
    }
    for (number, instr) in role.instrs.iter().enumerate() {
        put(text, format_args!("  {number} {} ", word(&instr.stream)));
        print_kind(text, &instr.kind);
        print_rest(text, instr);
        text.push('\n');
    }
}

fn print_kind(text: &mut String, kind: &Kind) {
    match kind {
        Kind::Load { input, into } => put(text, format_args!("load {} :{}", word(input), views(&[*into]))),
        Kind::Run { block, phase, args } => put(text, format_args!("run {block} {} :{}", word(phase), views(args))),
        Kind::Send { to, tag, view } => put(text, format_args!("send to={to} tag={tag} :{}", views(&[*view]))),
        Kind::Recv { from, tag, view } => put(text, format_args!("recv from={from} tag={tag} :{}", views(&[*view]))),
        Kind::Collective { op, axis, view } => {
            put(text, format_args!("collective {} {} :{}", word(op), axis.name(), views(&[*view])));
        }
        Kind::Move { from, to } => put(text, format_args!("move :{}", views(&[*from, *to]))),
        Kind::Free { buffers } => {
            text.push_str("free :");
            buffers.iter().for_each(|buffer| put(text, format_args!(" {buffer}")));
        }
    }
}

fn print_rest(text: &mut String, instr: &Instr) {
    if instr.waits.is_empty() && instr.microbatch.is_none() && instr.layer.is_none() {
        return;
    }
    text.push_str(" ;");
    if !instr.waits.is_empty() {
        let waits: Vec<String> = instr.waits.iter().map(u32::to_string).collect();
        put(text, format_args!(" waits={}", waits.join(",")));
    }
    for (key, number) in [("mb", instr.microbatch), ("layer", instr.layer)] {
        if let Some(number) = number {
            put(text, format_args!(" {key}={number}"));
        }
    }
}

fn views(all: &[View]) -> String {
    let mut text = String::new();
    for view in all {
        put(&mut text, format_args!(" {}+{}:{}", view.buffer, view.offset, view.elems));
        if let Some(axis) = view.shard {
            put(&mut text, format_args!("@{}", axis.name()));
        }
    }
    text
}

/// An op's name and its dims, as serde names them.
fn op(op: &Op) -> (String, Vec<(String, Value)>) {
    match serde_json::to_value(op).expect("an op is names and numbers") {
        Value::Object(tagged) => {
            let (name, dims) = tagged.into_iter().next().expect("an op has a name");
            match dims {
                Value::Object(dims) => (name, dims.into_iter().collect()),
                other => unreachable!("dims of {name} are {other}"),
            }
        }
        other => unreachable!("an op is {other}"),
    }
}

/// A fieldless enum's name in files.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("a word is {other:?}"),
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments) {
    text.write_fmt(arguments).expect("a string takes all text");
}
