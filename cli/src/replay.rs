//! Who would be banned: the lines of logs go through a jail, and what it decides is printed.

use std::{
    collections::HashMap,
    io::{self, BufWriter},
    path::Path,
};

use anyhow::Result;
use ip_sentry_core::{
    detect::{
        decision::{Decision, Verdict},
        jail::{Jail, Limits},
    },
    net::Source,
    networks::Networks,
};
use ip_sentry_crd::{
    IPBan, ProbePolicy,
    ip_ban::{Evidence, IPBanSpec, Origin, PolicyRef},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use crate::{
    args::ReplayArgs,
    input::{
        self, BytesRead, InputError,
        lines::{BLOCK_BYTES, Lines},
    },
    output::{Bans, Summary},
    policy_file,
};

/// Replays logs.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let file = policy_file::load(&args.policy, args.policy_name.as_deref())?;
    let mut jail = Jail::new(file.policy, Limits::default());
    let mut banned: HashMap<Source, Timestamp> = HashMap::new();
    let mut out = Bans::new(BufWriter::new(io::stdout().lock()), args.output);
    let protected = Networks::default();
    let mut bans = 0;
    let bytes_read = BytesRead::default();
    for path in &args.logs {
        let mut lines = Lines::new(input::open(path, &bytes_read)?.reader, BLOCK_BYTES);
        while advance(&mut lines, path)? {
            let Verdict::Earned(decision) = jail.observe(None, lines.line(), &protected) else { continue };
            let until = banned.entry(decision.source).or_insert(Timestamp::MIN);
            if decision.evidence.last_seen >= *until {
                *until = decision.expires_at;
                bans += 1;
                out.print(&ban(&file.object, decision))?;
            }
        }
    }
    Ok(out.finish(&Summary::of(jail.counters(), bans))?)
}

fn advance<R: io::Read>(lines: &mut Lines<R>, path: &Path) -> Result<bool, InputError> {
    lines.advance().map_err(|source| InputError::Read { path: path.to_owned(), source })
}

/// The object that the operator would write.
fn ban(policy: &ProbePolicy, decision: Decision) -> IPBan {
    let evidence = decision.evidence;
    let spec = IPBanSpec {
        cidr: decision.source.to_string(),
        origin: Origin::Detected,
        expires_at: Some(Time(decision.expires_at)),
        reason: Some(decision.reason),
        policy_ref: Some(PolicyRef {
            namespace: policy.namespace().unwrap_or_else(|| "default".to_owned()),
            name: policy.name_any(),
        }),
        offence: Some(1),
        evidence: Some(Evidence {
            hits: i32::try_from(evidence.hits).unwrap_or(i32::MAX),
            first_seen: Time(evidence.first_seen),
            last_seen: Time(evidence.last_seen),
            samples: evidence.samples,
        }),
    };
    IPBan::new(&decision.source.ban_name(), spec)
}
