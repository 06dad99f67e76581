//! What ip-sentry decides, apart from everything it touches.
//!
//! Two halves, one for each daemon:
//!
//! * [`detect`]: a line of a gateway's log becomes a `Record`, a `Hit`, `Evidence` and at last a `Decision`.
//! * [`enforce`]: the bans that a node has heard of become what its kernel should hold, and a plan of the
//!   difference to what it does hold.
//!
//! Both speak of [`net::Network`]s and [`net::Source`]s, which can't be written wrongly.
//! Nothing here does I/O, reads a clock, waits or knows of Kubernetes: `clippy.toml` forbids it.

pub mod detect;
pub mod duration;
pub mod enforce;
pub mod net;
pub mod networks;
