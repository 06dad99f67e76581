//! Lines that may be the rest of a longer one.
//!
//! The container runtime cuts lines at 16 KiB, and the kubelet joins the pieces without regard to the stream that they
//! belong to. Where a line of standard error comes between two pieces of one of standard output, the rest is a line of
//! its own: it begins in the middle of what a client wrote, perhaps with another's address. Nothing in it shows that,
//! except that a long line came just before. So what comes after a long line is not counted where the format can't rule
//! that out.
//!
//! A line that names the client of the long line still counts: a client that forges lines of its own harms only itself,
//! and can't hide behind long lines.
//!
//! A message of nginx can hold line breaks that a client has sent, so what comes after one may be a part of it as well,
//! whatever the format. Here nobody is certain: the message can name anybody.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::record::RecordError;

/// What the container runtime writes at most as one piece, in bytes.
pub const PIECE_BYTES: usize = 16 * 1024;

/// How long after its first piece the rest of a line comes at the latest, and after its first line the rest of a message:
/// the pieces and the lines of one write follow each other in microseconds.
const REACH: SignedDuration = SignedDuration::from_secs(1);

/// Which of the lines that follow a long one may be its rest, and read as a line.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Doubt {
    /// Those that are long again, and of which no more than the beginning is read.
    Beginnings,
    /// Those that have no colon: a user's name can't have one.
    WithoutColon,
    /// The next one that reads.
    Next,
    /// All.
    All,
}

impl Doubt {
    /// What is in doubt for either reason, and perhaps more.
    fn and(self, other: Self) -> Self {
        let is_of_lines = self == Self::WithoutColon || other == Self::WithoutColon;
        if is_of_lines && self != other { Self::All } else { self.max(other) }
    }
}

/// What one log's latest line means for the next.
///
/// Each policy that reads a log has one for it.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The long line or message that came last, until nothing can be its rest.
    after: Option<After>,
    /// Whether times are the container runtime's, which no client chooses.
    is_stamped: bool,
}

#[derive(Clone, Copy, Debug)]
struct After {
    at: Option<Timestamp>,
    doubt: Doubt,
    /// Whose it is, if that is certain.
    client: Option<IpAddr>,
    /// Why what is in doubt does not count.
    why: RecordError,
}

impl Trail {
    /// For a log whose lines come with the container runtime's stamps. The default is for one of which only the lines
    /// say when they were written: there the next line that reads is in doubt, whenever it says that it was written.
    #[must_use]
    pub fn stamped() -> Self {
        Self { after: None, is_stamped: true }
    }

    /// Whether the last line changes anything about the next.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.after.is_none()
    }

    /// A line that reads has come: why it does not count, if it may be the rest of another. `is_beginning` says that
    /// only its beginning was read.
    pub(super) fn doubts(
        &mut self,
        at: Option<Timestamp>,
        line: &[u8],
        is_beginning: bool,
        client: Option<IpAddr>,
    ) -> Option<RecordError> {
        let after = self.after?;
        if self.is_over(after, at) {
            self.after = None;
            return None;
        }
        let is_own = client.is_some() && client == after.client;
        let is_in_doubt = match after.doubt {
            Doubt::Beginnings => is_beginning && !is_own,
            Doubt::WithoutColon if self.is_stamped => !line.contains(&b':'),
            Doubt::Next => {
                self.after = None;
                !is_own
            }
            Doubt::WithoutColon | Doubt::All => {
                if !self.is_stamped {
                    self.after = None;
                }
                !is_own
            }
        };
        is_in_doubt.then_some(after.why)
    }

    /// A long line has come, of that client if it is certain.
    pub(super) fn was_long(&mut self, at: Option<Timestamp>, doubt: Doubt, client: Option<IpAddr>) {
        self.doubt(at, doubt, client, RecordError::Rest);
    }

    /// A message has come that quotes a client.
    pub(super) fn was_message(&mut self, at: Option<Timestamp>, doubt: Doubt) {
        self.doubt(at, doubt, None, RecordError::Quoted);
    }

    fn doubt(&mut self, at: Option<Timestamp>, doubt: Doubt, client: Option<IpAddr>, why: RecordError) {
        // Its rest may be in doubt, and that of the one before as well.
        let before = self.after.filter(|after| !self.is_over(*after, at));
        let doubt = before.map_or(doubt, |before| before.doubt.and(doubt));
        let client = client.filter(|client| before.is_none_or(|before| before.client == Some(*client)));
        self.after = Some(After { at, doubt, client, why });
    }

    fn is_over(&self, after: After, at: Option<Timestamp>) -> bool {
        let between = after.at.zip(at).map(|(after, at)| at.duration_since(after).abs());
        self.is_stamped && between.is_some_and(|between| between > REACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9));

    fn at(milli: i64) -> Timestamp {
        Timestamp::from_millisecond(milli).unwrap()
    }

    #[test]
    fn what_may_be_the_rest_of_a_long_line_is_in_doubt_and_nothing_else() {
        #[rustfmt::skip]
        let table = [
            // What is in doubt,  when it comes, whose, its beginning; is it in doubt, and the next one of the same kind
            (Doubt::All,        0,     OTHER, false, [true, true]),
            (Doubt::All,        1_000, OTHER, false, [true, true]),
            (Doubt::All,        1_001, OTHER, false, [false, false]),
            (Doubt::All,        0,     OWN,   false, [false, false]),
            (Doubt::All,        -1_001, OTHER, false, [false, false]),
            (Doubt::Next,       0,     OTHER, false, [true, false]),
            (Doubt::Next,       1_001, OTHER, false, [false, false]),
            (Doubt::Next,       0,     OWN,   false, [false, false]),
            (Doubt::Beginnings, 0,     OTHER, false, [false, false]),
            (Doubt::Beginnings, 0,     OTHER, true,  [true, true]),
            (Doubt::Beginnings, 0,     OWN,   true,  [false, false]),
        ];
        for (doubt, milli, client, is_beginning, expect) in table {
            let mut trail = Trail::stamped();
            trail.was_long(Some(at(0)), doubt, Some(OWN));
            let got = [0, 0]
                .map(|_| trail.doubts(Some(at(milli)), b"a line", is_beginning, Some(client)).is_some());
            assert_eq!(got, expect, "{doubt:?} at {milli}");
        }
    }

    #[test]
    fn without_the_runtimes_stamps_the_next_line_is_in_doubt_whatever_time_it_names() {
        let mut trail = Trail::default();
        trail.was_long(Some(at(0)), Doubt::All, Some(OWN));
        let got = [0, 0].map(|_| trail.doubts(Some(at(5_000)), b"a line", false, Some(OTHER)).is_some());
        assert_eq!(got, [true, false]);
    }

    #[test]
    fn a_long_line_that_is_in_doubt_itself_makes_nobody_certain_and_doubts_no_less() {
        let mut trail = Trail::stamped();
        trail.was_long(Some(at(0)), Doubt::All, Some(OWN));
        trail.was_long(Some(at(1)), Doubt::Beginnings, Some(OTHER));
        assert!(trail.doubts(Some(at(2)), b"a line", false, Some(OTHER)).is_some());
        assert!(trail.doubts(Some(at(2)), b"a line", false, Some(OWN)).is_some());
    }

    #[test]
    fn after_a_message_that_quotes_a_client_everybody_is_in_doubt_for_a_second() {
        #[rustfmt::skip]
        let table = [
            // in doubt,            when, the line,       is it
            (Doubt::All,            0,    "with: colon",  true),
            (Doubt::All,            1_000, "with: colon", true),
            (Doubt::All,            1_001, "with: colon", false),
            (Doubt::WithoutColon,   1_000, "without",     true),
            (Doubt::WithoutColon,   1_000, "with: colon", false),
        ];
        for (doubt, milli, line, expect) in table {
            for client in [OWN, OTHER] {
                let mut trail = Trail::stamped();
                trail.was_message(Some(at(0)), doubt);
                let why = trail.doubts(Some(at(milli)), line.as_bytes(), false, Some(client));
                assert_eq!(why, expect.then_some(RecordError::Quoted), "{doubt:?}, {line} at {milli}");
            }
        }
    }

    #[test]
    fn two_reasons_for_doubt_leave_no_line_out() {
        for (a, b, expect) in [
            (Doubt::WithoutColon, Doubt::Next, Doubt::All),
            (Doubt::Beginnings, Doubt::WithoutColon, Doubt::All),
            (Doubt::WithoutColon, Doubt::WithoutColon, Doubt::WithoutColon),
            (Doubt::Beginnings, Doubt::Next, Doubt::Next),
        ] {
            assert_eq!((a.and(b), b.and(a)), (expect, expect), "{a:?}, {b:?}");
        }
    }
}
