//! YAML as a tree with positions: anchors resolved, merge keys applied, scalars kept as they are written.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::diagnostic::Report;
use crate::source::Source;

/// Deepest nesting read.
const NESTING_MAX: usize = 64;

/// Most nodes of a document, aliases counted each time: a small file cannot grow into a large tree.
const NODES_MAX: usize = 200_000;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `plain`: written without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Node {
    /// Whether it is YAML's null: nothing, `~` or `null`, without quotes.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// A boolean: `true`, or one of the words Compose still takes from YAML 1.1.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }
}

/// A collection that is not yet complete.
enum Open {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

struct Frame {
    open: Open,
    start: usize,
    anchor: usize,
    /// Nodes counted before it.
    nodes_before: usize,
}

/// The tree of the first document; mistakes are reported and give `None`.
pub(super) fn read(report: &mut Report<'_>) -> Option<Node> {
    let source = report.source;
    let mut builder = Builder { source, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str(&source.text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = source.offset(error.marker().line(), error.marker().col());
                let help = "check the indentation, quotes and brackets here and on the line above";
                report.error(&(at..at + 1), format!("not valid YAML: {}", error.info()), help);
                return None;
            }
        };
        if let Err((span, message, help)) = builder.event(event, span) {
            report.error(&span, message, help);
            return None;
        }
    }
    builder.root.or_else(|| {
        report.error(&(0..0), "the file is empty", "give a Compose file with `services:`");
        None
    })
}

struct Builder<'s> {
    source: &'s Source<'s>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

type Mistake = (Range<usize>, String, &'static str);

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let start = self.source.offset(span.start.line(), span.start.col());
        let end = self.source.offset(span.end.line(), span.end.col()).max(start);
        if let Event::Scalar(_, _, _, Some(tag))
        | Event::SequenceStart(_, Some(tag))
        | Event::MappingStart(_, Some(tag)) = &event
            && !tag.is_yaml_core_schema()
        {
            let help = "merge the files first (`docker compose config`), and convert the result";
            return Err((start..end.max(start + 1), format!("the tag `{tag}` is not understood"), help));
        }
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err((start..end.max(start + 1), "the file has a second document".to_owned(), "convert each on its own"))
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let node = Node { span: start..end, value: Value::Scalar { text: text.into_owned(), plain } };
                self.add(node, anchor, 1)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new()), start, anchor),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Vec::new(), None), start, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.stack.pop() else { return Ok(()) };
                let span = frame.start..end;
                let value = match frame.open {
                    Open::List(items) => Value::List(items),
                    Open::Map(pairs, _) => Value::Map(merge(pairs)?),
                };
                let size = self.nodes - frame.nodes_before;
                self.add(Node { span, value }, frame.anchor, size)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some((_, size)) if self.nodes + size > NODES_MAX => Err(too_many(start..end)),
                Some((node, size)) => {
                    let (node, size) = (node.clone(), *size);
                    self.nodes += size;
                    self.add(node, 0, size)
                }
                None => {
                    let help = "an alias stands for an anchor (&name) that is complete before it";
                    Err((start..end, "the alias refers to what it is part of".to_owned(), help))
                }
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, start: usize, anchor: usize) -> Result<(), Mistake> {
        if self.stack.len() >= NESTING_MAX {
            return Err((start..start + 1, format!("nested deeper than {NESTING_MAX}"), "flatten the file"));
        }
        self.stack.push(Frame { open, start, anchor, nodes_before: self.nodes });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(too_many(node.span));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map(pairs, waiting)) => match waiting.take() {
                Some(key) => pairs.push((key, node)),
                None => match node.value {
                    Value::Scalar { text, .. } => *waiting = Some(Key { text, span: node.span }),
                    _ => return Err((node.span, "a key is a list or a mapping".to_owned(), "write a plain key")),
                },
            },
        }
        Ok(())
    }
}

fn too_many(span: Range<usize>) -> Mistake {
    (span, format!("the file has more than {NODES_MAX} values"), "use fewer aliases")
}

/// Applies `<<`: the mapping's own keys win, then earlier merged mappings over later ones.
fn merge(pairs: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>, Mistake> {
    let mut whole: Vec<(Key, Node)> = Vec::with_capacity(pairs.len());
    let mut names: HashSet<String> = HashSet::with_capacity(pairs.len());
    let mut taken_over: Vec<(Key, Node)> = Vec::new();
    for (key, node) in pairs {
        if key.text == "<<" {
            let span = node.span.clone();
            let maps = match node.value {
                Value::Map(_) => vec![node],
                Value::List(items) => items,
                Value::Scalar { .. } => Vec::new(),
            };
            let wrong = maps.is_empty() || maps.iter().any(|map| !matches!(map.value, Value::Map(_)));
            if wrong {
                return Err((span, "`<<` takes a mapping, or a list of them".to_owned(), "write <<: *anchor"));
            }
            for map in maps {
                if let Value::Map(pairs) = map.value {
                    taken_over.extend(pairs);
                }
            }
        } else if !names.insert(key.text.clone()) {
            return Err((key.span, format!("`{}` is given twice", key.text), "remove one of the two"));
        } else {
            whole.push((key, node));
        }
    }
    for (key, node) in taken_over {
        if names.insert(key.text.clone()) {
            whole.push((key, node));
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, check: impl Fn(Option<Node>, String) -> T) -> T {
        let source = Source::new("c.yaml", text);
        let mut report = Report::new(&source);
        let node = read(&mut report);
        check(node, report.finish().to_string())
    }

    fn get<'n>(node: &'n Node, key: &str) -> &'n Node {
        let Value::Map(pairs) = &node.value else { panic!("no map: {node:?}") };
        &pairs.iter().find(|(seen, _)| seen.text == key).unwrap_or_else(|| panic!("no {key}")).1
    }

    #[test]
    fn merge_keys_give_what_is_missing_and_never_what_is_there() {
        let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n";
        with(text, |node, _| {
            let node = node.unwrap();
            let read = |key| get(get(&node, "c"), key).text().unwrap().to_owned();
            assert_eq!((read("x"), read("y"), read("z")), ("9".into(), "2".into(), "4".into()));
        });
    }

    #[test]
    fn a_value_knows_where_it_stands_also_behind_wide_characters() {
        with("ä: ö\nkey: välue\n", |node, _| {
            assert_eq!(get(&node.unwrap(), "key").span, 12..18);
        });
    }

    #[test]
    fn bombs_and_broken_files_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inside = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![inside; 10].join(", ")));
        }
        let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        for (text, part) in [
            (bomb.as_str(), "more than"),
            (deep.as_str(), "recursion limit"),
            (nested.as_str(), "nested deeper"),
            ("a: &a [*a]\n", "YAML"),
            ("a: [1\nb: 2\n", "not valid YAML"),
            ("a: 1\na: 2\n", "given twice"),
            ("a: &a {x: 1}\nb: {<<: [*a, 1]}\n", "takes a mapping"),
            ("a: !reset null\n", "tag `!reset`"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("? [a]\n: 1\n", "a key is a list"),
            ("", "empty"),
        ] {
            with(text, |node, errors| {
                assert!(node.is_none(), "{part}");
                assert!(errors.contains(part) || errors.contains("alias"), "{part}: {errors}");
            });
        }
    }
}
