//! The agent against an API server that can be told to fail: what a real one does only now and then.

#![expect(unreachable_pub, reason = "the modules of a test are nobody else's")]
#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

#[path = "api/server.rs"]
mod server;

#[path = "api/watches.rs"]
mod watches;

#[path = "api/reports.rs"]
mod reports;

#[path = "api/store.rs"]
mod store;

#[path = "api/outages.rs"]
mod outages;
