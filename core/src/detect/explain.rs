//! Why a line is a hit or is none, for a person who tries a policy.

use std::{fmt, net::IpAddr};

use super::{
    client_ip::NoClient,
    exceptions::Exemption,
    judge::{Client, Judgement, Rules},
    narrowing::Disagreement,
    paths::Paths,
    policy::Policy,
    record::{Record, RecordError},
    samples::printable,
};
use crate::{net::Scope, networks::Networks};

/// What a policy makes of one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation<'a> {
    /// What was read from the line, or why nothing was. Its client is the peer, which may be a proxy. Of what is no
    /// request the client and the status are read all the same.
    pub record: Result<Record<'a>, RecordError>,
    /// Whose request it was; absent where nobody knows, or nothing was read.
    pub client: Option<IpAddr>,
    /// The request target in the form that patterns are searched in, with the query; absent where the line has none.
    pub normalised: Option<Vec<u8>>,
    /// The lowest-numbered pattern that the target matches, whether or not the line is a hit; absent where every path
    /// is a hit.
    pub pattern: Option<String>,
    /// Why the line is no hit; absent when it is one.
    pub reason: Option<Reason>,
}

impl Explanation<'_> {
    /// Whether the line counts against its client.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        self.reason.is_none()
    }
}

/// Why a line is no hit. Texts of the log in it are fit to be shown.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// No request could be read from it.
    Unparsed(RecordError),
    /// Nobody knows whose it was.
    NoClient(NoClient),
    /// The client is protected.
    Protected,
    /// The client has a private address.
    Private,
    /// The client has an address that nobody on the Internet can have.
    Special,
    /// No pattern matches the target.
    NoPattern,
    /// Its status is not among those asked for.
    Status(String),
    /// Its method is not among those asked for.
    Method(String),
    /// Its host is not among those asked for.
    Host(String),
    /// No pattern for user agents matches its own.
    UserAgent(String),
    /// The client's network shares addresses with one that is exempt.
    ExceptedNetwork,
    /// This pattern exempts its target.
    ExceptedPattern(String),
    /// This entry exempts its host.
    ExceptedHost(String),
    /// This pattern exempts its user agent.
    ExceptedUserAgent(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none_of = |f: &mut fmt::Formatter<'_>, what: &str, text: &str, field: &str| match text {
            "" => write!(f, "the line has no {what}, and match.{field} asks for one"),
            text => write!(f, "the {what} {text} is none of match.{field}"),
        };
        match self {
            Self::Unparsed(error) => write!(f, "{error}"),
            Self::NoClient(error) => write!(f, "{error}"),
            Self::Protected => f.write_str("the client is protected and never counted"),
            Self::Private => {
                f.write_str("the client has a private address, which counts only with privateClients: Ban")
            }
            Self::Special => f.write_str("the client's address is no host's, or the machine's own"),
            Self::NoPattern => f.write_str("no pattern matches"),
            Self::Status(text) => none_of(f, "status", text, "statuses"),
            Self::Method(text) => none_of(f, "method", text, "methods"),
            Self::Host(text) => none_of(f, "host", text, "hosts"),
            Self::UserAgent(text) => none_of(f, "user agent", text, "userAgents"),
            Self::ExceptedNetwork => f.write_str("except.cidrs exempts the client"),
            Self::ExceptedPattern(text) => write!(f, "except.patterns exempts the request: {text}"),
            Self::ExceptedHost(text) => write!(f, "except.hosts exempts the host: {text}"),
            Self::ExceptedUserAgent(text) => write!(f, "except.userAgents exempts the user agent: {text}"),
        }
    }
}

impl Policy {
    /// What the policy makes of one line, without its newline, apart from all others: nothing is counted.
    ///
    /// `protected` is never counted. Whether the line's time is understood is not asked, since for a pod's line the
    /// container runtime's stamp counts.
    pub fn explain<'a>(&'a mut self, line: &'a [u8], protected: &Networks) -> Explanation<'a> {
        let Self { format, rules } = self;
        format.want_headers(true);
        let mut explanation = Explanation {
            record: format.read(line).0,
            client: None,
            normalised: None,
            pattern: None,
            reason: None,
        };
        let record = match &explanation.record {
            Ok(record) => record,
            Err(error) => {
                explanation.reason = Some(Reason::Unparsed(*error));
                return explanation;
            }
        };
        if !record.target.is_empty() {
            explanation.normalised = Some(rules.normaliser.normalise(record.target).to_vec());
        }
        if let Paths::Matching(_) = rules.paths {
            let pattern = rules.paths.find(&mut rules.normaliser, record.target);
            explanation.pattern = pattern.map(|number| rules.paths.text(number).to_owned());
        }
        explanation.reason = match rules.client(record, protected) {
            Ok(client) => {
                explanation.client = Some(client.address);
                if rules.lacks_request(record) {
                    Some(Reason::Unparsed(RecordError::Request))
                } else {
                    rules.reason(client, record)
                }
            }
            Err(error) => Some(Reason::NoClient(error)),
        };
        explanation
    }
}

impl Rules {
    fn reason(&mut self, client: Client, record: &Record<'_>) -> Option<Reason> {
        Some(match self.judge(client, record) {
            Judgement::Hit(..) => return None,
            Judgement::Infrastructure if client.is_protected => Reason::Protected,
            Judgement::Infrastructure if client.scope == Scope::Private => Reason::Private,
            Judgement::Infrastructure => Reason::Special,
            Judgement::NoPattern => Reason::NoPattern,
            Judgement::Narrowed(Disagreement::Status) => Reason::Status(printable(record.status)),
            Judgement::Narrowed(Disagreement::Method) => Reason::Method(printable(record.method)),
            Judgement::Narrowed(Disagreement::Host) => Reason::Host(printable(record.host)),
            Judgement::Narrowed(Disagreement::UserAgent) => Reason::UserAgent(printable(record.user_agent)),
            Judgement::Excepted(Exemption::Network) => Reason::ExceptedNetwork,
            Judgement::Excepted(Exemption::Pattern(number)) => {
                Reason::ExceptedPattern(self.except.patterns.text(number).to_owned())
            }
            Judgement::Excepted(Exemption::Host(index)) => {
                Reason::ExceptedHost(self.except.hosts.text(index))
            }
            Judgement::Excepted(Exemption::UserAgent(number)) => {
                Reason::ExceptedUserAgent(self.except.user_agents.text(number).to_owned())
            }
        })
    }
}

#[cfg(test)]
mod tests;
