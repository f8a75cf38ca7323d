//! Requests of users, runtimes and strangers that cannot be used: a clear error, nothing allocated, the agent goes on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::namespace::{TestNamespace, same};
use crate::sandbox::{Sandbox, conf};
use crate::{agents, manifest};

const POOL: &str = "ipam.spidernet.io/ippool";

fn nothing_allocated(namespace: &TestNamespace) -> Result<()> {
    let (endpoints, claims) = (namespace.endpoints()?, namespace.claims()?);
    ensure!(endpoints.is_empty() && claims.is_empty(), "something was allocated: {endpoints:?} {claims:?}");
    Ok(())
}

#[test]
fn invalid_annotations_are_reported_in_the_pods_events() -> Result<()> {
    let namespace = TestNamespace::shared("annotations", 5)?;
    let before = agents::containers(namespace.world)?;
    let wrong_family = json!({"ipv4": [namespace.pool6]}).to_string();
    let cases: [(&str, &str, &str, &[&str]); 5] = [
        ("unknown", POOL, r#"{"ipv4":["no-such-pool"]}"#, &["no-such-pool", POOL]),
        ("family", POOL, &wrong_family, &[&namespace.pool6, POOL]),
        ("malformed", POOL, r#"{"ipv4":["#, &["annotation", POOL, "an object like"]),
        ("list", "ipam.spidernet.io/ippools", r#"{"ipv4":["a"]}"#, &["ipam.spidernet.io/ippools", "a list like"]),
        ("routes", "ipam.spidernet.io/routes", r#"[{"dst":"somewhere","gw":"172.22.0.1"}]"#, &["routes", "somewhere"]),
    ];
    for (name, annotation, value, _) in cases {
        namespace.apply(manifest::annotated(manifest::pod(name), annotation, value))?;
    }
    for (name, _, _, words) in cases {
        namespace.event(name, words)?;
    }
    nothing_allocated(&namespace)?;
    same("the agents", &agents::containers(namespace.world)?, &before)?;
    namespace.finish()
}

#[test]
fn invalid_cni_requests_are_refused_with_their_error_code() -> Result<()> {
    let namespace = TestNamespace::shared("calls", 5)?;
    let before = agents::containers(namespace.world)?;
    let pod = namespace.pod_without_network("web")?;
    let sandbox = Sandbox::new(namespace.world, &pod, "mistaken")?;
    let cases: [(&str, Vec<u8>, u32, &str); 8] = [
        ("ADD", b"\xff\xfe{".to_vec(), 6, "stdin"),
        ("ADD", br#"{"cniVersion":"1.0.0","#.to_vec(), 6, "stdin"),
        ("ADD", Vec::new(), 6, "stdin"),
        ("ADD", [b"[".repeat(100_000), b"]".repeat(100_000)].concat(), 6, "stdin"),
        ("ADD", br#"{"cniVersion":"9.9.9","name":"n","type":"holdfast"}"#.to_vec(), 1, "9.9.9"),
        ("ADD", br#"{"name":"n","type":"holdfast"}"#.to_vec(), 1, "cniVersion"),
        ("ADD", br#"{"cniVersion":"1.0.0","name":"n","type":"holdfast","mode":"warp"}"#.to_vec(), 7, "warp"),
        ("DANCE", br#"{"cniVersion":"1.0.0","name":"n","type":"holdfast"}"#.to_vec(), 4, "DANCE"),
    ];
    for (verb, input, code, word) in cases {
        let answer = sandbox.call_plugin("holdfast", verb, &input)?;
        let sentence = answer.error(code)?;
        ensure!(sentence.contains(word), "{sentence:?} does not name {word:?}");
    }
    let strange = Sandbox::new(
        namespace.world,
        &json!({
            "metadata": {"namespace": namespace.name, "name": "no-such-pod", "uid": "u"}, "spec": pod["spec"],
        }),
        "of-a-missing-pod",
    )?;
    let answer = strange.call("ADD", &conf("1.0.0"))?;
    ensure!(answer.error(3)?.contains("no-such-pod"), "the pod is not named: {answer:?}");
    let mut earlier = pod.clone();
    earlier["metadata"]["uid"] = json!("an-earlier-pod");
    let answer = Sandbox::new(namespace.world, &earlier, "of-an-earlier-pod")?.call("ADD", &conf("1.0.0"))?;
    ensure!(answer.error(103)?.contains("an-earlier-pod"), "the UID is not named: {answer:?}");
    nothing_allocated(&namespace)?;
    same("the agents", &agents::containers(namespace.world)?, &before)?;
    namespace.finish()
}

#[test]
fn malformed_http_on_the_agents_socket_changes_nothing() -> Result<()> {
    let namespace = TestNamespace::shared("socket", 5)?;
    let before = agents::containers(namespace.world)?;
    let pod = namespace.pod_without_network("web")?;
    let node = pod["spec"]["nodeName"].as_str().context("the pod has a node")?;
    let leader = namespace.world.lab().node(node)?.leader_pid().context("the node is on")?;
    let socket = format!("/proc/{leader}/root/run/holdfast/agent.sock");
    let post = |body: &[u8], length: usize| {
        [
            format!("POST /v1/add HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
                .as_bytes(),
            body,
        ]
        .concat()
    };
    let deep = b"[".repeat(200_000);
    let inputs = [
        b"\0\xff\xfe\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        post(b"not json", 8),
        post(b"\xff\xff\xff\xff", 4),
        post(&deep, deep.len()),
        post(b"{\"container_id\":", 1 << 40),
        vec![b'A'; 1 << 20],
    ];
    for input in inputs {
        let mut stream = UnixStream::connect(&socket).context("connecting to the agent's socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        // The agent may hang up at any point, and need not answer at all.
        drop(stream.write_all(&input));
        drop(stream.read(&mut [0; 4096]));
    }
    nothing_allocated(&namespace)?;
    let sandbox = Sandbox::new(namespace.world, &pod, "after-that")?;
    sandbox.call("ADD", &conf("1.0.0"))?.result()?;
    sandbox.call("DEL", &conf("1.0.0"))?.result()?;
    same("the agents", &agents::containers(namespace.world)?, &before)?;
    namespace.finish()
}
