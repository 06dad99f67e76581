//! Whether the container that was followed is still there, and still the same.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;

use super::stream::Refusal;
use super::{Container, Failure};

/// What a look at the pod has shown.
#[derive(Debug, PartialEq)]
pub(super) enum Sight {
    /// The pod is gone, or another one has its name.
    Gone,
    /// The container has not run yet; why.
    Waiting(String),
    /// The container has run.
    Instance(Instance),
}

/// One run of a container. Each restart begins another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    /// The container runtime's id of what `pods/log` serves.
    pub(super) id: String,
    /// The node that it runs on, by whose clock its lines are stamped.
    pub(super) node: String,
    /// Whether it may write more.
    pub(super) running: bool,
    /// When it began, if none was before it: its log begins then.
    pub(super) born: Option<Timestamp>,
    /// When the instance before it ended, if the kubelet may still have that one's log.
    pub(super) previous_ended: Option<Timestamp>,
}

/// Looks at the pod of `container`.
pub(super) async fn look(pods: &Api<Pod>, container: &Container) -> Result<Sight, Refusal> {
    match pods.get_opt(&container.pod).await {
        Ok(Some(pod)) => judge(&pod, container),
        Ok(None) => Ok(Sight::Gone),
        Err(error) => Err(Refusal::from_error(error)),
    }
}

fn judge(pod: &Pod, container: &Container) -> Result<Sight, Refusal> {
    if pod.metadata.uid.as_deref() != Some(&container.uid) {
        return Ok(Sight::Gone);
    }
    let names: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init).map(|container| container.name.as_str())
        })
        .collect();
    if !names.contains(&container.container.as_str()) {
        let message = format!("pod has no container {:?}, but {}", container.container, names.join(", "));
        return Err(Refusal::new(Failure::ContainerMissing, message));
    }
    let status = pod
        .status
        .iter()
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            status.container_statuses.iter().flatten().chain(init)
        })
        .find(|status| status.name == container.container);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    Ok(status.map_or_else(
        || Sight::Waiting("the kubelet has not seen the pod yet".into()),
        |status| sight(status, node),
    ))
}

/// The instance whose log the kubelet serves: the running one, else the one that ended last
/// (`pkg/kubelet/kubelet_pods.go`, `validateContainerLogStatus`).
fn sight(status: &ContainerStatus, node: &str) -> Sight {
    let state = status.state.as_ref();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    let running = state.is_some_and(|state| state.running.is_some());
    let current =
        if running { &status.container_id } else { ended.map_or(&None, |ended| &ended.container_id) };
    let id = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
    if let Some(id) = id(current) {
        let previous_ended = last.and_then(|last| last.finished_at.as_ref()).map(|time| time.0);
        let began = state.and_then(|state| {
            let ended = || state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref());
            state.running.as_ref().and_then(|running| running.started_at.as_ref()).or_else(ended)
        });
        let born = began.filter(|_| status.restart_count == 0).map(|time| time.0);
        return Sight::Instance(Instance { id, node: node.into(), running, born, previous_ended });
    }
    if let Some(id) = last.and_then(|last| id(&last.container_id)) {
        return Sight::Instance(Instance {
            id,
            node: node.into(),
            running: false,
            born: None,
            previous_ended: None,
        });
    }
    let reason = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
    Sight::Waiting(reason.unwrap_or_else(|| "the container has not started yet".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container() -> Container {
        Container {
            namespace: "gw".into(),
            pod: "nginx-1".into(),
            uid: "u1".into(),
            container: "nginx".into(),
        }
    }

    fn pod(uid: &str, statuses: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "nginx-1", "uid": uid},
            "spec": {"nodeName": "node-1", "containers": [{"name": "sidecar"}, {"name": "nginx"}]},
            "status": {"containerStatuses": statuses},
        }))
        .unwrap()
    }

    fn status(state: &Value, last: &Value, id: &str) -> Value {
        json!([{"name": "nginx", "image": "", "imageID": "", "ready": true,
            "restartCount": i32::from(last.as_object().is_some_and(|last| !last.is_empty())),
            "containerID": id, "state": state, "lastState": last}])
    }

    fn instance(id: &str, running: bool, born: Option<&str>, previous_ended: Option<&str>) -> Sight {
        let [born, previous_ended] = [born, previous_ended].map(|time| Some(time?.parse().unwrap()));
        Sight::Instance(Instance { id: id.into(), node: "node-1".into(), running, born, previous_ended })
    }

    #[test]
    fn the_instance_is_the_one_whose_log_the_kubelet_serves() {
        let running = || json!({"running": {"startedAt": "2026-11-22T08:00:00Z"}});
        let ended = |id: &str| json!({"terminated": {"containerID": id, "exitCode": 1, "finishedAt": "2026-11-22T08:00:00Z"}});
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        #[rustfmt::skip]
        let table = [
            (status(&running(), &json!({}), "c1"),      instance("c1", true, Some("2026-11-22T08:00:00Z"), None)),
            (status(&running(), &ended("c1"), "c2"),    instance("c2", true, None, Some("2026-11-22T08:00:00Z"))),
            (status(&ended("c2"), &ended("c1"), "c2"),  instance("c2", false, None, Some("2026-11-22T08:00:00Z"))),
            (status(&waiting(), &ended("c1"), "c1"),    instance("c1", false, None, None)),
            (status(&waiting(), &json!({}), ""),        Sight::Waiting("CrashLoopBackOff".into())),
            (json!([]),                               Sight::Waiting("the kubelet has not seen the pod yet".into())),
        ];
        for (statuses, expect) in table {
            assert_eq!(judge(&pod("u1", &statuses), &container()).unwrap(), expect, "{statuses}");
        }
    }

    #[test]
    fn a_pod_of_the_same_name_with_another_uid_is_another_pod() {
        assert_eq!(judge(&pod("u2", &json!([])), &container()).unwrap(), Sight::Gone);
    }

    #[test]
    fn a_missing_container_is_named_with_those_that_are_there() {
        let other = Container { container: "envoy".into(), ..container() };
        let refusal = judge(&pod("u1", &json!([])), &other).unwrap_err();
        assert_eq!(refusal.what, Failure::ContainerMissing);
        assert_eq!(refusal.message, r#"pod has no container "envoy", but sidecar, nginx"#);
    }
}
