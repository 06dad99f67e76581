//! The last few thousand hits in words, so that evidence can show requests without a string for each tracked source.

use super::{decision::MAX_TEXT_CHARS, record::Record, target};

/// How many are kept at most.
pub(super) const MOST: usize = 4096;

/// What one takes at most: its text, where that is, and what the allocator takes for itself.
pub(super) const SAMPLE_BYTES: usize = MAX_TEXT_CHARS + size_of::<Vec<u8>>() + 24;

/// A ring of requests, numbered as they come.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    /// One place for each sample that is kept; sample `n` is at `n` modulo their number.
    ring: Vec<Vec<u8>>,
    next: u32,
}

impl Samples {
    /// Keeps the last `kept`.
    pub(super) fn new(kept: usize) -> Self {
        Self { ring: vec![Vec::new(); kept.clamp(1, MOST)], next: 0 }
    }

    /// Keeps the last `kept` from now on.
    pub(super) fn limit(&mut self, kept: usize) {
        let kept = kept.clamp(1, MOST);
        if kept == self.ring.len() {
            return;
        }
        let mut ring = vec![Vec::new(); kept];
        for age in 1..=kept.min(self.ring.len()) {
            let number = self.next.wrapping_sub(u32::try_from(age).unwrap_or(u32::MAX)) as usize;
            let old = number % self.ring.len();
            ring[number % kept] = std::mem::take(&mut self.ring[old]);
        }
        self.ring = ring;
    }

    /// Keeps a request without its query; the number to ask for it with.
    ///
    /// Samples are published, and a policy may be pointed at any log: only what has the look of a method, of a path and
    /// of a status is kept.
    pub(super) fn keep(&mut self, record: &Record<'_>) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let slot = number as usize % self.ring.len();
        let sample = &mut self.ring[slot];
        sample.clear();
        let (path, _query) = target::split(record.target);
        let length = record.method.len() + path.len() + record.status.len() + 2;
        sample.reserve_exact(length.min(MAX_TEXT_CHARS));
        let parts = [
            is_method(record.method).then_some(record.method),
            path.starts_with(b"/").then_some(path),
            (record.status.len() == 3 && record.status.iter().all(u8::is_ascii_digit))
                .then_some(record.status),
        ];
        for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
            if !sample.is_empty() {
                sample.push(b' ');
            }
            let room = MAX_TEXT_CHARS.saturating_sub(sample.len());
            sample.extend_from_slice(&part[..part.len().min(room)]);
        }
        number
    }

    /// A request that is still kept, fit to be shown; `None` also where nothing of it may be.
    pub(super) fn get(&self, number: u32) -> Option<String> {
        let age = self.next.wrapping_sub(number) as usize;
        let slots = self.ring.len();
        let kept = (1..=slots).contains(&age).then(|| &self.ring[number as usize % slots])?;
        (!kept.is_empty()).then(|| printable(kept))
    }
}

fn is_method(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
}

/// Text of at most [`MAX_TEXT_CHARS`] that no terminal, shell or log reader takes for anything else.
pub(super) fn printable(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len().min(MAX_TEXT_CHARS));
    for &byte in bytes {
        let start = text.len();
        match byte {
            b'"' | b'\'' | b'`' | ..0x20 | 0x7f.. => {
                text.push_str("\\x");
                text.extend([byte >> 4, byte & 0xf].map(|digit| char::from(HEX[usize::from(digit)])));
            }
            _ => text.push(char::from(byte)),
        }
        if text.len() > MAX_TEXT_CHARS {
            text.truncate(start);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn record<'a>(method: &'a [u8], target: &'a [u8], status: &'a [u8]) -> Record<'a> {
        Record { method, target, status, ..Record::of(Ipv4Addr::LOCALHOST.into()) }
    }

    #[test]
    fn a_sample_shows_the_request_and_hides_the_query() {
        #[rustfmt::skip]
        let table: &[([&[u8]; 3], &str)] = &[
            ([b"GET", b"/wp-admin/?token=x#y", b"404"], "GET /wp-admin/ 404"),
            ([b"",    b"/wp-admin/",           b""],    "/wp-admin/"),
            ([b"GET", b"http://u:p@h/a?b",     b"400"], "GET /a 400"),
            ([b"GET", b"p4ssw0rd",             b"404"], "GET 404"),
            ([b"tok", b"/a",                   b"s3c"], "/a"),
            ([b"GET", b"/\x1b[31m\"'`\xff\\x22", b"404"], r"GET /\x1B[31m\x22\x27\x60\xFF\x22 404"),
        ];
        for ([method, target, status], expect) in table {
            let mut samples = Samples::new(MOST);
            let number = samples.keep(&record(method, target, status));
            assert_eq!(samples.get(number).as_deref(), Some(*expect));
        }
        let mut samples = Samples::new(MOST);
        let number = samples.keep(&record(b"", b"xyz?/a", b"200 x"));
        assert_eq!(samples.get(number), None);
    }

    #[test]
    fn a_sample_is_short_and_is_forgotten_in_time() {
        let mut samples = Samples::new(MOST);
        let first = samples.keep(&record(b"GET", &[&b"/aaa"[..], &b"\0".repeat(9000)].concat(), b"404"));
        assert_eq!(samples.get(first).unwrap().len(), MAX_TEXT_CHARS);
        for _ in 1..MOST {
            samples.keep(&record(b"GET", b"/", b"404"));
        }
        assert!(samples.get(first).is_some());
        samples.keep(&record(b"GET", b"/", b"404"));
        assert_eq!(samples.get(first), None);
        assert_eq!(samples.ring.len(), MOST);
    }

    #[test]
    fn a_new_limit_keeps_the_latest_and_their_numbers() {
        for kept in [1, 3, 10, 100, 5_000] {
            let mut samples = Samples::new(10);
            let numbers: Vec<u32> = (0..25)
                .map(|number| samples.keep(&record(b"GET", format!("/{number}").as_bytes(), b"404")))
                .collect();
            samples.limit(kept);
            for (age, &number) in numbers.iter().rev().enumerate() {
                let expect = (age < kept.min(10)).then(|| format!("GET /{number} 404"));
                assert_eq!(
                    samples.get(number).filter(|sample| !sample.is_empty()),
                    expect,
                    "{age} of {kept}"
                );
            }
            let next = samples.keep(&record(b"GET", b"/next", b"404"));
            assert_eq!(samples.get(next).as_deref(), Some("GET /next 404"), "{kept}");
        }
    }
}
