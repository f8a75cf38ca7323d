//! An agent that answers what a test says, and the plugin as a runtime runs it.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::JoinHandle,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A listener that takes one connection.
pub(crate) struct Agent {
    folder: TempDir,
    served: JoinHandle<Option<Request>>,
}

/// What the agent was sent.
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) body: Value,
}

impl Agent {
    /// Answers with this status and body.
    pub(crate) fn answering(status: u16, body: &Value) -> Self {
        let body = body.to_string();
        Self::raw(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    /// Reads the request, writes these bytes and closes.
    pub(crate) fn raw(answer: Vec<u8>) -> Self {
        Self::doing(move |stream| {
            let request = read_request(stream);
            // The plugin may have heard enough.
            let _ = stream.write_all(&answer);
            request
        })
    }

    /// Does something with the connection.
    pub(crate) fn doing(work: impl FnOnce(&mut UnixStream) -> Option<Request> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let listener = UnixListener::bind(folder.path().join("agent.sock")).expect("listening");
        let served = std::thread::spawn(move || work(&mut listener.accept().expect("a connection").0));
        Self { folder, served }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// What it was sent; call it after the plugin ended.
    pub(crate) fn request(self) -> Request {
        self.served.join().expect("the fake agent ran through").expect("a whole request")
    }
}

fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut raw = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).expect("reading the request");
        raw.extend_from_slice(&chunk[..count]);
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(raw[..end].to_vec()).expect("a head of text");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
            let length: usize = length.parse().expect("a number");
            if raw.len() - end - 4 >= length {
                let body = serde_json::from_slice(&raw[end + 4..]).expect("JSON");
                return Some(Request { line: head.lines().next().unwrap_or_default().to_owned(), body });
            }
        }
        if count == 0 {
            return None;
        }
    }
}

/// How the plugin is run; ADD in a kubelet's way, unless changed.
pub(crate) struct Run {
    variables: Vec<(&'static str, String)>,
    name: PathBuf,
}

impl Run {
    pub(crate) fn verb(verb: &str) -> Self {
        let variables = vec![
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", "abc".to_owned()),
            ("CNI_NETNS", "/run/netns/x".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=demo-0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        Self { variables, name: env!("CARGO_BIN_EXE_holdfast").into() }
    }

    pub(crate) fn without(mut self, variable: &str) -> Self {
        self.variables.retain(|(name, _)| *name != variable);
        self
    }

    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.variables.push((variable, value.to_owned()));
        self
    }

    /// Runs it under another name, as it is installed for delegation.
    pub(crate) fn named(mut self, folder: &Path, name: &str) -> Self {
        self.name = folder.join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_holdfast"), &self.name).expect("a link to the plugin");
        self
    }

    pub(crate) fn input(self, input: &[u8]) -> Outcome {
        let mut command = Command::new(&self.name);
        command.env_clear().envs(self.variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starting the plugin");
        // A plugin that has read enough closes the pipe.
        let _ = child.stdin.take().expect("stdin").write_all(input);
        Outcome(child.wait_with_output().expect("the plugin's end"))
    }

    pub(crate) fn conf(self, conf: &Value) -> Outcome {
        self.input(conf.to_string().as_bytes())
    }
}

/// How it ended.
pub(crate) struct Outcome(Output);

impl Outcome {
    /// The result on stdout; nothing but a result may be there.
    pub(crate) fn result(&self) -> Value {
        assert!(self.0.status.success(), "{:?}", self.0);
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.0))
    }

    /// It worked and has nothing to say.
    pub(crate) fn assert_silent(&self) {
        assert!(self.0.status.success(), "{:?}", self.0);
        assert_eq!(self.0.stdout.trim_ascii(), b"", "{:?}", self.0);
    }

    /// The error object; its code, its text and details in one string.
    pub(crate) fn error(&self) -> (u64, String) {
        assert_eq!(self.0.status.code(), Some(1), "{:?}", self.0);
        let object: Value =
            serde_json::from_slice(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.0));
        assert!(object["cniVersion"].is_string(), "{object}");
        let text = [&object["msg"], &object["details"]].map(|part| part.as_str().unwrap_or_default()).join(": ");
        (object["code"].as_u64().expect("a code"), text)
    }

    pub(crate) fn error_version(&self) -> String {
        let object: Value = serde_json::from_slice(&self.0.stdout).expect("an error object");
        object["cniVersion"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }
}

/// A main plugin's configuration.
pub(crate) fn conf(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version, "name": "lan", "type": "holdfast", "mode": "veth",
        "default_ipv4_ippool": ["default-v4-ippool"], "ipam_unix_socket_path": socket,
    })
}

/// A result as the agent gives it.
pub(crate) fn result() -> Value {
    json!({
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/x"}],
        "ips": [{"address": "172.22.40.181/16", "gateway": "172.22.0.1", "interface": 0},
                {"address": "fd00:22::b5/64", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}
