//! What a policy makes of each line: what was read from it, how the path was normalised, which pattern matched, or why
//! none did. Nothing is counted, and lines need no time.
//!
//! Every line leads to one explanation, whatever is in it, before the next is waited for: another program can feed
//! lines through a pipe and read the answers.

use std::io::{self, BufWriter};

use ip_sentry_core::{
    detect::{
        explain::{Explanation, Reason},
        target::{self, MAX_TARGET_BYTES},
    },
    networks::Networks,
};
use serde::Serialize;

use crate::{
    args::ExplainArgs,
    input::{self, BytesRead, InputError},
    output::Explanations,
    policy_file::{self, ObjectFileError},
};

/// Why logs can't be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The policy or what is protected can't be used.
    #[error(transparent)]
    Object(#[from] ObjectFileError),
    /// A log can't be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The explanations can't be printed.
    #[error("the results can't be written")]
    Output(#[from] io::Error),
}

/// One line's explanation, as it is printed. What is not known is absent, and null in JSON.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The line; what is not UTF-8 in it is replaced. Of one that is too long, the beginning.
    pub line: String,
    /// Whether a request was read from it.
    pub parsed: bool,
    /// The client that would be counted.
    pub ip: Option<String>,
    /// The request target as it was logged.
    pub path: Option<String>,
    /// The path as patterns see it, without the query.
    pub normalised_path: Option<String>,
    /// The response's status.
    pub status: Option<u16>,
    /// The request method.
    pub method: Option<String>,
    /// The host that was asked for.
    pub host: Option<String>,
    /// What the client says that it is.
    pub user_agent: Option<String>,
    /// The event that the line tells of; there are none yet.
    pub event: Option<String>,
    /// Whether the line is a hit.
    pub matched: bool,
    /// The pattern that the target matches, also where something else keeps the line from being a hit.
    pub pattern: Option<String>,
    /// Why the line is no hit.
    pub reason: Option<String>,
}

impl Explained {
    /// What is printed of an explanation.
    #[must_use]
    pub fn new(line: &[u8], explanation: &Explanation<'_>) -> Self {
        // Servers log a dash for what the client did not send.
        let is_known = |bytes: &[u8]| !bytes.is_empty() && bytes != b"-";
        let text = |bytes: &[u8]| is_known(bytes).then(|| String::from_utf8_lossy(bytes).into_owned());
        let record = explanation.record.as_ref().ok();
        Self {
            line: String::from_utf8_lossy(line).into_owned(),
            parsed: !matches!(explanation.reason, Some(Reason::Unparsed(_))),
            ip: explanation.client.map(|client| client.to_string()),
            path: record.and_then(|record| text(record.target)),
            normalised_path: record
                .zip(explanation.normalised.as_deref())
                .and_then(|(record, normalised)| text(without_query(record.target, normalised))),
            status: record.and_then(|record| std::str::from_utf8(record.status).ok()?.parse().ok()),
            method: record.and_then(|record| text(record.method)),
            host: record.and_then(|record| text(record.host)),
            user_agent: record.and_then(|record| text(record.user_agent)),
            event: None,
            matched: explanation.is_hit(),
            pattern: explanation.pattern.clone(),
            reason: explanation.reason.as_ref().map(ToString::to_string),
        }
    }
}

/// The query is at the end of both, and spelled the same.
fn without_query<'a>(target: &[u8], normalised: &'a [u8]) -> &'a [u8] {
    let (_, query) = target::split(&target[..target.len().min(MAX_TARGET_BYTES)]);
    normalised.strip_suffix(query).unwrap_or(normalised)
}

/// Explains each line of each log, in the order in which they are named.
pub fn run(args: &ExplainArgs) -> Result<(), ExplainError> {
    let objects = [Some(&args.policy.policy), args.policy.protected.as_ref()];
    input::check_stdin(&objects, Some(&args.logs))?;
    let policy = policy_file::load(&args.policy.policy, args.policy.policy_name.as_deref())?.policy;
    let protected: Networks = policy_file::protected(args.policy.protected.as_deref())?.into_iter().collect();
    let mut out = Explanations::new(BufWriter::new(io::stdout().lock()), args.output);
    for mut log in input::open(input::or_stdin(&args.logs)?, &BytesRead::default())? {
        // Of its own: what stands in front of lines is followed from one to the next.
        let mut policy = policy.clone();
        loop {
            if !log.lines.is_ready() {
                out.flush()?;
            }
            let failed = |source| InputError::Read { name: log.name.clone(), source };
            if !log.lines.advance().map_err(failed)? {
                break;
            }
            let line = log.lines.line();
            out.print(&Explained::new(line, &policy.explain(line, &protected)))?;
        }
    }
    Ok(out.flush()?)
}
