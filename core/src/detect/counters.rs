//! What a jail has seen and done since it was made. Every bound has its counter here.

use super::record::RecordError;

/// Counts since the jail was made; they only grow.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Lines given.
    pub lines: u64,
    /// Lines that a request was read from.
    pub parsed: u64,
    /// Of these, requests whose X-Forwarded-For does not say for certain who the client is: none of them counts.
    pub unknown_clients: u64,
    /// Requests whose client is a protected address: a node, a load balancer, the cluster itself.
    pub protected_clients: u64,
    /// Requests whose client is a private or special address that is not protected.
    pub private_clients: u64,
    /// Requests of private or protected addresses that say they are the kubelet's probes, and are not counted
    /// as such clients: they tell nothing of what happens to the addresses of others.
    pub probes: u64,
    /// Requests that matched a pattern, whether they counted or not.
    pub hits: u64,
    /// Hits that the policy exempts.
    pub excepted: u64,
    /// Hits too old to count.
    pub stale: u64,
    /// Hits of sources that were banned at the time, and so would not have come.
    pub dropped: u64,
    /// Decisions made.
    pub earned: u64,
    /// Decisions not made, because the source shares addresses with a protected network.
    pub shielded: u64,
    /// Sources forgotten before their time, because the jail was full.
    pub evicted: u64,
    /// Request targets cut at their limit.
    pub cut_targets: u64,
    /// Lines of 16 KiB or more.
    pub long_lines: u64,
    /// Of these, lines of which only the beginning could be read: they were longer than is looked at, or joined with
    /// another.
    pub beginnings: u64,
    /// Bans lifted by hand that are remembered no more, because there were too many.
    pub pardons_dropped: u64,
    unparsed: [u64; RecordError::ALL.len()],
}

impl Counters {
    /// Lines that no request could be read from, for one reason.
    #[must_use]
    pub fn unparsed(&self, reason: RecordError) -> u64 {
        self.unparsed[reason as usize]
    }

    pub(super) fn count_unparsed(&mut self, reason: RecordError) {
        self.unparsed[reason as usize] += 1;
    }
}
