//! Bytes from the API server, cut into items: the objects of a list, the lines of a watch.
//!
//! A list of 100,000 bans is 130 MB of JSON. It is cut as it comes in, so that no more than one object of it is
//! ever held.

/// The longest item of a list, in bytes: an object is at most 1.5 MiB in etcd.
const LONGEST_ITEM: usize = 3 * 1024 * 1024;
/// The longest rest of a list, without its items, in bytes.
const LONGEST_REST: usize = 64 * 1024;

/// Something had no end within reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("longer than {0} bytes")]
pub struct Overlong(pub usize);

/// Cuts a Kubernetes list, `{"items":[{…},{…}],"metadata":{…}}`, into its items.
///
/// Only as much JSON as that needs: depth and strings. Each item is parsed by who gets it.
#[derive(Debug, Default)]
pub struct Items {
    depth: usize,
    text: Text,
    stage: Stage,
    overlong: bool,
    item: Vec<u8>,
    /// Everything but the items: an object with an empty array in it.
    rest: Vec<u8>,
}

/// Where in a string the next byte is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Text {
    #[default]
    Outside,
    Inside,
    Escaped,
}

/// How far the list has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Before,
    Within,
    After,
    Ended,
}

/// How deep the items lie: in an array in an object.
const ITEM_DEPTH: usize = 2;

impl Items {
    /// Takes in the next bytes and hands every item that they complete to `each`.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Result<&[u8], Overlong>)) {
        for &byte in bytes {
            self.take(byte, &mut each);
        }
    }

    fn take(&mut self, byte: u8, each: &mut impl FnMut(Result<&[u8], Overlong>)) {
        let within = self.stage == Stage::Within;
        if self.text != Text::Outside {
            self.text = match (self.text, byte) {
                (Text::Inside, b'\\') => Text::Escaped,
                (Text::Inside, b'"') => Text::Outside,
                _ => Text::Inside,
            };
            self.keep(byte, within);
            return;
        }
        match byte {
            b'"' => {
                self.text = Text::Inside;
                self.keep(byte, within);
            }
            b'{' | b'[' => {
                let opens = byte == b'[' && self.depth == 1 && self.rest.ends_with(b"\"items\":");
                self.keep(byte, within);
                self.depth += 1;
                if opens && self.stage == Stage::Before {
                    self.stage = Stage::Within;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if within && self.depth < ITEM_DEPTH {
                    self.stage = Stage::After;
                }
                self.keep(byte, self.stage == Stage::Within);
                if self.stage == Stage::Within && self.depth == ITEM_DEPTH {
                    each(if self.overlong { Err(Overlong(LONGEST_ITEM)) } else { Ok(&self.item) });
                    self.item.clear();
                    self.overlong = false;
                }
                if self.stage == Stage::After && self.depth == 0 {
                    self.stage = Stage::Ended;
                }
            }
            b',' if within && self.depth == ITEM_DEPTH => {}
            byte if byte.is_ascii_whitespace() => {}
            _ => self.keep(byte, within),
        }
    }

    fn keep(&mut self, byte: u8, in_item: bool) {
        if !in_item {
            if self.rest.len() < LONGEST_REST {
                self.rest.push(byte);
            }
        } else if self.item.len() < LONGEST_ITEM {
            self.item.push(byte);
        } else {
            self.overlong = true;
        }
    }

    /// The list's resourceVersion, if the list came in whole.
    #[must_use]
    pub fn finish(self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct List {
            metadata: Metadata,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: String,
            #[serde(default, rename = "continue")]
            more: String,
        }
        if self.stage != Stage::Ended {
            return None;
        }
        let list: List = serde_json::from_slice(&self.rest).ok()?;
        // Nobody asked for pages; a part of a list must not pass for all of it.
        list.metadata.more.is_empty().then_some(list.metadata.resource_version)
    }
}

/// Cuts bytes into lines.
#[derive(Debug)]
pub struct Lines {
    bytes: Vec<u8>,
    start: usize,
    longest: usize,
}

impl Lines {
    /// Lines of at most `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, longest }
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Overlong> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let begun = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let ends = bytes.iter().position(|byte| *byte == b'\n');
        if begun + ends.unwrap_or(bytes.len()) > self.longest { Err(Overlong(self.longest)) } else { Ok(()) }
    }

    /// The next whole line.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.start..];
        let length = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..length].to_vec();
        self.start += length + 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str, piece: usize) -> (Vec<String>, Option<String>) {
        let mut items = Items::default();
        let mut found = Vec::new();
        for bytes in text.as_bytes().chunks(piece.max(1)) {
            items.feed(bytes, |item| found.push(String::from_utf8(item.unwrap().to_vec()).unwrap()));
        }
        (found, items.finish())
    }

    #[test]
    fn a_list_is_cut_into_its_items() {
        #[rustfmt::skip]
        let table: [(&str, &[&str], Option<&str>); 9] = [
            (r#"{"items":[{"a":1},{"b":[2]}],"metadata":{"resourceVersion":"7"}}"#,  &[r#"{"a":1}"#, r#"{"b":[2]}"#], Some("7")),
            (r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#,                   &[],                            Some("7")),
            (r#"{ "items" : [ {"a":"] }, \" {"} ], "metadata" : {"resourceVersion":"7"} }"#, &[r#"{"a":"] }, \" {"}"#], Some("7")),
            (r#"{"x":{"items":[{"no":1}]},"items":[],"metadata":{"resourceVersion":"7"}}"#, &[],                     Some("7")),
            (r#"{"items":[{"a":1}],"metadata":{"resourceVersion":"7"}"#,             &[r#"{"a":1}"#],                None),
            (r#"{"items":[{"a":1}"#,                                                 &[r#"{"a":1}"#],                None),
            (r#"{"items":[{"a":1}],"metadata":{"resourceVersion":"7","continue":"x"}}"#, &[r#"{"a":1}"#],            None),
            (r#"{"kind":"Status","metadata":{}}"#,                                   &[],                            None),
            ("",                                                                     &[],                            None),
        ];
        for (text, items, version) in table {
            for piece in [1, 3, 1000] {
                let (found, finished) = cut(text, piece);
                assert_eq!(
                    (found.iter().map(String::as_str).collect::<Vec<_>>(), finished.as_deref()),
                    (items.to_vec(), version),
                    "given {text}"
                );
            }
        }
    }

    #[test]
    fn an_item_without_end_is_not_held() {
        let mut items = Items::default();
        items.feed(br#"{"items":[{"a":""#, |_| ());
        items.feed(&vec![b'x'; LONGEST_ITEM + 10], |_| ());
        assert!(items.item.len() <= LONGEST_ITEM);
        let mut results = Vec::new();
        items.feed(br#""},{"b":1}],"metadata":{"resourceVersion":"1"}}"#, |item| {
            results.push(item.map(<[u8]>::len));
        });
        assert_eq!(results, [Err(Overlong(LONGEST_ITEM)), Ok(7)]);
        assert_eq!(items.finish().as_deref(), Some("1"));
    }

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        let mut lines = Lines::new(8);
        let mut found = Vec::new();
        for piece in ["ab", "c\nde\n", "\nf"] {
            lines.feed(piece.as_bytes()).unwrap();
            while let Some(line) = lines.next_line() {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        assert_eq!(found, ["abc", "de", ""]);
        assert_eq!(lines.feed(b"123456789"), Err(Overlong(8)));
    }

    proptest! {
        /// Whatever strings an object holds and wherever the pieces end, the items come out as serde sees them.
        #[test]
        fn items_agree_with_a_json_parser(texts in prop::collection::vec("\\PC{0,12}|[\\[\\]{}\",\\\\]{0,6}", 0..6), piece in 1usize..40) {
            let objects: Vec<serde_json::Value> = texts.iter().map(|text| serde_json::json!({text.as_str(): [text, {"n": 1}]})).collect();
            let list = serde_json::json!({"items": objects, "metadata": {"resourceVersion": "9"}}).to_string();
            let (found, version) = cut(&list, piece);
            let found: Vec<serde_json::Value> = found.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(found, objects);
            prop_assert_eq!(version.as_deref(), Some("9"));
        }

        #[test]
        fn any_bytes_are_cut_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut items = Items::default();
            items.feed(&bytes, |_| ());
            let _ = items.finish();
        }
    }
}
