//! The bytes of one stream after the other become lines for the sink, each once.

use jiff::{SignedDuration, Timestamp};

use super::clock::{Dated, NodeClock};
use super::framing::{Frame, Framer};
use super::resume::Resume;
use super::{LineSink, StreamEvent, stamp};

/// Cuts, dates and de-duplicates a container's log.
#[derive(Debug)]
pub(super) struct Lines {
    framer: Framer,
    resume: Resume,
    node: String,
    clock: NodeClock,
}

impl Lines {
    /// A log that is to be read from `start` on.
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            framer: Framer::default(),
            resume: Resume::new(start),
            node: String::new(),
            clock: NodeClock::default(),
        }
    }

    /// Whether any line has come, or it is known from which on they will.
    pub(super) fn has_begun(&self) -> bool {
        self.resume.has_begun()
    }

    /// The first stream is to be opened at `last`, and what is stamped no later has been read.
    pub(super) fn begin_after(&mut self, last: Timestamp) {
        self.resume.begin_after(last);
    }

    /// The first stream is to be opened at `start`.
    pub(super) fn begin_at(&mut self, start: Timestamp) {
        self.resume = Resume::new(start);
    }

    /// A stream is about to be opened, at the time that is returned, see [`Resume::reopen`].
    pub(super) fn reopen(&mut self, reach_back: SignedDuration) -> Timestamp {
        self.framer.reset();
        self.resume.reopen(reach_back)
    }

    /// The latest stamp so far.
    pub(super) fn newest(&self) -> Timestamp {
        self.resume.highest()
    }

    /// The next stream is another instance's, on that node.
    pub(super) fn restart(&mut self, node: &str) {
        node.clone_into(&mut self.node);
        self.resume.restart();
    }

    /// Takes in the next bytes of the stream, which came at `now`; true when there was something new in them.
    pub(super) fn feed(&mut self, chunk: &[u8], now: Timestamp, sink: &mut impl LineSink) -> bool {
        let Self { framer, resume, node, clock } = self;
        let mut news = false;
        framer.push(chunk, |frame| {
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
            let at = match clock.date(stamp, now) {
                Dated::AsStamped(at) => at,
                Dated::Earlier(at) => {
                    sink.event(StreamEvent::Redated { is_ahead: true });
                    at
                }
                Dated::Later(at) => {
                    sink.event(StreamEvent::Redated { is_ahead: false });
                    at
                }
            };
            if let Some(bytes) = surplus {
                sink.event(StreamEvent::LineTooLong { bytes });
            }
            sink.line(at, line);
        });
        if let Some(behind) = clock.news() {
            sink.event(StreamEvent::Skewed { node: node.clone(), behind });
        }
        news
    }
}
