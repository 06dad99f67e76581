//! What a policy makes of one request, before anything is counted.
//!
//! The one place that decides whether a request is a hit: [`super::jail`] counts by it and [`super::explain`] tells
//! of it, so that the two can't disagree. What is cheap to ask is asked first, since nearly every request is no hit.

use std::net::IpAddr;

use super::{
    client_ip::{ClientIp, NoClient},
    escalation::BanTime,
    exceptions::{Exceptions, Exemption},
    narrowing::{Disagreement, Narrowing},
    paths::Paths,
    policy::PrivateClients,
    record::Record,
    target::Normaliser,
    window::Thresholds,
};
use crate::{
    net::{Scope, Source, scope},
    networks::Networks,
};

/// What a request came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Judgement {
    /// Of an address that is never counted.
    Infrastructure,
    /// Something about the request doesn't agree with the policy's narrowing.
    Narrowed(Disagreement),
    /// No pattern matches its target.
    NoPattern,
    /// A hit that is exempt.
    Excepted(Exemption),
    /// A hit of this source on this pattern.
    Hit(Source, u16),
}

/// Whose request it was, and what there is to know of the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    pub(super) is_protected: bool,
    pub(super) scope: Scope,
}

impl Client {
    #[inline]
    pub(super) fn of(address: IpAddr, protected: &Networks) -> Self {
        Self { address, is_protected: protected.contains(address), scope: scope(address) }
    }

    /// Whether it is one of the many that nothing is known of.
    pub(super) fn is_usual(&self) -> bool {
        !self.is_protected && self.scope == Scope::Public
    }
}

/// All that a policy says of requests and their sources, but how they are logged.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) client_ip: Option<ClientIp>,
    pub(super) paths: Paths,
    pub(super) narrowing: Narrowing,
    pub(super) except: Exceptions,
    pub(super) thresholds: Thresholds,
    pub(super) ban_time: BanTime,
    pub(super) ipv6_prefix: u8,
    pub(super) private_clients: PrivateClients,
    pub(super) normaliser: Normaliser,
}

impl Rules {
    /// Whose request it was.
    #[inline]
    pub(super) fn client(&self, record: &Record<'_>, protected: &Networks) -> Result<Client, NoClient> {
        let address = match &self.client_ip {
            Some(client_ip) => client_ip.find(record.client, record.forwarded_for)?,
            None => record.client,
        };
        Ok(Client::of(address, protected))
    }

    /// Whether there is no path in it, and the policy looks for paths.
    pub(super) fn lacks_request(&self, record: &Record<'_>) -> bool {
        record.target.is_empty() && matches!(self.paths, Paths::Matching(_))
    }

    /// What a request of this client comes to.
    #[inline]
    pub(super) fn judge(&mut self, client: Client, record: &Record<'_>) -> Judgement {
        if !client.is_usual() && self.is_infrastructure(client) {
            return Judgement::Infrastructure;
        }
        if let Some(disagreement) = self.narrowing.refuses(record) {
            return Judgement::Narrowed(disagreement);
        }
        let Some(pattern) = self.paths.find(&mut self.normaliser, record.target) else {
            return Judgement::NoPattern;
        };
        if self.narrowing.refuses_user_agent(record) {
            return Judgement::Narrowed(Disagreement::UserAgent);
        }
        // Special addresses are infrastructure, and no policy counts by a prefix that is too wide.
        let Ok(source) = Source::of(client.address, self.ipv6_prefix) else {
            return Judgement::Infrastructure;
        };
        match self.except.find(source, record, &mut self.normaliser) {
            Some(exemption) => Judgement::Excepted(exemption),
            None => Judgement::Hit(source, pattern),
        }
    }

    fn is_infrastructure(&self, client: Client) -> bool {
        client.is_protected
            || client.scope == Scope::Special
            || self.private_clients == PrivateClients::Ignore
    }
}
