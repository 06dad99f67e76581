//! Results on standard output, as kubectl would print them.

mod bans;
mod summary;

pub use self::{bans::Bans, summary::Summary};
