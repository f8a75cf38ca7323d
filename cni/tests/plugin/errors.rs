//! Errors: of the input, of the connection to the agent, and of the agent's response.

use std::{io::Write, os::unix::net::UnixListener, time::Instant};

use crate::harness::{FakeAgent, PluginRun, conf};
use serde_json::json;

#[test]
fn input_that_is_not_json_is_code_6() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let huge = format!(r#"{{"cniVersion":"1.0.0","name":"{}"}}"#, "x".repeat(10 << 20));
    for input in [
        &b""[..],
        b"{",
        br#"{"cniVersion":"1.0.0","name":"la"#,
        b"garbage",
        b"{\"name\":\"\xff\xfe\"}",
        b"\0\0\0\0",
        br#"{"cniVersion":"1.0.0"} trailing"#,
        nested.as_bytes(),
        objects.as_bytes(),
        huge.as_bytes(),
    ] {
        // DEL accepts an empty configuration.
        for verb in
            ["ADD", "DEL", "CHECK", "STATUS", "GC"].into_iter().filter(|verb| *verb != "DEL" || !input.is_empty())
        {
            let outcome = PluginRun::verb(verb).input(input);
            let (code, text) = outcome.error();
            assert_eq!(code, 6, "{text}");
            assert_eq!(outcome.error_version(), "1.1.0", "the newest while the configuration's is unknown");
            assert!(text.contains("failed to decode"), "{text}");
        }
    }
}

#[test]
fn invalid_configuration_is_code_7() {
    for input in [
        json!(null),
        json!([]),
        json!("text"),
        json!({"cniVersion": 1}),
        json!({"cniVersion": "1.0.0", "name": ["lan"]}),
        json!({"cniVersion": "1.0.0", "name": "lan", "mtu": "big"}),
        json!({"cniVersion": "1.0.0", "name": "lan", "mode": "teleport"}),
        json!({"cniVersion": "1.0.0", "name": "lan", "ipam": 7}),
        json!({"cniVersion": "1.0.0", "name": "lan", "ipam": {"default_ipv4_ippool": "one"}}),
        json!({"cniVersion": "1.0.0", "type": "holdfast"}),
    ] {
        let (code, text) = PluginRun::verb("ADD").conf(&input).error();
        assert_eq!(code, 7, "{input}: {text}");
    }
}

#[test]
fn unsupported_version_is_code_1_and_lists_the_supported_ones() {
    for version in ["0.1.0", "0.2.0", "2.0.0", "", "one"] {
        let (code, text) = PluginRun::verb("ADD").conf(&conf(version, "/nonexistent".as_ref())).error();
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{text}");
    }
}

#[test]
fn unreachable_agent_is_try_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.sock");
    // A socket file without a listener, as after SIGKILL.
    let refusing = folder.path().join("refusing.sock");
    drop(UnixListener::bind(&refusing).unwrap());
    for socket in [&missing, &refusing] {
        let mut conf = conf("1.1.0", socket);
        conf["cni.dev/valid-attachments"] = json!([]);
        for (verb, expected) in [("ADD", 11), ("DEL", 11), ("GC", 11), ("STATUS", 50)] {
            let outcome = PluginRun::verb(verb).conf(&conf);
            let (code, text) = outcome.error();
            assert_eq!(code, expected, "{verb}: {text}");
            assert!(text.contains(socket.to_str().unwrap()) && text.contains("agent pod on this node"), "{text}");
            assert_eq!(outcome.error_version(), "1.1.0");
        }
        let (_, text) = PluginRun::verb("ADD").conf(&conf).error();
        assert!(text.contains("the pod stays pending and the kubelet will try again"), "{text}");
        conf["prevResult"] = json!({});
        assert_eq!(PluginRun::verb("CHECK").conf(&conf).error().0, 11);
    }
}

#[test]
fn closed_connection_is_try_again_later() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"interfaces\":[".to_vec();
    for response in [Vec::new(), b"HTTP/1.1 200 OK\r\ncont".to_vec(), half] {
        let agent = FakeAgent::raw(response.clone());
        let (code, text) = PluginRun::verb("ADD").conf(&conf("1.0.0", &agent.socket())).error();
        assert_eq!(code, 11, "{text} after {:?}", String::from_utf8_lossy(&response));
    }
    // Closed before the request is read.
    let agent = FakeAgent::serving(|_| None);
    assert_eq!(PluginRun::verb("ADD").conf(&conf("1.0.0", &agent.socket())).error().0, 11);
}

#[test]
fn slow_response_ends_at_the_deadline() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let agent = FakeAgent::serving(move |stream| {
        // Each byte restarts a timeout per read, but not the deadline.
        while held.recv_timeout(std::time::Duration::from_millis(50)).is_err() {
            if stream.write_all(b"H").is_err() {
                break;
            }
        }
        None
    });
    let begin = Instant::now();
    let (code, text) = PluginRun::verb("ADD").with("CNI_TIMEOUT", "1").conf(&conf("1.0.0", &agent.socket())).error();
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    assert!(code == 11 || code == 101, "{code} {text}");
    drop(release);
}

#[test]
fn invalid_response_is_code_101() {
    for response in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\0\x01\x02\x03 binary",
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnot json",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"ips\":[{\"address\":7}]}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 404 X\r\n\r\n",
    ] {
        let agent = FakeAgent::raw(response.to_vec());
        let (code, text) = PluginRun::verb("ADD").conf(&conf("1.0.0", &agent.socket())).error();
        assert_eq!(code, 101, "{text} after {:?}", String::from_utf8_lossy(response));
    }
    let endless = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; 5 << 20]].concat();
    let agent = FakeAgent::raw(endless);
    assert_eq!(PluginRun::verb("ADD").conf(&conf("1.0.0", &agent.socket())).error().0, 101);
}

#[test]
fn errors_of_the_agent_are_printed_unchanged() {
    let error = json!({"code": 102, "msg": "pool default-v4-ippool is exhausted", "details": "4 of 4 in use"});
    let agent = FakeAgent::responding(409, &error);
    let outcome = PluginRun::verb("ADD").conf(&conf("0.4.0", &agent.socket()));
    let (code, text) = outcome.error();
    assert_eq!((code, text.as_str()), (102, "pool default-v4-ippool is exhausted: 4 of 4 in use"));
    assert_eq!(outcome.error_version(), "0.4.0");
}
