//! Several logs as one, in the order of time.
//!
//! Rotated files follow each other and the logs of several pods run beside each other; both come out as one gateway
//! would have logged them, whatever the order they are named in. A line without a time goes with the one before it.
//! Nothing is sorted within a log: a jail takes lines that come a little late.

use jiff::Timestamp;

use super::{InputError, Log};

/// A line, and when it was logged where that had to be found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line<'a> {
    /// When it was logged; absent where the line itself has to say.
    pub at: Option<Timestamp>,
    /// Whether that is the container runtime's stamp.
    pub is_stamped: bool,
    /// Which log it is of, by its place among those that are read.
    pub log: usize,
    /// The line without its newline, and without the container runtime's stamp.
    pub text: &'a [u8],
}

/// Reads a line's time, and says where the line begins behind it.
pub type Clock = Box<dyn FnMut(&[u8]) -> (Option<Timestamp>, usize)>;

/// Logs that are read as one.
pub struct Merged {
    streams: Vec<Stream>,
    /// Absent where a single log's lines say their time themselves.
    clock: Option<Clock>,
    is_stamped: bool,
    /// Which stream the present line is of.
    current: Option<usize>,
    /// The earliest time at which another stream goes on.
    limit: Timestamp,
}

struct Stream {
    log: Log,
    place: usize,
    /// The latest time of a line so far.
    head: Timestamp,
    at: Option<Timestamp>,
    begin: usize,
}

impl Merged {
    /// The logs, as one. `clock` is asked for the time of each line; without it they follow each other as named.
    pub fn new(logs: Vec<Log>, clock: Option<Clock>) -> Result<Self, InputError> {
        let stream = |(place, log)| Stream { log, place, head: Timestamp::MIN, at: None, begin: 0 };
        let streams = logs.into_iter().enumerate().map(stream).collect();
        let mut merged = Self { streams, clock, is_stamped: false, current: None, limit: Timestamp::MIN };
        let mut index = 0;
        while index < merged.streams.len() {
            if merged.advance(index)? {
                index += 1;
            }
        }
        Ok(merged)
    }

    /// The same, of logs with the container runtime's stamp in front of each line, as `kubectl logs --timestamps` has
    /// them.
    pub fn stamped(logs: Vec<Log>) -> Result<Self, InputError> {
        Ok(Self { is_stamped: true, ..Self::new(logs, Some(Box::new(runtime_stamp)))? })
    }

    /// Whether the next line is there already, so that nobody has to wait for it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.current
            .and_then(|current| self.streams.get(current))
            .is_some_and(|stream| stream.log.lines.is_ready())
    }

    /// The next line of all; `None` after the last.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, InputError> {
        if let Some(current) = self.current
            && !self.advance(current)?
        {
            self.current = None;
        }
        let current = match self.current {
            Some(current) if self.streams[current].head <= self.limit => current,
            _ => {
                // Of equal ones the first that was named.
                let heads = self.streams.iter().enumerate().map(|(index, stream)| (stream.head, index));
                let Some((_, first)) = heads.clone().min() else { return Ok(None) };
                let others = heads.filter(|&(_, index)| index != first);
                self.limit = others.map(|(head, _)| head).min().unwrap_or(Timestamp::MAX);
                first
            }
        };
        self.current = Some(current);
        let stream = &self.streams[current];
        let text = &stream.log.lines.line()[stream.begin..];
        Ok(Some(Line { at: stream.at, is_stamped: self.is_stamped, log: stream.place, text }))
    }

    /// Goes on in one stream; false when it is over, and gone.
    fn advance(&mut self, index: usize) -> Result<bool, InputError> {
        let Self { streams, clock, .. } = self;
        let stream = &mut streams[index];
        let failed = |source| InputError::Read { name: stream.log.name.clone(), source };
        if !stream.log.lines.advance().map_err(failed)? {
            streams.remove(index);
            return Ok(false);
        }
        if let Some(clock) = clock {
            (stream.at, stream.begin) = clock(stream.log.lines.line());
            stream.head = stream.at.map_or(stream.head, |at| at.max(stream.head));
        }
        Ok(true)
    }
}

/// Reads the container runtime's stamp.
fn runtime_stamp(line: &[u8]) -> (Option<Timestamp>, usize) {
    let Some(end) = memchr::memchr(b' ', line) else { return (None, 0) };
    let stamp = std::str::from_utf8(&line[..end]).ok().and_then(|stamp| stamp.parse().ok());
    (stamp, if stamp.is_some() { end + 1 } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::input::Lines;

    /// Lines that are numbers of seconds, or something else.
    fn seconds(line: &[u8]) -> (Option<Timestamp>, usize) {
        let second = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        (second.and_then(|second| Timestamp::from_second(second).ok()), 0)
    }

    fn merge(logs: &[String]) -> Vec<String> {
        let open = |(index, log): (usize, &String)| {
            let reader: Box<dyn Read> = Box::new(std::io::Cursor::new(log.clone().into_bytes()));
            Log { name: index.to_string(), lines: Lines::new(reader) }
        };
        let logs = logs.iter().enumerate().map(open).collect();
        let mut merged = Merged::new(logs, Some(Box::new(seconds))).unwrap();
        let mut all = Vec::new();
        while let Some(line) = merged.next_line().unwrap() {
            all.push(String::from_utf8(line.text.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn logs_come_out_in_the_order_of_time_whatever_the_order_they_are_named_in() {
        #[rustfmt::skip]
        let table: [(&[&str], &[&str]); 5] = [
            (&["3\n4", "1\n2"],        &["1", "2", "3", "4"]),
            (&["1\n5\n", "2\n3\n6\n"], &["1", "2", "3", "5", "6"]),
            (&["", "1\n"],             &["1"]),
            (&["x\n2\ny\n", "1\n3\n"], &["x", "1", "2", "y", "3"]),
            (&["5\n4\n9", "6"],        &["5", "4", "6", "9"]),
        ];
        for (logs, expect) in table {
            let logs: Vec<String> = logs.iter().map(ToString::to_string).collect();
            assert_eq!(merge(&logs), expect, "{logs:?}");
        }
    }

    #[test]
    fn a_runtimes_stamp_is_taken_off_and_nothing_else_is() {
        let line = b"2026-11-22T10:00:00.5Z 203.0.113.7 - -";
        assert_eq!(runtime_stamp(line), (Some("2026-11-22T10:00:00.5Z".parse().unwrap()), 23));
        assert_eq!(runtime_stamp(b"203.0.113.7 - - [22/Nov/2026"), (None, 0));
        assert_eq!(runtime_stamp(b""), (None, 0));
    }

    proptest! {
        #[test]
        fn sorted_logs_come_out_sorted_and_whole(mut logs in prop::collection::vec(prop::collection::vec(0u32..50, 0..20), 0..6)) {
            for log in &mut logs {
                log.sort_unstable();
            }
            let texts: Vec<String> =
                logs.iter().map(|log| log.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")).collect();
            let got: Vec<u32> = merge(&texts).iter().map(|line| line.parse().unwrap()).collect();
            let mut expect = logs.concat();
            expect.sort_unstable();
            prop_assert_eq!(got, expect);
        }
    }
}
