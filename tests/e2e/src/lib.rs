//! Drives ip-sentry on a real Kubernetes cluster, from the log line to the dropped packet.
//!
//! The cluster is the one that `cluster/cluster.sh up` starts: two real dual-stack nodes on this machine. A test is
//! a function in `tests/` that hands a closure to [`scenario::shared`], or to [`scenario::alone`] when it disturbs
//! the whole cluster. It gets a [`scenario::Scenario`]: a namespace of its own, and addresses that no other test
//! uses. In it a test puts up a [`gateway::Gateway`] with policies, sends requests from [`client::Client`]s, and
//! watches what becomes of them in the API and in the [`node`]s' kernels.
//!
//! Nothing sleeps for a result: [`eventually()`] asks again until it is there or its deadline has passed, and then
//! says what was seen last. A test that fails prints the objects, the logs and the kernels' state.

pub mod address;
pub mod admission;
pub mod api_server;
pub mod bans;
pub mod client;
pub mod dump;
pub mod eventually;
pub mod gateway;
pub mod install;
pub mod lab;
pub mod node;
pub mod operator;
pub mod plugin;
pub mod policy;
pub mod process;
pub mod scenario;

pub use eventually::eventually;
