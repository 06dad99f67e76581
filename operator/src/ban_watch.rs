//! The watch of `IPBan`s: it keeps the table of bans, notes ends, and says which bans changed.

use std::sync::Arc;

use futures::StreamExt as _;
use ip_sentry_crd::IPBan;
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{bans::Ban, events::What, metrics::Metrics, state::State, watch::Retries};

/// Watches until `shutdown`. `listed` is told when all bans are known.
pub async fn run(client: Client, state: Arc<State>, listed: Arc<Notify>, shutdown: CancellationToken) {
    let api: Api<DeserializeGuard<IPBan>> = Api::all(client);
    let events = watcher(api, watcher::Config::default())
        .backoff(Retries::default())
        .take_until(shutdown.cancelled_owned());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let is_listed = matches!(event, watcher::Event::InitDone);
                take_in(&state, event);
                if is_listed {
                    listed.notify_one();
                }
            }
            Err(error) => {
                Metrics::count(&state.metrics.watch_errors, "IPBan");
                tracing::debug!(%error, "the bans can't be watched");
            }
        }
    }
}

fn take_in(state: &State, event: watcher::Event<DeserializeGuard<IPBan>>) {
    let now = state.clock.now();
    match event {
        watcher::Event::Init => state.bans().list_begins(),
        watcher::Event::InitApply(object) => {
            if let Some((ban, _)) = read(state, object) {
                if ban.deleting_since.is_some() {
                    state.ended(&ban, now);
                }
                state.bans().listed(ban);
            }
        }
        watcher::Event::InitDone => {
            let gone = state.bans().list_done();
            for ban in &gone {
                state.ended(ban, now);
            }
            let listed = state.bans().iter().map(|ban| ban.name.clone()).collect::<Vec<_>>();
            state.bans_changed(listed.into_iter().chain(gone.iter().map(|ban| ban.name.clone())).collect());
        }
        watcher::Event::Apply(object) => {
            let Some((ban, object)) = read(state, object) else { return };
            let before = state.bans().share(&ban.name).filter(|before| before.uid == ban.uid);
            if ban.deleting_since.is_some() {
                state.ended(&ban, now);
            }
            if before.is_none() {
                announce(state, &ban, &object);
            }
            let name = ban.name.clone();
            state.bans().applied(ban);
            state.bans_changed(vec![name]);
        }
        watcher::Event::Delete(object) => {
            let name = object.name_any();
            let gone = state.bans().deleted(&name);
            if let Some(ban) = gone {
                state.ended(&ban, now);
            }
            state.bans_changed(vec![name]);
        }
    }
}

/// Sends an event about a new Detected ban with its origin, for `kubectl describe`.
fn announce(state: &State, ban: &Ban, object: &IPBan) {
    let spec = &object.spec;
    if let (true, Some(policy), Some(end)) = (ban.is_managed, &spec.policy_ref, ban.expires_at) {
        let reason = spec.reason.as_deref().unwrap_or("no reason given");
        let offence = spec.offence.unwrap_or(1);
        let by = format!("{}/{}", policy.namespace, policy.name);
        let note =
            format!("{} is banned until {end} by policy {by}: {reason}; offence {offence}", ban.source);
        state.tell_on_ban(ban, What::IPBanned, note);
    }
}

/// One that can't be read costs only itself.
fn read(state: &State, object: DeserializeGuard<IPBan>) -> Option<(Ban, IPBan)> {
    let ban = match object.0 {
        Ok(object) => Ban::read(&object).map(|ban| (ban, object)).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    ban.inspect_err(|error| {
        Metrics::count(&state.metrics.unreadable, "IPBan");
        tracing::warn!(error, "a ban can't be read and is left alone");
    })
    .ok()
}
