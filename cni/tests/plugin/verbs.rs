//! Every verb in every version.

use crate::harness::{FakeAgent, PluginRun, conf, result};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn add_prints_the_result_in_the_configurations_version() {
    for version in VERSIONS {
        let agent = FakeAgent::responding(200, &result());
        let printed = PluginRun::verb("ADD").conf(&conf(version, &agent.socket())).result();
        assert_eq!(printed["cniVersion"], version);
        assert_eq!(printed["interfaces"][0]["name"], "eth0");
        assert_eq!(printed["ips"][0]["address"], "172.22.40.181/16");
        assert_eq!(printed["ips"][0].get("version").is_some(), version < "1.0.0", "{version}");
        assert_eq!(printed["interfaces"][0].get("mtu").is_some(), version >= "1.1.0", "{version}");

        let request = agent.request();
        assert_eq!(request.line, "POST /v1/add HTTP/1.1");
        assert_eq!(request.body["container_id"], "abc");
        assert_eq!(request.body["netns"], "/run/netns/x");
        assert_eq!(request.body["ifname"], "eth0");
        assert_eq!(request.body["plugin"], "holdfast");
        assert_eq!(request.body["args"], "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=demo-0");
        assert_eq!(request.body["config"]["name"], "lan");
    }
}

#[test]
fn ipam_plugin_prints_no_interfaces() {
    for version in VERSIONS {
        let agent = FakeAgent::responding(200, &result());
        let folder = tempfile::tempdir().unwrap();
        let conf = json!({
            "cniVersion": version, "name": "macvlan", "type": "macvlan", "master": "eth0",
            "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["a"], "ipam_unix_socket_path": agent.socket()},
        });
        let printed = PluginRun::verb("ADD").named(folder.path(), "spiderpool").conf(&conf).result();
        assert_eq!(printed.get("interfaces"), None, "{version}");
        assert_eq!(printed["ips"][0].get("interface"), None, "{version}");
        assert_eq!(agent.request().body["plugin"], "spiderpool");
    }
}

#[test]
fn other_verbs_print_nothing() {
    let extra: [(&str, &str, &str, Value); 4] = [
        ("DEL", "0.3.1", "/v1/del", json!({})),
        ("CHECK", "0.4.0", "/v1/check", json!({"prevResult": {"cniVersion": "0.4.0"}})),
        ("STATUS", "1.1.0", "/v1/status", json!({})),
        ("GC", "1.1.0", "/v1/gc", json!({"cni.dev/valid-attachments": [{"containerID": "abc", "ifname": "eth0"}]})),
    ];
    for (verb, since, route, keys) in extra {
        for version in VERSIONS {
            let agent = FakeAgent::responding(200, &json!({}));
            let mut conf = conf(version, &agent.socket());
            for (key, value) in keys.as_object().unwrap() {
                conf[key] = value.clone();
            }
            if version < since {
                let (code, text) = PluginRun::verb(verb).conf(&conf).error();
                assert_eq!(code, 1, "{verb} {version}");
                assert!(text.contains(verb) && text.contains(since), "{text}");
                continue;
            }
            PluginRun::verb(verb).conf(&conf).assert_no_output();
            assert_eq!(agent.request().line, format!("POST {route} HTTP/1.1"));
        }
    }
}

#[test]
fn del_without_netns_is_sent() {
    let agent = FakeAgent::responding(200, &json!({}));
    PluginRun::verb("DEL").without("CNI_NETNS").conf(&conf("1.0.0", &agent.socket())).assert_no_output();
    assert_eq!(agent.request().body.get("netns"), None);
}

#[test]
fn del_without_a_configuration_is_sent_to_the_default_socket() {
    for input in [&b""[..], b" \n", b"{}", b"null"] {
        let (code, text) = PluginRun::verb("DEL").input(input).error();
        assert!(code == 11 && text.contains(holdfast_cni::DEFAULT_SOCKET), "no request was sent: {code} {text}");
    }
}

#[test]
fn version_is_answered_without_the_agent() {
    for (input, version) in
        [("", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (r#"{"cniVersion":"9.9.9"}"#, "1.1.0")]
    {
        let printed = PluginRun::verb("VERSION").input(input.as_bytes()).result();
        assert_eq!(printed, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
    assert_eq!(PluginRun::verb("VERSION").input(b"[").error().0, 6);
}

#[test]
fn without_a_command_the_plugin_describes_itself() {
    let outcome = PluginRun::verb("").input(b"");
    assert_eq!(outcome.exit_code(), Some(0));
    assert!(outcome.stderr().contains("CNI plugin holdfast v"), "{}", outcome.stderr());
    assert!(outcome.stderr().contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{}", outcome.stderr());
}

#[test]
fn missing_variables_are_named() {
    let nowhere = conf("1.0.0", "/nonexistent".as_ref());
    for (verb, needed) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ] {
        let mut run = PluginRun::verb(verb);
        for variable in needed {
            let (code, text) = PluginRun::verb(verb).without(variable).conf(&nowhere).error();
            assert_eq!(code, 4);
            assert!(text.contains(variable), "{text}");
            run = run.without(variable);
        }
        let (_, text) = run.conf(&nowhere).error();
        assert!(needed.iter().all(|variable| text.contains(variable)), "{text}");
    }
    let (code, text) = PluginRun::verb("DANCE").conf(&nowhere).error();
    assert_eq!(code, 4);
    assert!(text.contains("DANCE"), "{text}");
}

#[test]
fn keys_required_or_forbidden_for_a_verb_are_checked() {
    let mut conf = conf("1.0.0", "/nonexistent".as_ref());
    let (code, text) = PluginRun::verb("CHECK").conf(&conf).error();
    assert_eq!(code, 7);
    assert!(text.contains("prevResult"), "{text}");

    conf["prevResult"] = json!({"cniVersion": "1.0.0"});
    let (code, text) = PluginRun::verb("ADD").conf(&conf).error();
    assert_eq!(code, 7);
    assert!(text.contains("first"), "{text}");
    let (code, text) = PluginRun::verb("GC").conf(&crate::harness::conf("1.1.0", "/nonexistent".as_ref())).error();
    assert_eq!(code, 7);
    assert!(text.contains("valid-attachments"), "{text}");
}
