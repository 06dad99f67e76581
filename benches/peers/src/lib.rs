//! What the programs beside this share: the lines of a log.

use std::{fs::File, io::Read, path::Path};

use memchr::memchr_iter;

/// As `replay` reads: more than a core's first cache, and little beside its second.
const BLOCK_BYTES: usize = 256 * 1024;

/// Hands over each line of a log, without its newline.
pub fn for_each_line(log: &Path, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut file = File::open(log)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut kept = 0;
    loop {
        let count = file.read(&mut block[kept..])?;
        if count == 0 {
            if kept > 0 {
                take(&block[..kept]);
            }
            return Ok(());
        }
        let (mut start, end) = (0, kept + count);
        for newline in memchr_iter(b'\n', &block[..end]) {
            take(&block[start..newline]);
            start = newline + 1;
        }
        block.copy_within(start..end, 0);
        kept = end - start;
        if kept == block.len() {
            block.resize(2 * kept, 0);
        }
    }
}
