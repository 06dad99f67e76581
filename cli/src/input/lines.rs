//! Bytes in, lines out, in one block of memory.

use std::{
    io::{self, Read},
    ops::Range,
};

use ip_sentry_core::detect::record::MAX_LINE_BYTES;
use memchr::memchr;

/// Of a longer line this much is handed over, so that whoever gets it sees that it is too long.
const CUT_BYTES: usize = MAX_LINE_BYTES + 1;

/// Read at a time, or more: a larger block was no quicker, and takes memory.
const READ_BYTES: usize = 64 * 1024;

/// Cuts a stream into lines. Any byte but the newline is a line's own; the last line needs none.
pub struct Lines<R> {
    reader: R,
    block: Box<[u8]>,
    /// What of the block is read but not handed over yet.
    rest: Range<usize>,
    line: Range<usize>,
    is_over: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `reader`.
    pub fn new(reader: R) -> Self {
        // Room for what is left of a line, at most as much as is handed over, and for what is read behind it.
        let block = vec![0; CUT_BYTES + READ_BYTES].into_boxed_slice();
        Self { reader, block, rest: 0..0, line: 0..0, is_over: false }
    }

    /// The line that [`Self::advance`] went to, without its newline; of one that is longer than [`MAX_LINE_BYTES`] the
    /// beginning, one byte over that.
    pub fn line(&self) -> &[u8] {
        &self.block[self.line.clone()]
    }

    /// Whether the next line is there already, so that [`Self::advance`] need not wait for it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        memchr(b'\n', &self.block[self.rest.clone()]).is_some()
    }

    /// Goes to the next line; false at the end.
    pub fn advance(&mut self) -> io::Result<bool> {
        let mut searched = 0;
        loop {
            let unread = &self.block[self.rest.clone()];
            if let Some(length) = memchr(b'\n', &unread[searched..]).map(|at| searched + at) {
                self.line = self.rest.start..self.rest.start + length.min(CUT_BYTES);
                self.rest.start += length + 1;
                return Ok(true);
            }
            searched = unread.len();
            if searched >= CUT_BYTES {
                return self.skip_to_newline();
            }
            if !self.fill()? {
                self.line = self.rest.clone();
                self.rest = 0..0;
                return Ok(!self.line.is_empty());
            }
        }
    }

    /// Reads on behind what is there, after moving that to the front; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        self.block.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        let count = read(&mut self.reader, &mut self.block[self.rest.end..])?;
        self.rest.end += count;
        self.is_over = count == 0;
        Ok(count > 0)
    }

    /// The line is longer than any may be: its beginning stays, the rest is read over.
    fn skip_to_newline(&mut self) -> io::Result<bool> {
        self.block.copy_within(self.rest.start..self.rest.start + CUT_BYTES, 0);
        self.line = 0..CUT_BYTES;
        loop {
            let count = read(&mut self.reader, &mut self.block[CUT_BYTES..])?;
            let found = memchr(b'\n', &self.block[CUT_BYTES..CUT_BYTES + count]);
            if let Some(at) = found {
                self.rest = CUT_BYTES + at + 1..CUT_BYTES + count;
                return Ok(true);
            }
            if count == 0 {
                self.is_over = true;
                self.rest = 0..0;
                return Ok(true);
            }
        }
    }
}

fn read(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines(text: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(Dripping(text, step));
        let mut all = Vec::new();
        while lines.advance().unwrap() {
            all.push(lines.line().to_vec());
        }
        all
    }

    #[test]
    fn lines_come_out_whole_however_the_stream_is_cut() {
        #[rustfmt::skip]
        let table: [(&[u8], &[&[u8]]); 6] = [
            (b"a\nb\n",      &[b"a", b"b"]),
            (b"a\nb",        &[b"a", b"b"]),
            (b"",            &[]),
            (b"\n\n",        &[b"", b""]),
            (b"\0\xff\r\nb", &[b"\0\xff\r", b"b"]),
            (b"a\n\n",       &[b"a", b""]),
        ];
        for (text, expect) in table {
            for step in [1, 2, 100] {
                assert_eq!(lines(text, step), expect, "{:?} by {step}", text.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn of_a_line_that_is_too_long_the_beginning_is_left_and_the_next_is_whole() {
        for length in [MAX_LINE_BYTES, CUT_BYTES, CUT_BYTES + 1, 3 * CUT_BYTES, 10 << 20] {
            for step in [1000, CUT_BYTES, usize::MAX] {
                let text = [b"first\n".to_vec(), vec![b'x'; length], b"\nlast".to_vec()].concat();
                let got: Vec<usize> = lines(&text, step).iter().map(Vec::len).collect();
                assert_eq!(got, [5, length.min(CUT_BYTES), 4], "{length} by {step}");
                let endless = [b"first\n".to_vec(), vec![b'x'; length]].concat();
                let got: Vec<usize> = lines(&endless, step).iter().map(Vec::len).collect();
                assert_eq!(got, [5, length.min(CUT_BYTES)], "{length} by {step}");
            }
        }
    }
}
