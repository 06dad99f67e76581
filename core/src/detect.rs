//! Who probes: lines of a gateway's log come in, decisions to ban come out.
//!
//! One direction, one file a step:
//!
//! 1. [`policy`] turns what a ProbePolicy says into something that runs.
//! 2. [`format`] reads a line into a [`record::Record`], or says why it is none.
//! 3. [`target`] brings the request target into the one form that patterns are written for.
//! 4. [`matcher`] finds the pattern that the target is a hit on.
//! 5. `judge` asks all of this and what narrows or exempts, and says whether the request is a hit. [`explain`] tells
//!    a person why.
//! 6. `window` counts the hits of one source, and says when they are enough.
//! 7. [`jail`] does all of this for one policy and makes a [`decision::Decision`]; `reason` puts into words why.
//! 8. [`escalation`] says how long its ban lasts.
//!
//! The caller brings bytes and time stamps. Whoever sends requests to a gateway chooses most of those bytes, so
//! everything here is bounded, and nothing but the gateway's own view of the client becomes an address.

pub mod catalogue;
pub mod client_ip;
pub mod counters;
pub mod date;
pub mod decision;
pub mod escalation;
mod exceptions;
pub mod explain;
pub mod forgiven;
pub mod format;
mod hosts;
pub mod jail;
mod judge;
pub mod matcher;
pub mod narrowing;
mod pages;
mod paths;
pub mod policy;
mod reason;
pub mod record;
mod samples;
pub mod shape;
mod sources;
mod tally;
pub mod target;
pub mod trail;
mod window;
