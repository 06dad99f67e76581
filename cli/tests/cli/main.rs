//! The program as people run it: arguments and logs in, what it prints and how it ends out.

#![expect(clippy::unwrap_used, reason = "what a test sets up must be there, or the test fails")]

mod explain;
mod hostile;
mod policies;
mod replay;
mod run;
mod since;
