//! What a hit has beside its path: `match.statuses`, `methods`, `hosts` and `userAgents`.
//!
//! A list that is empty lets everything through; of one that isn't, one entry must agree; every list must.

use super::{
    format::{Field, Fields},
    hosts::Hosts,
    matcher::Matcher,
    policy::{self, PolicyDraft, PolicyError},
    record::Record,
    target::MAX_TARGET_BYTES,
};

/// The longest method, in bytes.
const MAX_METHOD_BYTES: usize = 32;

/// Why an entry of a list can't be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not a status.
    #[error("is no status: write three digits, such as 404, or a class, such as 4xx")]
    Status,
    /// Not a method.
    #[error("is no method: write it in capitals, such as POST")]
    Method,
    /// Not a host.
    #[error(
        "is no host: write a name without port, such as shop.example.com, or *.example.com for all below it"
    )]
    Host,
}

/// What doesn't agree with the narrowing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Disagreement {
    Status,
    Method,
    Host,
    UserAgent,
}

/// The lists, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Narrowing {
    statuses: Option<Statuses>,
    methods: Vec<Box<str>>,
    hosts: Hosts,
    user_agents: Matcher,
}

impl Narrowing {
    /// Checks and compiles a draft's lists; `fields` is what the format has.
    pub(super) fn compile(draft: &PolicyDraft, fields: Fields) -> Result<Self, PolicyError> {
        #[rustfmt::skip]
        let lists = [
            ("match.statuses",   draft.statuses.len(),    Field::Status),
            ("match.methods",    draft.methods.len(),     Field::Method),
            ("match.hosts",      draft.hosts.len(),       Field::Host),
            ("match.userAgents", draft.user_agents.len(), Field::UserAgent),
        ];
        for (field, length, needs) in lists {
            policy::list(field, length, needs, fields)?;
        }
        policy::entries("match.statuses", &draft.statuses)?;
        policy::entries("match.methods", &draft.methods)?;
        if let Some(index) = draft.methods.iter().position(|method| !is_method(method)) {
            return Err(PolicyError::Entry { field: "match.methods", index, reason: EntryError::Method });
        }
        Ok(Self {
            statuses: Statuses::new(&draft.statuses).map_err(|index| PolicyError::Entry {
                field: "match.statuses",
                index,
                reason: EntryError::Status,
            })?,
            methods: draft.methods.iter().map(|method| method.as_str().into()).collect(),
            hosts: policy::hosts("match.hosts", &draft.hosts)?,
            user_agents: policy::matcher("match.userAgents", &[], &draft.user_agents)?,
        })
    }

    /// What its patterns take compiled, in bytes.
    pub(super) fn memory_usage(&self) -> usize {
        self.user_agents.memory_usage()
    }

    /// What about a request does not agree, as far as a glance can tell: ask it before the path is searched.
    #[inline]
    pub(super) fn refuses(&self, record: &Record<'_>) -> Option<Disagreement> {
        if self.statuses.as_ref().is_some_and(|statuses| !statuses.has(record.status)) {
            return Some(Disagreement::Status);
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method.as_bytes() == record.method) {
            return Some(Disagreement::Method);
        }
        (!self.hosts.is_empty() && self.hosts.find(record.host).is_none()).then_some(Disagreement::Host)
    }

    /// Whether the user agent, which takes a search, does not agree.
    pub(super) fn refuses_user_agent(&mut self, record: &Record<'_>) -> bool {
        !self.user_agents.is_empty() && find_user_agent(&mut self.user_agents, record).is_none()
    }

    /// Whether every request that `other` lets through is let through, as far as their texts tell.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let statuses = match (&self.statuses, &other.statuses) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(new), Some(old)) => new.covers(old),
        };
        let methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method));
        let hosts = self.hosts.is_empty() || !other.hosts.is_empty() && self.hosts.covers(&other.hosts);
        let user_agents = self.user_agents.is_empty()
            || !other.user_agents.is_empty() && self.user_agents.covers(&other.user_agents);
        statuses && methods && hosts && user_agents
    }
}

/// The first pattern that the user agent matches, of as much of it as is looked at of a target.
pub(super) fn find_user_agent(patterns: &mut Matcher, record: &Record<'_>) -> Option<u16> {
    patterns.find(&record.user_agent[..record.user_agent.len().min(MAX_TARGET_BYTES)])
}

/// What a draft's narrowing lets through, in words, each beginning with a comma; nothing when it is all.
pub(super) fn in_words(draft: &PolicyDraft) -> String {
    let lists = [
        (", status ", &draft.statuses),
        (", method ", &draft.methods),
        (", host ", &draft.hosts),
        (", user agent ", &draft.user_agents),
    ];
    let given = lists.into_iter().filter(|(_, entries)| !entries.is_empty());
    given.map(|(name, entries)| name.to_owned() + &entries.join(" or ")).collect()
}

fn is_method(text: &str) -> bool {
    (1..=MAX_METHOD_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
}

/// A set of statuses, a bit for each from 0 to 999.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Statuses([u64; 16]);

impl Statuses {
    /// None for no entries; an error is the place of the one that is no status.
    fn new(entries: &[String]) -> Result<Option<Self>, usize> {
        let mut bits = [0; 16];
        for (index, entry) in entries.iter().enumerate() {
            let range = match entry.as_bytes() {
                &[class, b'x', b'x'] if class.is_ascii_digit() => {
                    let first = usize::from(class - b'0') * 100;
                    first..first + 100
                }
                digits => {
                    let status = status(digits).ok_or(index)?;
                    status..status + 1
                }
            };
            for status in range {
                bits[status / 64] |= 1 << (status % 64);
            }
        }
        Ok((!entries.is_empty()).then_some(Self(bits)))
    }

    fn has(&self, text: &[u8]) -> bool {
        status(text).is_some_and(|status| self.0[status / 64] & 1 << (status % 64) != 0)
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(these, those)| those & !these == 0)
    }
}

fn status(text: &[u8]) -> Option<usize> {
    match text {
        [a, b, c] if text.iter().all(u8::is_ascii_digit) => {
            Some([a, b, c].into_iter().fold(0, |status, digit| status * 10 + usize::from(digit - b'0')))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ALL: Fields =
        Fields::of(&[Field::Path, Field::Status, Field::Method, Field::Host, Field::UserAgent]);

    /// Statuses, methods, hosts and user agents.
    type Lists = [&'static [&'static str]; 4];

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn draft(lists: Lists) -> PolicyDraft {
        let [statuses, methods, hosts, user_agents] = lists.map(texts);
        PolicyDraft { statuses, methods, hosts, user_agents, ..PolicyDraft::default() }
    }

    fn narrowing(lists: Lists) -> Narrowing {
        Narrowing::compile(&draft(lists), ALL).unwrap()
    }

    #[test]
    fn a_hit_agrees_with_every_list_that_is_given() {
        const SQLMAP: &[u8] = b"sqlMap/1.8";
        use Disagreement::{Host, Method, Status, UserAgent};
        type Request = [&'static [u8]; 4];
        #[rustfmt::skip]
        let table: &[(Lists, Request, Option<Disagreement>)] = &[
            ([&[], &[], &[], &[]],                       [b"",    b"",     b"",      b""],    None),
            ([&["404"], &[], &[], &[]],                  [b"404", b"GET",  b"a",     b""],    None),
            ([&["404"], &[], &[], &[]],                  [b"403", b"GET",  b"a",     b""],    Some(Status)),
            ([&["404", "5xx"], &[], &[], &[]],           [b"503", b"GET",  b"a",     b""],    None),
            ([&["4xx"], &[], &[], &[]],                  [b"500", b"GET",  b"a",     b""],    Some(Status)),
            ([&["4xx"], &[], &[], &[]],                  [b"",    b"GET",  b"a",     b""],    Some(Status)),
            ([&["4xx"], &[], &[], &[]],                  [b"4040", b"GET", b"a",     b""],    Some(Status)),
            ([&[], &["POST", "PUT"], &[], &[]],          [b"404", b"PUT",  b"a",     b""],    None),
            ([&[], &["POST", "PUT"], &[], &[]],          [b"404", b"put",  b"a",     b""],    Some(Method)),
            ([&[], &["POST"], &[], &[]],                 [b"404", b"",     b"a",     b""],    Some(Method)),
            ([&[], &[], &["a.example"], &[]],            [b"404", b"GET",  b"A.example:80", b""], None),
            ([&[], &[], &["a.example"], &[]],            [b"404", b"GET",  b"b.example", b""], Some(Host)),
            ([&[], &[], &[], &["(?i)sqlmap", "^-$"]],    [b"404", b"GET",  b"a",     SQLMAP], None),
            ([&[], &[], &[], &["(?i)sqlmap", "^-$"]],    [b"404", b"GET",  b"a",     b"-"],   None),
            ([&[], &[], &[], &["(?i)sqlmap"]],           [b"404", b"GET",  b"a",     b"-"],   Some(UserAgent)),
            ([&["4xx"], &["GET"], &["*.b"], &["sqlM"]],  [b"404", b"GET",  b"a.b",   SQLMAP], None),
            ([&["4xx"], &["GET"], &["*.b"], &["sqlM"]],  [b"404", b"HEAD", b"a.b",   SQLMAP], Some(Method)),
        ];
        for (index, &(lists, [status, method, host, user_agent], expect)) in table.iter().enumerate() {
            let mut narrowing = narrowing(lists);
            let record =
                Record { method, status, host, user_agent, ..Record::of(Ipv4Addr::LOCALHOST.into()) };
            let refused = narrowing.refuses(&record);
            let refused =
                refused.or_else(|| narrowing.refuses_user_agent(&record).then_some(Disagreement::UserAgent));
            assert_eq!(refused, expect, "row {index}");
        }
    }

    #[test]
    fn what_can_not_be_asked_for_is_refused_with_what_to_write() {
        #[rustfmt::skip]
        let table: &[(Lists, Fields, &str)] = &[
            ([&["404", "4x"], &[], &[], &[]],  ALL, "match.statuses[1] is no status: write three digits, such as 404, or a class, such as 4xx"),
            ([&["4XX"], &[], &[], &[]],        ALL, "match.statuses[0] is no status: write three digits, such as 404, or a class, such as 4xx"),
            ([&["４04"], &[], &[], &[]],       ALL, "match.statuses[0] is no status: write three digits, such as 404, or a class, such as 4xx"),
            ([&[], &["post"], &[], &[]],       ALL, "match.methods[0] is no method: write it in capitals, such as POST"),
            ([&[], &[""], &[], &[]],           ALL, "match.methods[0] is no method: write it in capitals, such as POST"),
            ([&[], &[], &["a:80"], &[]],       ALL, "match.hosts[0] is no host: write a name without port, such as shop.example.com, or *.example.com for all below it"),
            ([&[], &[], &[], &["a", "("]],     ALL, "match.userAgents[1] does not compile: unclosed group, at character 1"),
            ([&[], &[], &["a"], &[]],          Fields::of(&[Field::Path]), "match.hosts asks for the host of a request, which the format does not have: add it there or leave match.hosts out"),
            ([&["404"], &[], &[], &[]],        Fields::default(), "match.statuses asks for the status of a request, which the format does not have: add it there or leave match.statuses out"),
        ];
        for &(lists, fields, expect) in table {
            assert_eq!(Narrowing::compile(&draft(lists), fields).unwrap_err().to_string(), expect);
        }
    }

    #[test]
    fn a_narrowing_covers_what_lets_no_more_through() {
        #[rustfmt::skip]
        let table: &[(Lists, Lists, bool)] = &[
            ([&[], &[], &[], &[]],             [&["404"], &["GET"], &["a"], &["b"]], true),
            ([&["4xx"], &[], &[], &[]],        [&["404", "429"], &[], &[], &[]],     true),
            ([&["404"], &[], &[], &[]],        [&["4xx"], &[], &[], &[]],            false),
            ([&["404"], &[], &[], &[]],        [&[], &[], &[], &[]],                 false),
            ([&[], &["GET", "PUT"], &[], &[]], [&[], &["PUT"], &[], &[]],            true),
            ([&[], &["GET"], &[], &[]],        [&[], &["PUT"], &[], &[]],            false),
            ([&[], &[], &["a", "b"], &[]],     [&[], &[], &["B"], &[]],              true),
            ([&[], &[], &["a"], &[]],          [&[], &[], &[], &[]],                 false),
            ([&[], &[], &[], &["x", "y"]],     [&[], &[], &[], &["y"]],              true),
            ([&[], &[], &[], &["x"]],          [&[], &[], &[], &["y"]],              false),
        ];
        for (index, &(wide, narrow, expect)) in table.iter().enumerate() {
            assert_eq!(narrowing(wide).covers(&narrowing(narrow)), expect, "row {index}");
        }
    }

    #[test]
    fn what_is_let_through_reads_as_a_sentence() {
        let draft = draft([&["404", "4xx"], &["POST"], &[], &["(?i)sqlmap"]]);
        assert_eq!(in_words(&draft), ", status 404 or 4xx, method POST, user agent (?i)sqlmap");
        assert_eq!(in_words(&PolicyDraft::default()), "");
    }
}
