//! Control flow: which commands come to be, and what variables hold where branches meet.
//!
//! In: [`ShellNode`]s. Out: changes of a [`Shell`], and the commands that it would start.
//!
//! Invariant: of a condition that is not known both branches are read, each from the same beginning, and joined; a branch that ends
//! the script is taken as not gone.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::glob::fits;
use super::state::{Ending, Flow, Lack, Shell, ShellValue};
use super::syntax::{Script, ShellNode};

/// How deep functions, loops and texts that are run may go.
const DEEPEST: usize = 80;
/// Rounds of a loop.
const MOST_ROUNDS: usize = 500;

impl Shell<'_> {
    /// Runs a script that was read.
    pub fn run_script(&mut self, script: Script) -> Flow {
        if self.depth > DEEPEST {
            self.note("commands that start themselves in a circle are left out".to_owned());
            return Flow::On;
        }
        self.depth += 1;
        let script = Rc::new(script);
        self.scripts.push(script.clone());
        let flow = self.run(&script.nodes);
        self.scripts.pop();
        self.depth -= 1;
        flow
    }

    /// Commands in their order.
    pub fn run(&mut self, nodes: &[ShellNode]) -> Flow {
        for node in nodes {
            let (flow, _) = self.node(node);
            if flow != Flow::On {
                return flow;
            }
        }
        Flow::On
    }

    /// The same, and how the last ends.
    fn run_for(&mut self, nodes: &[ShellNode]) -> (Flow, Ending) {
        let mut outcome = Ending::Well;
        for node in nodes {
            let (flow, ends) = self.node(node);
            outcome = ends;
            if flow != Flow::On {
                return (flow, outcome);
            }
        }
        (Flow::On, outcome)
    }

    pub fn node(&mut self, node: &ShellNode) -> (Flow, Ending) {
        if !self.step() {
            return (Flow::Exit, Ending::Well);
        }
        match node {
            ShellNode::Simple(simple) => self.simple(simple),
            ShellNode::Pipeline(all) => self.pipeline(all),
            ShellNode::Not(node) => {
                let (flow, outcome) = self.node(node);
                (flow, outcome.not())
            }
            ShellNode::Chain { or, first, second } => match self.node(first) {
                (Flow::On, Ending::Well) if *or => (Flow::On, Ending::Well),
                (Flow::On, Ending::Badly) if !*or => (Flow::On, Ending::Badly),
                (Flow::On, Ending::Unknown(what)) => {
                    let what = if *or { format!("not {what}") } else { what };
                    let flow = self.branches(&what, &mut |shell| shell.node(second).0, &mut |_| Flow::On);
                    (flow, Ending::Unknown(what))
                }
                (Flow::On, _) => self.node(second),
                ended => ended,
            },
            ShellNode::If { arms, otherwise } => (self.choose(arms, otherwise), Ending::Well),
            ShellNode::Case { word, arms } => {
                let text = self.text_of(word);
                (self.case(&text, arms), Ending::Well)
            }
            ShellNode::For { name, words, body } => {
                let words = match words {
                    Some(words) => self.expand_all(words),
                    None => self.arguments.clone(),
                };
                (self.each(name, words, body), Ending::Well)
            }
            ShellNode::Count { parts, body } => (self.count_rounds(parts, body), Ending::Well),
            ShellNode::While { until, condition, body } => (self.repeat(*until, condition, body), Ending::Well),
            ShellNode::Group { apart: false, body } => self.run_for(body),
            ShellNode::Group { apart: true, body } => {
                let (variables, arguments) = (self.variables.clone(), self.arguments.clone());
                let (flow, outcome) = self.run_for(body);
                (self.variables, self.arguments) = (variables, arguments);
                // Leaving a group apart leaves nothing else.
                let _ = flow;
                (Flow::On, outcome)
            }
            ShellNode::Function { name, body } => {
                self.functions.insert(name.clone(), Rc::new(body.clone()));
                (Flow::On, Ending::Well)
            }
            ShellNode::Arithmetic(text) => (Flow::On, self.nonzero(text)),
            ShellNode::Test(words) => (Flow::On, self.double_test(words)),
        }
    }

    fn nonzero(&mut self, text: &str) -> Ending {
        match self.number_of(text) {
            Ok(value) => Ending::of(value != 0),
            Err(_) => {
                // Whatever it sets is not known either.
                let sets = text.split([',', ';']).filter_map(|part| part.split_once('='));
                for (name, _) in sets {
                    let name = name.trim_end_matches(['+', '-', '*', '/', '%']).trim().to_owned();
                    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                        let hole = self.other(&format!("(({text}))"), "arithmetic over what is not known");
                        self.variables.insert(name, ShellValue::One(hole));
                    }
                }
                Ending::Unknown(format!("(( {} ))", text.trim()))
            }
        }
    }

    fn choose(&mut self, arms: &[(Vec<ShellNode>, Vec<ShellNode>)], otherwise: &[ShellNode]) -> Flow {
        let Some(((condition, body), rest)) = arms.split_first() else { return self.run(otherwise) };
        match self.run_for(condition) {
            (Flow::On, Ending::Well) => self.run(body),
            (Flow::On, Ending::Badly) => self.choose(rest, otherwise),
            (Flow::On, Ending::Unknown(what)) => {
                self.branches(&what, &mut |shell| shell.run(body), &mut |shell| shell.choose(rest, otherwise))
            }
            (ended, _) => ended,
        }
    }

    fn case(&mut self, text: &str, arms: &[(Vec<super::syntax::RawWord>, Vec<ShellNode>)]) -> Flow {
        let Some(((patterns, body), rest)) = arms.split_first() else { return Flow::On };
        let all: Vec<String> = patterns.iter().map(|pattern| self.text_of(pattern)).collect();
        let any = all.iter().any(|pattern| pattern == "*");
        let unset = self.lack(text) == Some(Lack::Unset);
        let text = if unset { "" } else { text };
        if self.hole_in(text).is_none() || any {
            let fits = any || (text.len() < 4096 && all.iter().any(|pattern| fits(pattern, text)));
            return if fits { self.run(body) } else { self.case(text, rest) };
        }
        let what = format!("{} is {}", self.show(text), all.join(" or "));
        let owned = text.to_owned();
        self.branches(&what, &mut |shell| shell.run(body), &mut |shell| shell.case(&owned, rest))
    }

    /// Both ways of a condition that is not known.
    pub fn branches(
        &mut self,
        what: &str,
        yes: &mut dyn FnMut(&mut Self) -> Flow,
        no: &mut dyn FnMut(&mut Self) -> Flow,
    ) -> Flow {
        if self.depth > DEEPEST {
            return Flow::On;
        }
        self.depth += 1;
        let (before, started) = (self.variables.clone(), self.started.len());
        self.when.push(what.to_owned());
        let flow = yes(self);
        self.when.pop();
        let after = std::mem::replace(&mut self.variables, before);
        let ran = self.started.len();
        self.when.push(format!("not {what}"));
        let other = no(self);
        self.when.pop();
        self.depth -= 1;
        let ends = |flow: Flow| flow == Flow::Exit || flow == Flow::Return;
        // What was started on a way that ends, was started.
        match (ends(flow), ends(other)) {
            (true, true) => flow,
            (true, false) if ran == started => other,
            (false, true) if self.started.len() == ran => {
                self.variables = after;
                flow
            }
            _ => {
                self.variables = self.joined(after, what);
                if ends(flow) { other } else { flow }
            }
        }
    }

    /// What variables hold where two ways meet, of which the second is that of the shell.
    fn joined(&mut self, yes: BTreeMap<String, ShellValue>, what: &str) -> BTreeMap<String, ShellValue> {
        let no = std::mem::take(&mut self.variables);
        let names: std::collections::BTreeSet<String> = yes.keys().chain(no.keys()).cloned().collect();
        let mut all = BTreeMap::new();
        for name in names {
            let held = match (yes.get(&name), no.get(&name)) {
                (Some(a), Some(b)) if a == b => a.clone(),
                (a, b) => self.either(&name, a, b, what),
            };
            all.insert(name, held);
        }
        all
    }

    fn either(&mut self, name: &str, a: Option<&ShellValue>, b: Option<&ShellValue>, what: &str) -> ShellValue {
        let why = format!("it depends on `{what}`");
        let list = |held: Option<&ShellValue>| match held {
            Some(ShellValue::Many(items)) => items.clone(),
            Some(ShellValue::One(text)) if !text.is_empty() => vec![text.clone()],
            _ => Vec::new(),
        };
        if matches!(a, Some(ShellValue::Many(_))) || matches!(b, Some(ShellValue::Many(_))) {
            let (a, b) = (list(a), list(b));
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let maybe = vec![a[same..].to_vec(), b[same..].to_vec()];
            let hole = self.hole(&format!("${{{name}[@]}}"), why, Lack::Other, maybe);
            return ShellValue::Many(a[..same].iter().cloned().chain([hole]).collect());
        }
        if matches!(a, Some(ShellValue::Named(_))) || matches!(b, Some(ShellValue::Named(_))) {
            return a.or(b).cloned().unwrap_or(ShellValue::One(String::new()));
        }
        let text = |held: Option<&ShellValue>| match held {
            Some(ShellValue::One(text)) => text.clone(),
            _ => String::new(),
        };
        let (a, b) = (text(a), text(b));
        let same = a
            .char_indices()
            .zip(b.chars())
            .take_while(|((_, a), b)| a == b)
            .map(|((at, c), _)| at + c.len_utf8())
            .last();
        // Words that both have, whole.
        let same = same.unwrap_or(0);
        let whole = |text: &str| text.len() == same || text[same..].starts_with(' ');
        let same = if whole(&a) && whole(&b) { same } else { a[..same].rfind(' ').map_or(0, |at| at + 1) };
        let words = |text: &str| text[same..].split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let hole = self.hole(&format!("${name}"), why, Lack::Other, vec![words(&a), words(&b)]);
        let blank = if same > 0 && !a[..same].ends_with(' ') { " " } else { "" };
        ShellValue::One(format!("{}{blank}{hole}", &a[..same]))
    }

    fn each(&mut self, name: &str, words: Vec<String>, body: &[ShellNode]) -> Flow {
        for word in words.into_iter().take(MOST_ROUNDS) {
            self.variables.insert(name.to_owned(), ShellValue::One(word));
            match self.run(body) {
                Flow::On | Flow::Continue => {}
                Flow::Break => break,
                ended => return ended,
            }
        }
        Flow::On
    }

    fn count_rounds(&mut self, [first, condition, step]: &[String; 3], body: &[ShellNode]) -> Flow {
        let _ = self.number_of(first);
        for _ in 0..MOST_ROUNDS {
            match self.nonzero(condition) {
                Ending::Well => {}
                Ending::Badly => break,
                // Once, as an example.
                Ending::Unknown(what) => {
                    return self.branches(&what, &mut |shell| shell.run(body), &mut |_| Flow::On);
                }
            }
            match self.run(body) {
                Flow::On | Flow::Continue => {}
                Flow::Break => break,
                ended => return ended,
            }
            let _ = self.number_of(step);
        }
        Flow::On
    }

    fn repeat(&mut self, until: bool, condition: &[ShellNode], body: &[ShellNode]) -> Flow {
        for _ in 0..MOST_ROUNDS {
            let (flow, mut outcome) = self.run_for(condition);
            if flow != Flow::On {
                return flow;
            }
            if until {
                outcome = outcome.not();
            }
            match outcome {
                Ending::Well => {}
                Ending::Badly => return Flow::On,
                Ending::Unknown(what) => {
                    // Loops over arguments: as if it were started without any.
                    if what.contains("$#") || what.contains("$1") {
                        self.unset.insert("$@".to_owned());
                        return Flow::On;
                    }
                    return self.branches(&what, &mut |shell| shell.run(body), &mut |_| Flow::On);
                }
            }
            match self.run(body) {
                Flow::On | Flow::Continue => {}
                Flow::Break => return Flow::On,
                ended => return ended,
            }
        }
        self.note(format!("a loop of more than {MOST_ROUNDS} rounds is read no further"));
        Flow::On
    }
}
