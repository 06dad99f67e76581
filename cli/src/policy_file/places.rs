//! Where in a file each field stands.
//!
//! The values themselves are read by another parser, which knows no places. Should the two ever disagree, an error is
//! told with no place or its parent's, never with another meaning.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// The places of one document's fields, by paths such as `spec.match.patterns[0]`; the document's own is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    values: HashMap<String, Place>,
    keys: HashMap<String, Place>,
}

impl Places {
    /// Where the field's value begins, or the nearest thing around it that is there.
    pub(super) fn value(&self, path: &str) -> Option<Place> {
        around(path).find_map(|path| self.values.get(path)).copied()
    }

    /// Where the field's name stands.
    pub(super) fn key(&self, path: &str) -> Option<Place> {
        self.keys.get(path).copied().or_else(|| self.value(path))
    }
}

/// A path, and what lies around it, step by step.
fn around(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind(['.', '[']) {
        Some(at) => Some(&path[..at]),
        None if path.is_empty() => None,
        None => Some(""),
    })
}

/// The places in each document of a file, as far as it can be read.
pub(super) fn documents(text: &str) -> Vec<Places> {
    let mut reading = Reading::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(Ok((event, span))) = parser.next_event() {
        match event {
            Event::DocumentStart(_) => reading.documents.push(Places::default()),
            Event::Scalar(text, ..) => {
                reading.node(&span, Some(&text));
            }
            Event::Alias(_) => {
                reading.node(&span, None);
            }
            Event::MappingStart(..) => {
                let path = reading.node(&span, None);
                reading.nesting.push(Inside::Mapping { path, key: None });
            }
            Event::SequenceStart(..) => {
                let path = reading.node(&span, None);
                reading.nesting.push(Inside::Sequence { path, index: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                reading.nesting.pop();
            }
            _ => {}
        }
    }
    reading.documents
}

#[derive(Default)]
struct Reading {
    documents: Vec<Places>,
    nesting: Vec<Inside>,
}

/// What the parser is inside of.
enum Inside {
    /// A mapping; once the name of a field has been read, the field's path.
    Mapping { path: String, key: Option<String> },
    /// A list, of which so many items have been read.
    Sequence { path: String, index: usize },
}

impl Reading {
    /// A node begins: the name of a field, or a value. Its path.
    fn node(&mut self, span: &Span, text: Option<&str>) -> String {
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        let Some(places) = self.documents.last_mut() else { return String::new() };
        let path = match self.nesting.last_mut() {
            None => String::new(),
            Some(Inside::Sequence { path, index }) => {
                *index += 1;
                format!("{path}[{}]", *index - 1)
            }
            Some(Inside::Mapping { path, key }) => {
                let Some(value) = key.take() else {
                    let name = text.unwrap_or_default();
                    let field = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                    places.keys.insert(field.clone(), place);
                    *key = Some(field.clone());
                    return field;
                };
                value
            }
        };
        places.values.insert(path.clone(), place);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_where_a_person_sees_it() {
        let text = "# a comment\nkind: X\nspec:\n  window: soon\n  match: {patterns: ['^/a', \"(\"]}\n  list:\n  - name: x\n---\nkind: Y\n";
        let documents = documents(text);
        assert_eq!(documents.len(), 2);
        #[rustfmt::skip]
        let table = [
            ("kind",                   2, 7), ("spec.window",   4, 11), ("spec.match.patterns[1]", 5, 29),
            ("spec.list[0].name",      7, 11), ("spec.absent",   4, 3), ("spec.match.absent[3].x", 5, 10),
            ("absent",                 2, 1),
        ];
        for (path, line, column) in table {
            assert_eq!(documents[0].value(path), Some(Place { line, column }), "{path}");
        }
        assert_eq!(documents[0].key("spec.window"), Some(Place { line: 4, column: 3 }));
        assert_eq!(documents[1].value("kind"), Some(Place { line: 9, column: 7 }));
    }
}
