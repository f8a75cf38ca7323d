//! Manifests as users write them.

use serde_json::{Value, json};

/// A pod's template with one container that ends on SIGTERM.
pub(crate) fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": {}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "trap exit TERM; sleep 86400 & wait"],
            }],
        },
    })
}

/// A StatefulSet whose pods start all at once.
pub(crate) fn stateful_set(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}}, "template": template(name),
        },
    })
}

/// A Deployment.
pub(crate) fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name)},
    })
}

/// A pod without an owner.
pub(crate) fn pod(name: &str) -> Value {
    let mut pod = template(name);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod
}

/// A StatefulSet whose pods use their node's network: the runtime calls no plugin for them, so a test can.
pub(crate) fn without_network(name: &str, replicas: u32) -> Value {
    let mut set = stateful_set(name, replicas);
    set["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    set
}

/// A manifest whose pods are on a certain node.
pub(crate) fn on_node(mut manifest: Value, node: &str) -> Value {
    let pod = if manifest["kind"] == "Pod" { &mut manifest } else { &mut manifest["spec"]["template"] };
    pod["spec"]["nodeName"] = json!(node);
    manifest
}

/// A manifest whose pods name their pools themselves.
pub(crate) fn from_pools(manifest: Value, pool4: &str, pool6: &str) -> Value {
    let choice = json!({"ipv4": [pool4], "ipv6": [pool6]}).to_string();
    annotated(manifest, "ipam.spidernet.io/ippool", &choice)
}

/// A manifest with an annotation for its pods.
pub(crate) fn annotated(mut manifest: Value, annotation: &str, value: &str) -> Value {
    let pod = if manifest["kind"] == "Pod" { &mut manifest } else { &mut manifest["spec"]["template"] };
    pod["metadata"]["annotations"][annotation] = json!(value);
    manifest
}

/// A pool in the laboratory's LAN.
pub(crate) fn pool(name: &str, subnet: &str, gateway: &str, range: &str) -> Value {
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name},
        "spec": {"subnet": subnet, "ips": [range], "gateway": gateway},
    })
}

/// A list of manifests.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
