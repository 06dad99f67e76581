//! The bytes of one stream after the other become lines for the sink, each once.

use jiff::{SignedDuration, Timestamp};

use super::framing::{Frame, Framer};
use super::resume::Resume;
use super::{LineSink, StreamEvent, stamp};

/// Cuts, dates and de-duplicates a container's log.
#[derive(Debug)]
pub(super) struct Lines {
    framer: Framer,
    resume: Resume,
}

impl Lines {
    /// A log that is to be read from `start` on.
    pub(super) fn new(start: Timestamp) -> Self {
        Self { framer: Framer::default(), resume: Resume::new(start) }
    }

    /// A stream is about to be opened, at the time that is returned, see [`Resume::reopen`].
    pub(super) fn reopen(&mut self, reach_back: SignedDuration) -> Timestamp {
        self.framer.reset();
        self.resume.reopen(reach_back)
    }

    /// The next stream is another instance's.
    pub(super) fn restart(&mut self) {
        self.resume.restart();
    }

    /// Takes in the next bytes of the stream; true when there was something new in them.
    pub(super) fn feed(&mut self, chunk: &[u8], sink: &mut impl LineSink) -> bool {
        let resume = &mut self.resume;
        let mut news = false;
        self.framer.push(chunk, |frame| {
            let (text, surplus) = match frame {
                Frame::Line(line) => (line, None),
                Frame::TooLong { head, bytes } => (head, Some(bytes)),
            };
            let Some((stamp, line)) = stamp::split(text) else {
                // One that comes again has been told of.
                if !resume.is_replaying() {
                    sink.event(StreamEvent::Undated);
                }
                return;
            };
            if !resume.admit(stamp) {
                return;
            }
            news = true;
            match surplus {
                None => sink.line(stamp, line),
                Some(bytes) => sink.event(StreamEvent::LineTooLong { bytes }),
            }
        });
        news
    }
}
