//! Commands by name: those of the shell itself, those whose output is known, and all others, which would be started.
//!
//! In: a command's words. Out: changes of a [`Shell`], or an entry among what is started.
//!
//! Invariant: no command is run. Of those that only say or write something, what they say is worked out.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Started;
use super::parser::{parse, parse_word};
use super::state::{Ending, Flow, Shell, ShellValue};
use super::syntax::{ShellNode, Simple};

/// Commands that change nothing that is read.
const QUIET: &str = "
    set shopt cd pushd popd mkdir rm ulimit trap wait sleep module ml conda ls date hostname nvidia-smi pip which
    umask touch chmod cp mv ln git pwd type hash alias unalias kill pkill rocm-smi free df lscpu env_vars sync wget
    curl apt-get apt ray tensorboard huggingface-cli wandb tar unzip exec_nothing printenv tee clear stty rsync
    ssh-keyscan
";
/// Commands before another command.
const BEFORE: &[&str] = &["exec", "nohup", "time", "command", "builtin", "sudo"];

impl Shell<'_> {
    /// A command, its variables set.
    pub fn command(&mut self, mut words: Vec<String>, simple: &Simple, own: &[String]) -> (Flow, Ending) {
        let on = (Flow::On, Ending::Well);
        while words.len() > 1 && BEFORE.contains(&words[0].as_str()) {
            words.remove(0);
        }
        let name = words[0].clone();
        self.write(&words, simple);
        if let Some(body) = self.functions.get(&name).cloned() {
            return self.call(&body, words);
        }
        match name.as_str() {
            "true" | ":" => {}
            "false" => return (Flow::On, Ending::Badly),
            "exit" => return (Flow::Exit, Ending::Well),
            "return" => {
                let failed = words.get(1).is_some_and(|code| code != "0");
                return (Flow::Return, Ending::of(!failed));
            }
            "break" => return (Flow::Break, Ending::Well),
            "continue" => return (Flow::Continue, Ending::Well),
            "[" => {
                let end = words.iter().rposition(|word| word == "]").unwrap_or(words.len());
                return (Flow::On, self.single_test(&words[1..end]));
            }
            "test" => return (Flow::On, self.single_test(&words[1..])),
            "let" => words[1..].iter().for_each(|text| drop(self.number_of(text))),
            "unset" => words[1..].iter().for_each(|name| drop(self.variables.remove(name))),
            "shift" => {
                let by = words.get(1).and_then(|by| by.parse().ok()).unwrap_or(1);
                self.arguments.drain(..by.min(self.arguments.len()));
            }
            "set" if words.get(1).is_some_and(|word| word == "--") => {
                (self.arguments, self.told) = (words[2..].to_vec(), true);
            }
            "read" | "mapfile" | "readarray" => {
                for name in words[1..].iter().filter(|word| !word.starts_with('-')).cloned().collect::<Vec<_>>() {
                    let hole = self.other(&format!("${name}"), "read as the script runs");
                    self.variables.insert(name, ShellValue::One(hole));
                }
            }
            "eval" => return (self.run_text(&words[1..].join(" ")), Ending::Well),
            "source" | "." => return (self.source(&words), Ending::Well),
            "printf" if words.get(1).is_some_and(|word| word == "-v") && words.len() > 3 => {
                let text = formatted(&words[3..]);
                self.variables.insert(words[2].clone(), ShellValue::One(text));
            }
            "echo" | "printf" | "cat" | "sed" | "envsubst" => {}
            name if QUIET.split_whitespace().any(|quiet| quiet == name) => {}
            _ => return self.start(words, simple, own),
        }
        on
    }

    fn call(&mut self, body: &Rc<Vec<ShellNode>>, words: Vec<String>) -> (Flow, Ending) {
        const DEEPEST: usize = 40;
        if self.depth > DEEPEST {
            self.note(format!("the function `{}` calls itself too often to be read", words[0]));
            return (Flow::On, Ending::Well);
        }
        self.depth += 1;
        let outer =
            (std::mem::replace(&mut self.arguments, words[1..].to_vec()), std::mem::replace(&mut self.told, true));
        let flow = self.run(body);
        (self.arguments, self.told) = outer;
        self.depth -= 1;
        (if flow == Flow::Exit { Flow::Exit } else { Flow::On }, Ending::Well)
    }

    /// Another file's commands, in this one's place.
    fn source(&mut self, words: &[String]) -> Flow {
        let Some(name) = words.get(1) else { return Flow::On };
        let text = if self.hole_in(name).is_some() { None } else { self.file(name) };
        let shown = self.show(name);
        // What surroundings set up, hardly sets what is read.
        let surroundings =
            ["activate", "bashrc", "profile", "conda.sh", "set_env.sh", "modules", "init/bash", ".env", "setvars"];
        match text.map(|text| parse(&text)) {
            Some(Ok(script)) => match self.run_script(script) {
                Flow::Exit => Flow::Exit,
                _ => Flow::On,
            },
            Some(Err(problem)) => {
                self.note(format!("`{shown}`, which it takes in, cannot be read: {problem}"));
                Flow::On
            }
            None if surroundings.iter().any(|end| shown.contains(end)) => Flow::On,
            None => {
                self.note(format!("`{shown}`, which it takes in, is not beside it: what that sets is not known"));
                Flow::On
            }
        }
    }

    /// A file that the script wrote, or that lies beside it.
    pub fn file(&mut self, name: &str) -> Option<String> {
        match self.written.get(name) {
            Some(text) => Some(text.clone()),
            None => (self.beside)(name),
        }
    }

    /// What is started, or a script or text that is run in its own shell.
    fn start(&mut self, words: Vec<String>, simple: &Simple, own: &[String]) -> (Flow, Ending) {
        let name = words[0].rsplit('/').next().unwrap_or_default().to_owned();
        let shell = ["bash", "sh", "zsh"].contains(&name.as_str());
        let text =
            words.iter().position(|word| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c'));
        let inner = if shell {
            Some(0)
        } else {
            // `srun … bash -c "…"`, `docker run … bash -c "…"`.
            words.iter().position(|word| ["bash", "sh"].contains(&word.rsplit('/').next().unwrap_or_default()))
        };
        if let (Some(inner), Some(text)) = (inner, text.filter(|text| inner.is_some_and(|inner| *text > inner)))
            && let Some(command) = words.get(text + 1)
        {
            let before: Vec<String> = words[..inner].to_vec();
            return self.inner(&command.clone(), words[text + 2..].to_vec(), before);
        }
        let script = inner.and_then(|inner| {
            let (at, file) = words.iter().enumerate().skip(inner + 1).find(|(_, word)| !word.starts_with('-'))?;
            (!words[inner + 1..at].iter().any(|word| word == "-c")).then(|| (file.clone(), words[at + 1..].to_vec()))
        });
        let direct = (words[0].ends_with(".sh") && inner.is_none()).then(|| (words[0].clone(), words[1..].to_vec()));
        if let Some((file, arguments)) = script.or(direct)
            && self.hole_in(&file).is_none()
            && let Some(text) = self.file(&file)
        {
            let before = inner.map_or(Vec::new(), |inner| words[..inner].to_vec());
            let quoted: Vec<String> = std::iter::once(file).chain(arguments).collect();
            return self.inner(&text, quoted, before);
        }
        let mut environment = BTreeMap::new();
        for name in self.exported.iter().chain(own) {
            if let Some(ShellValue::One(value)) = self.variables.get(name) {
                environment.insert(name.clone(), value.clone());
            }
        }
        if self.started.len() < 1000 {
            self.started.push(Started { words, environment, line: simple.line, when: self.when.clone() });
        }
        (Flow::On, Ending::Well)
    }

    /// A text or script in a shell of its own, behind what starts it there.
    fn inner(&mut self, text: &str, arguments: Vec<String>, before: Vec<String>) -> (Flow, Ending) {
        let variables = self.variables.clone();
        let arguments = std::mem::replace(&mut self.arguments, arguments.get(1..).unwrap_or_default().to_vec());
        let told = std::mem::replace(&mut self.told, true);
        let first = self.started.len();
        self.run_text(text);
        for started in &mut self.started[first..] {
            started.words.splice(0..0, before.iter().cloned());
        }
        (self.variables, self.arguments, self.told) = (variables, arguments, told);
        (Flow::On, Ending::Well)
    }

    /// Notes what a command writes into a file.
    fn write(&mut self, words: &[String], simple: &Simple) {
        let Some(redirect) = simple.redirects.iter().find(|redirect| redirect.sign.starts_with('>')) else { return };
        let target = self.text_of(&redirect.target);
        if target.starts_with("/dev/") || target.starts_with('&') {
            return;
        }
        let known = ["echo", "printf", "cat", "sed", "envsubst", ":"].contains(&words[0].as_str());
        let Some(text) = known.then(|| self.said_by(words, simple, None)).flatten() else { return };
        let old = if redirect.sign == ">>" { self.written.remove(&target).unwrap_or_default() } else { String::new() };
        let text = self.count(old + &text);
        if self.written.len() < 100 {
            self.written.insert(target, text);
        }
    }

    /// What commands beside each other do: the last may write what the others say.
    pub fn pipeline(&mut self, all: &[ShellNode]) -> (Flow, Ending) {
        let mut input: Option<String> = None;
        let mut flow = Flow::On;
        for (at, node) in all.iter().enumerate() {
            let said = self.said(node, input.take());
            if let (Some(text), ShellNode::Simple(simple)) = (&said, node) {
                let file = simple.redirects.iter().find(|redirect| redirect.sign.starts_with('>'));
                let tee = at > 0 && simple.words.first().map(|word| self.text_of(word)).as_deref() == Some("tee");
                let target = file.map(|redirect| self.text_of(&redirect.target));
                let target = target.or(if tee { simple.words.get(1).map(|word| self.text_of(word)) } else { None });
                if let Some(target) = target.filter(|target| !target.starts_with('/') || !target.starts_with("/dev/")) {
                    self.written.insert(target, text.clone());
                }
            }
            if said.is_none() {
                flow = self.node(node).0;
            }
            input = said;
        }
        (if flow == Flow::Exit { Flow::Exit } else { Flow::On }, Ending::Well)
    }

    /// What a command says, if that is known without running it.
    pub fn said(&mut self, node: &ShellNode, input: Option<String>) -> Option<String> {
        match node {
            ShellNode::Simple(simple) => {
                let words = self.expand_all(&simple.words);
                if words.is_empty() {
                    let file = simple.redirects.iter().find(|redirect| redirect.sign == "<")?;
                    let name = self.text_of(&file.target);
                    return self.file(&name);
                }
                self.said_by(&words, simple, input)
            }
            ShellNode::Pipeline(all) => {
                let mut input = None;
                for node in all {
                    input = Some(self.said(node, input)?);
                }
                input
            }
            _ => None,
        }
    }

    fn said_by(&mut self, words: &[String], simple: &Simple, input: Option<String>) -> Option<String> {
        let here = simple.redirects.iter().find(|redirect| redirect.here.is_some() || redirect.sign == "<<<").cloned();
        let input = match here {
            Some(redirect) => Some(match redirect.here {
                Some(number) => {
                    let (text, plain) = self.scripts.last()?.heres.get(number)?.clone();
                    if plain { text } else { self.here(&text) }
                }
                None => self.text_of(&redirect.target),
            }),
            None => input,
        };
        let rest = &words[1..];
        match words[0].as_str() {
            "echo" => {
                let words = rest.iter().skip_while(|word| ["-n", "-e", "-ne", "-en"].contains(&word.as_str()));
                Some(words.cloned().collect::<Vec<_>>().join(" ") + "\n")
            }
            "printf" => Some(formatted(rest)),
            "cat" if rest.is_empty() => input,
            "cat" => rest.iter().map(|name| self.file(name)).collect::<Option<String>>(),
            "basename" => {
                let name = rest.first()?.trim_end_matches('/').rsplit('/').next()?.to_owned();
                Some(rest.get(1).and_then(|end| name.strip_suffix(end.as_str())).unwrap_or(&name).to_owned())
            }
            "dirname" => Some(rest.first()?.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned()),
            "pwd" => Some(".".to_owned()),
            "realpath" | "readlink" => rest.iter().find(|word| !word.starts_with('-')).cloned(),
            "expr" => self.number_of(&rest.join(" ")).ok().map(|value| value.to_string()),
            "bc" => {
                let text = input?;
                let text = text.rsplit(';').next()?.trim().to_owned();
                self.number_of(&text).ok().map(|value| value.to_string())
            }
            "seq" => {
                let ends: Option<Vec<i64>> = rest.iter().map(|word| word.parse().ok()).collect();
                let (from, to) = match ends?[..] {
                    [to] => (1, to),
                    [from, to] => (from, to),
                    _ => return None,
                };
                (to - from < 1000).then(|| (from..=to).map(|n| n.to_string()).collect::<Vec<_>>().join("\n"))
            }
            "sed" => {
                let text = match (input, rest.get(1)) {
                    (Some(text), _) => text,
                    (None, Some(name)) => self.file(&name.clone())?,
                    (None, None) => return None,
                };
                substituted(rest.first()?, text)
            }
            "wc" if rest.first().is_some_and(|word| word == "-l") => Some(input?.lines().count().to_string()),
            "wc" if rest.first().is_some_and(|word| word == "-w") => {
                Some(input?.split_whitespace().count().to_string())
            }
            _ => None,
        }
    }

    /// A text of the script's own, with variables put in.
    fn here(&mut self, text: &str) -> String {
        // Quotes mean nothing in it.
        let marked = text.replace('\\', "\\\\").replace('"', "\\\"").replace("\\\\$", "\\$");
        match parse_word(&format!("\"{marked}\"")) {
            Ok(word) => self.text_of(&word),
            Err(_) => text.to_owned(),
        }
    }
}

/// `s/a/b/g`, without patterns.
fn substituted(rule: &str, text: String) -> Option<String> {
    let sign = rule.strip_prefix('s')?.chars().next()?;
    let mut parts = rule[1 + sign.len_utf8()..].split(sign);
    let (what, by, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = !what.is_empty() && !what.contains(['*', '[', '\\', '^', '$', '.']);
    let once = |line: &str| if flags.contains('g') { line.replace(what, by) } else { line.replacen(what, by, 1) };
    plain.then(|| text.lines().map(|line| once(line) + "\n").collect())
}

/// `printf`'s text: `%s` and `%d` in their order.
fn formatted(words: &[String]) -> String {
    let Some((form, rest)) = words.split_first() else { return String::new() };
    let (mut text, mut rest) = (String::new(), rest.iter());
    let mut parts = form.split('%');
    text += parts.next().unwrap_or_default();
    for part in parts {
        let skip = part.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        text += rest.next().map_or("", String::as_str);
        text += &part[skip..];
    }
    text.replace("\\n", "\n")
}
