//! Compressed bytes in, plain bytes out; what they are compressed with is told from their beginning.

use std::io::{self, BufRead as _, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// How gzip and zstd begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What is read at a time of a compressed log.
const PACKED_BYTES: usize = 32 * 1024;

/// The plain bytes of a log that may be compressed, in one piece or several.
pub(super) fn unpack(mut raw: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut start = [0; 4];
    let mut length = 0;
    // A line that a person has typed is no compressed file: it must not wait for the next.
    while length < start.len() && (GZIP.starts_with(&start[..length]) || ZSTD.starts_with(&start[..length])) {
        match raw.read(&mut start[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let whole = Cursor::new(start).take(length as u64).chain(raw);
    Ok(if start.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_BYTES, whole)))
    } else if start == ZSTD {
        Box::new(Frames::new(whole))
    } else {
        Box::new(whole)
    })
}

/// The frames of a zstd file, one after the other. Memory is what a frame says that it looks back, at most 128 MiB as
/// for the zstd tool.
struct Frames<R> {
    packed: BufReader<R>,
    decoder: FrameDecoder,
    is_inside: bool,
}

impl<R: Read> Frames<R> {
    fn new(packed: R) -> Self {
        let packed = BufReader::with_capacity(PACKED_BYTES, packed);
        Self { packed, decoder: FrameDecoder::new(), is_inside: false }
    }

    /// Goes into the next frame; false when there is none.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.packed.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => {
                    self.is_inside = true;
                    return Ok(true);
                }
                // One for other programs.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.packed).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_inside && !self.enter()? {
                return Ok(0);
            }
            let Self { packed, decoder, .. } = self;
            while decoder.can_collect() == 0 && !decoder.is_finished() {
                decoder
                    .decode_blocks(&mut *packed, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            if decoder.can_collect() > 0 {
                return decoder.read(buffer);
            }
            self.is_inside = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text).unwrap();
        packed.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn plain(packed: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        unpack(Cursor::new(packed))?.read_to_end(&mut text).map(|_| text)
    }

    #[test]
    fn what_was_packed_comes_out_whatever_it_was_packed_with() {
        let text = b"a line\n".repeat(50_000);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"???"].concat();
        #[rustfmt::skip]
        let table = [
            (text.clone(),                                          text.clone()),
            (gzip(&text),                                           text.clone()),
            ([gzip(&text), gzip(b"more\n")].concat(),               [&text[..], b"more\n"].concat()),
            (zstd(&text),                                           text.clone()),
            ([zstd(&text), skippable, zstd(b"more\n")].concat(),    [&text[..], b"more\n"].concat()),
            (gzip(b""),                                             vec![]),
            (zstd(b""),                                             vec![]),
            (vec![],                                                vec![]),
            (vec![0x1f],                                            vec![0x1f]),
            (vec![0x28, 0xb5, 0x2f],                                vec![0x28, 0xb5, 0x2f]),
        ];
        for (index, (packed, expect)) in table.into_iter().enumerate() {
            assert!(plain(packed).unwrap() == expect, "case {index}");
        }
    }

    #[test]
    fn a_packed_file_that_ends_early_is_an_error() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
        for packed in [gzip(&text), zstd(&text)] {
            assert!(plain(packed[..packed.len() / 2].to_vec()).is_err());
            assert!(plain(packed[..packed.len() - 1].to_vec()).is_err());
        }
    }
}
