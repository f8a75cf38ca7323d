//! Every CNI version that the plugin speaks, verb by verb, called by hand on a node.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::namespace::{Holder, TestNamespace, same};
use crate::sandbox::{Sandbox, conf};
use crate::traffic;

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error unless the answer to ADD has the form of its version.
fn answer_fits(version: &str, answer: &Value, holder: &Holder) -> Result<()> {
    same("cniVersion", &answer["cniVersion"], &json!(version))?;
    let old = version.starts_with("0.");
    for (ip, (address, family)) in
        [0, 1].map(|index| &answer["ips"][index]).into_iter().zip([(&holder.ipv4, "4"), (&holder.ipv6, "6")])
    {
        same("address", &ip["address"], &json!(address))?;
        same("version of an address", &ip["version"], &if old { json!(family) } else { Value::Null })?;
    }
    let inside = answer["interfaces"].as_array().into_iter().flatten().find(|it| it["sandbox"].is_string());
    let inside = inside.context("the answer names no interface inside")?;
    same("name", &inside["name"], &json!("eth0"))?;
    ensure!(inside["mac"].is_string(), "the interface has no mac: {inside}");
    ensure!(inside["mtu"].is_number() == (version == "1.1.0"), "the mtu came with 1.1.0: {inside}");
    let routes = answer["routes"].as_array().context("the answer has routes")?;
    for dst in ["0.0.0.0/0", "::/0"] {
        ensure!(routes.iter().any(|route| route["dst"] == dst), "no route to {dst}: {answer}");
    }
    Ok(())
}

#[test]
fn every_version_adds_checks_and_deletes() -> Result<()> {
    let namespace = TestNamespace::shared("versions", 5)?;
    let pod = namespace.pod_without_network("web")?;
    let mut before: Option<Holder> = None;
    for version in VERSIONS {
        let sandbox = Sandbox::new(namespace.world, &pod, &format!("version-{version}"))?;
        let mut conf = conf(version);
        let answer = sandbox.call("ADD", &conf)?.result()?;
        let holder = namespace.holder("web-0")?;
        answer_fits(version, &answer, &holder)?;
        traffic::reaches(namespace.world, &holder)?;
        same("a repeated ADD", &sandbox.call("ADD", &conf)?.result()?, &answer)?;
        same("the holder after a repeated ADD", &namespace.holder("web-0")?, &holder)?;
        if let Some(before) = before.replace(holder.clone()) {
            before.sticks(&holder)?;
        }
        conf["prevResult"] = answer;
        let check = sandbox.call("CHECK", &conf)?;
        if version == "0.3.1" {
            check.error(1)?;
        } else {
            check.result()?;
            sandbox.run(&["ip", "addr", "del", &holder.ipv4, "dev", "eth0"])?;
            ensure!(!sandbox.call("CHECK", &conf)?.ok, "CHECK does not see that the address is gone");
        }
        sandbox.call("DEL", &conf)?.result()?;
        // DEL answers once the guard has silenced the interface; the kernel removes it meanwhile.
        namespace.wait("the interface to be removed", 10, || {
            let left = sandbox.run(&["ip", "-o", "link", "show"])?;
            Ok(if left.contains(" eth0") { Poll::Pending(left) } else { Poll::Ready(()) })
        })?;
    }
    namespace.finish()
}

/// In a list, as libcni goes through it: the next plugin gets the answer as `prevResult` and passes it on.
#[test]
fn it_is_the_first_plugin_of_a_list() -> Result<()> {
    let namespace = TestNamespace::shared("list", 5)?;
    let pod = namespace.pod_without_network("web")?;
    // The reference plugins of the laboratory speak nothing newer.
    for version in &VERSIONS[..3] {
        let sandbox = Sandbox::new(namespace.world, &pod, &format!("list-{version}"))?;
        let answer = sandbox.call("ADD", &conf(version))?.result()?;
        let setting = "net.ipv4.conf.eth0.arp_filter";
        let mut tuning = json!({"cniVersion": version, "name": "holdfast", "type": "tuning", "sysctl": {setting: "1"}});
        tuning["prevResult"] = answer.clone();
        let passed_on = sandbox.call_plugin("tuning", "ADD", tuning.to_string().as_bytes())?.result()?;
        same("the list's addresses", &passed_on["ips"], &answer["ips"])?;
        same("the setting", &sandbox.run(&["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"])?.trim(), &"1")?;
        traffic::reaches(namespace.world, &namespace.holder("web-0")?)?;
        sandbox.call_plugin("tuning", "DEL", tuning.to_string().as_bytes())?.result()?;
        sandbox.call("DEL", &conf(version))?.result()?;
    }
    namespace.finish()
}

#[test]
fn status_and_gc_came_with_1_1_0() -> Result<()> {
    let namespace = TestNamespace::exclusive("verbs", 5)?;
    let pod = namespace.pod_without_network("web")?;
    let kept = Sandbox::new(namespace.world, &pod, "kept-by-gc")?;
    let newest = conf("1.1.0");
    let versions = kept.call("VERSION", &json!({"cniVersion": "1.0.0"}))?.result()?;
    same("supportedVersions", &versions["supportedVersions"], &json!(VERSIONS))?;
    kept.call("STATUS", &newest)?.result()?;
    for verb in ["STATUS", "GC"] {
        kept.call(verb, &conf("1.0.0"))?.error(1)?;
    }
    kept.call("GC", &newest)?.error(7)?;

    // A sandbox that the runtime forgot, and a newer one that it knows. GC looks at other tests' sandboxes too, so this test
    // has the laboratory exclusively.
    let forgotten = Sandbox::new(namespace.world, &pod, "forgotten")?;
    forgotten.call("ADD", &newest)?.result()?;
    kept.call("ADD", &newest)?.result()?;
    let holder = namespace.holder("web-0")?;
    let mut gc = newest.clone();
    // One network's list: a container of another network that is missing in it, and live, has to stay.
    gc["cni.dev/valid-attachments"] = json!([]);
    kept.call("GC", &gc)?.result()?;
    ensure!(forgotten.run(&["ip", "link", "show", "eth0"]).is_err(), "GC left the interface of the forgotten sandbox");
    same("the holder after GC", &namespace.holder("web-0")?, &holder)?;
    traffic::reaches(namespace.world, &holder)?;
    kept.call("DEL", &newest)?.result()?;
    namespace.finish()
}
