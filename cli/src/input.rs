//! Logs to read: files and standard input, plain or compressed, and pods.
//!
//! What is asked for comes in, [`Merged`] lines go out. What a file is compressed with is told from its first bytes, so
//! standard input may be compressed too. Everything is a stream of which one block is held: a file that unpacks to a
//! thousand times its size takes time but no memory.

pub mod lines;
pub mod merged;
mod unpack;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::{
    lines::Lines,
    merged::{Clock, Line, Merged},
};

/// How the name of standard input is written.
pub const STDIN: &str = "-";

/// One log.
pub struct Log {
    /// Its name, for messages.
    pub name: String,
    /// Its lines.
    pub lines: Lines<Box<dyn Read>>,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// It can't be opened.
    #[error("{name} can't be opened")]
    Open {
        /// What was asked for.
        name: String,
        /// The system's words.
        source: io::Error,
    },
    /// Standard input is a terminal, and nothing else was named.
    #[error("name a log, or - for standard input; replay can read the policy's pods with --since")]
    NoneNamed,
    /// Two things are to be read from standard input.
    #[error(
        "only one of the policy, the protected networks and the log can be standard input: name a file for the others"
    )]
    StdinTwice,
    /// It was opened, but could not be read to its end.
    #[error("{name} can't be read to its end")]
    Read {
        /// What was asked for.
        name: String,
        /// The system's words, or what is wrong with the compressed data.
        source: io::Error,
    },
}

/// Counts what was read of logs as they lie, before they are unpacked.
#[derive(Clone, Debug, Default)]
pub struct BytesRead(Arc<AtomicU64>);

impl BytesRead {
    /// How many bytes so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// So many more.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// How many bytes the files have together; `None` when one of them is no regular file.
#[must_use]
pub fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    let length = |path: &PathBuf| {
        let data = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        (!is_stdin(path)).then_some(data.len())
    };
    paths.iter().map(length).sum()
}

/// Whether this names standard input.
#[must_use]
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new(STDIN)
}

/// Refuses to read two things from standard input: objects, and logs, which come from there too where none is named.
/// `logs` is absent where they come from pods.
pub fn check_stdin(objects: &[Option<&PathBuf>], logs: Option<&[PathBuf]>) -> Result<(), InputError> {
    let of_logs = logs.map_or(0, |logs| match logs {
        [] => 1,
        logs => logs.iter().filter(|path| is_stdin(path)).count().min(1),
    });
    let of_objects = objects.iter().flatten().filter(|path| is_stdin(path)).count();
    if of_objects > 0 && of_objects + of_logs > 1 { Err(InputError::StdinTwice) } else { Ok(()) }
}

/// The logs that are named; standard input where none is, unless somebody would have to type it.
pub fn or_stdin(paths: &[PathBuf]) -> Result<&[PathBuf], InputError> {
    static STDIN_ALONE: LazyLock<[PathBuf; 1]> = LazyLock::new(|| [PathBuf::from(STDIN)]);
    match paths {
        [] if io::stdin().is_terminal() => Err(InputError::NoneNamed),
        [] => Ok(&*STDIN_ALONE),
        paths => Ok(paths),
    }
}

/// Opens files, or standard input for `-`, and unpacks them where they are compressed.
pub fn open(paths: &[PathBuf], bytes_read: &BytesRead) -> Result<Vec<Log>, InputError> {
    paths.iter().map(|path| open_one(path, bytes_read)).collect()
}

fn open_one(path: &Path, bytes_read: &BytesRead) -> Result<Log, InputError> {
    let is_stdin = is_stdin(path);
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let open = || {
        let raw: Box<dyn Read> = if is_stdin { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
        unpack::unpack(Counted { raw, bytes_read: bytes_read.clone() })
    };
    match open() {
        Ok(reader) => Ok(Log { name, lines: Lines::new(reader) }),
        Err(source) => Err(InputError::Open { name, source }),
    }
}

struct Counted {
    raw: Box<dyn Read>,
    bytes_read: BytesRead,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.raw.read(buffer)?;
        self.bytes_read.add(count);
        Ok(count)
    }
}
