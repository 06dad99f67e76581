//! Logs to read: files and standard input, plain or compressed.
//!
//! Paths come in, readers of plain bytes go out; [`lines`] cuts those into lines. What a file is compressed with is told from its
//! first bytes, so standard input may be compressed too. Everything is a stream: nothing is held but one block, so a
//! file that unpacks to a thousand times its size takes time but no memory.

pub mod lines;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;

/// How the name of standard input is written.
pub const STDIN: &str = "-";

/// How gzip and zstd begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It can't be opened.
    #[error("{path}: {source}")]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It was opened, but could not be read to its end.
    #[error("{path}: {source}")]
    Read {
        /// What was asked for.
        path: PathBuf,
        /// The system's words, or what is wrong with the compressed data.
        source: io::Error,
    },
}

/// One log, opened.
pub struct Input {
    /// Its name, for messages.
    pub path: PathBuf,
    /// Its plain bytes.
    pub reader: Box<dyn Read + Send>,
}

/// Counts what was read of the files as they lie, before they are unpacked.
#[derive(Clone, Debug, Default)]
pub struct BytesRead(Arc<AtomicU64>);

impl BytesRead {
    /// How many bytes so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many bytes the files have together; `None` when one of them is no regular file.
#[must_use]
pub fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    let length = |path: &PathBuf| {
        let data = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        (path != Path::new(STDIN)).then_some(data.len())
    };
    paths.iter().map(length).sum()
}

/// Opens a file, or standard input for `-`, and unpacks it where it is compressed.
pub fn open(path: &Path, bytes_read: &BytesRead) -> Result<Input, InputError> {
    let failed = |source| InputError::Open { path: path.to_owned(), source };
    let raw: Box<dyn Read + Send> = if path == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let reader = unpack(Counted { raw, bytes_read: bytes_read.clone() }).map_err(failed)?;
    Ok(Input { path: path.to_owned(), reader })
}

fn unpack(mut raw: Counted) -> io::Result<Box<dyn Read + Send>> {
    let mut start = [0; 4];
    let mut length = 0;
    while length < start.len() {
        match raw.read(&mut start[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let whole = io::Cursor::new(start).take(length as u64).chain(raw);
    Ok(if start.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(whole))
    } else if start == ZSTD {
        Box::new(zstd::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

struct Counted {
    raw: Box<dyn Read + Send>,
    bytes_read: BytesRead,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.raw.read(buffer)?;
        self.bytes_read.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
