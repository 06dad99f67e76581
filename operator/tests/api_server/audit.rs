//! What the API server was asked, as it says itself.

use jiff::Timestamp;
use serde_json::Value;

use crate::control_plane::ControlPlane;

/// One line of the audit log.
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) code: i64,
    pub(crate) received: Timestamp,
}

impl ControlPlane {
    fn entries(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.folder.path().join("log/audit.json")).unwrap();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often objects whose name begins with one of these were asked to be patched.
    pub(crate) fn patches(&self, prefixes: &[&str]) -> usize {
        let is_meant = |entry: &&Value| {
            let name = entry["objectRef"]["name"].as_str().unwrap_or_default();
            entry["verb"] == "patch" && prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        self.entries().iter().filter(is_meant).count()
    }

    /// The requests about objects of this name that have been answered, oldest first.
    pub(crate) fn audit(&self, object: &str) -> Vec<Request> {
        self.entries()
            .into_iter()
            .filter(|entry| entry["objectRef"]["name"] == object)
            .map(|entry| Request {
                verb: entry["verb"].as_str().unwrap().into(),
                code: entry["responseStatus"]["code"].as_i64().unwrap(),
                received: entry["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap(),
            })
            .collect()
    }
}
