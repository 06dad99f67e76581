//! Bytes in, lines out, in bounded memory.
//!
//! The chunks of a stream are cut anywhere. A line that lies in one chunk is handed over where it lies; only one
//! that is cut is copied. Any byte but the newline is a line's own: NUL, carriage return, invalid UTF-8.

/// The longest line that is handed over, with the stamp in front of it.
///
/// Four times what a container runtime writes as one piece (16 KiB); the kubelet glues pieces together without end.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;

/// What a stream is cut into.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Frame<'a> {
    /// A line without its newline.
    Line(&'a [u8]),
    /// A line that was longer than [`MAX_LINE_BYTES`].
    TooLong {
        /// Its first [`MAX_LINE_BYTES`].
        head: &'a [u8],
        /// How long it was.
        bytes: u64,
    },
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// The line so far, when its first part came in an earlier chunk.
    carry: Vec<u8>,
    /// How much of it did not fit in.
    surplus: u64,
}

impl Framer {
    /// Takes in the next chunk and hands over the lines that it completes.
    pub(super) fn push(&mut self, chunk: &[u8], mut take: impl FnMut(Frame<'_>)) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if self.carry.is_empty() && line.len() <= MAX_LINE_BYTES {
                take(Frame::Line(line));
                continue;
            }
            self.append(line);
            take(match self.surplus {
                0 => Frame::Line(&self.carry),
                surplus => Frame::TooLong { head: &self.carry, bytes: MAX_LINE_BYTES as u64 + surplus },
            });
            self.reset();
        }
        self.append(rest);
    }

    /// Forgets an unfinished line: the stream is over, the next one brings it whole.
    pub(super) fn reset(&mut self) {
        self.carry.clear();
        self.surplus = 0;
    }

    fn append(&mut self, part: &[u8]) {
        let fits = part.len().min(MAX_LINE_BYTES - self.carry.len());
        self.carry.extend_from_slice(&part[..fits]);
        self.surplus += (part.len() - fits) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    enum Owned {
        Line(Vec<u8>),
        TooLong(usize, u64),
    }

    fn frames(chunks: &[&[u8]]) -> Vec<Owned> {
        let mut framer = Framer::default();
        let mut out = Vec::new();
        for chunk in chunks {
            framer.push(chunk, |frame| {
                out.push(match frame {
                    Frame::Line(line) => Owned::Line(line.into()),
                    Frame::TooLong { head, bytes } => Owned::TooLong(head.len(), bytes),
                });
            });
        }
        out
    }

    #[test]
    fn lines_come_out_whole_wherever_the_stream_is_cut() {
        let line = |text: &[u8]| Owned::Line(text.into());
        #[rustfmt::skip]
        let table: [(&[&[u8]], Vec<Owned>); 6] = [
            (&[b"a\nb\n"],                  vec![line(b"a"), line(b"b")]),
            (&[b"a", b"b\n"],               vec![line(b"ab")]),
            (&[b"a", b"", b"\n", b"\n"],    vec![line(b"a"), line(b"")]),
            (&[b"not finished"],            vec![]),
            (&[b"\0\xff\r\n"],              vec![line(b"\0\xff\r")]),
            (&[b"a\nb", b"c\nd"],           vec![line(b"a"), line(b"bc")]),
        ];
        for (chunks, expect) in table {
            assert_eq!(frames(chunks), expect, "{chunks:?}");
        }
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_more_does_not() {
        let mut exact = vec![b'x'; MAX_LINE_BYTES];
        exact.push(b'\n');
        let mut longer = vec![b'x'; MAX_LINE_BYTES + 1];
        longer.push(b'\n');
        assert_eq!(frames(&[&exact]), [Owned::Line(exact[..MAX_LINE_BYTES].into())]);
        assert_eq!(frames(&[&longer]), [Owned::TooLong(MAX_LINE_BYTES, MAX_LINE_BYTES as u64 + 1)]);
        for split in [1, 100, MAX_LINE_BYTES, MAX_LINE_BYTES + 1] {
            let cut: [&[u8]; 3] = [&longer[..split], &longer[split..], b"next\n"];
            let expect =
                [Owned::TooLong(MAX_LINE_BYTES, MAX_LINE_BYTES as u64 + 1), Owned::Line(b"next".into())];
            assert_eq!(frames(&cut), expect, "cut at {split}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_limit() {
        let mut framer = Framer::default();
        let chunk = vec![b'x'; 10_000];
        for _ in 0..10_000 {
            framer.push(&chunk, |frame| panic!("there is no newline in it, yet got {frame:?}"));
        }
        assert!(framer.carry.capacity() <= 2 * MAX_LINE_BYTES, "{}", framer.carry.capacity());
        let mut seen = None;
        framer.push(b"\n", |frame| seen = Some(matches!(frame, Frame::TooLong { bytes: 100_000_000, .. })));
        assert_eq!(seen, Some(true));
    }

    proptest! {
        #[test]
        fn cutting_a_stream_differently_changes_nothing(
            text in proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..400),
            cuts in proptest::collection::vec(0_usize..400, 0..10),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text[from..cut]);
                from = cut;
            }
            chunks.push(&text[from..]);
            let mut naive: Vec<Owned> = text.split(|byte| *byte == b'\n').map(|line| Owned::Line(line.into())).collect();
            naive.pop();
            prop_assert_eq!(frames(&chunks), naive);
        }
    }
}
