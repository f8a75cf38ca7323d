//! A fake agent, and the plugin executed as by a runtime.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::JoinHandle,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A fake agent that serves one connection.
pub(crate) struct FakeAgent {
    folder: TempDir,
    server: JoinHandle<Option<Request>>,
}

/// The request that the agent received.
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) body: Value,
}

impl FakeAgent {
    /// Responds with this status and body.
    pub(crate) fn responding(status: u16, body: &Value) -> Self {
        let body = body.to_string();
        Self::raw(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    /// Reads the request, writes these bytes and closes the connection.
    pub(crate) fn raw(response: Vec<u8>) -> Self {
        Self::serving(move |stream| {
            let request = read_request(stream);
            // The plugin may close the connection before the end of the response.
            let _ = stream.write_all(&response);
            request
        })
    }

    /// Runs `serve` with the connection.
    pub(crate) fn serving(serve: impl FnOnce(&mut UnixStream) -> Option<Request> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let listener = UnixListener::bind(folder.path().join("agent.sock")).expect("listening");
        let server = std::thread::spawn(move || serve(&mut listener.accept().expect("a connection").0));
        Self { folder, server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Returns the request received; to be called after the plugin's end.
    pub(crate) fn request(self) -> Request {
        self.server.join().expect("the fake agent ran through").expect("a whole request")
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

/// One execution of the plugin, with the variables that containerd sets unless changed.
pub(crate) struct PluginRun {
    variables: Vec<(&'static str, String)>,
    name: PathBuf,
}

impl PluginRun {
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

    /// Executes the plugin under another name, as for delegation.
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
        // The plugin may exit before it has read all of stdin.
        let _ = child.stdin.take().expect("stdin").write_all(input);
        Outcome(child.wait_with_output().expect("the plugin's end"))
    }

    pub(crate) fn conf(self, conf: &Value) -> Outcome {
        self.input(conf.to_string().as_bytes())
    }
}

/// The exit status and output of the plugin.
pub(crate) struct Outcome(Output);

impl Outcome {
    /// Returns the result; stdout may contain nothing else.
    pub(crate) fn result(&self) -> Value {
        assert!(self.0.status.success(), "{:?}", self.0);
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.0))
    }

    /// Asserts success without output.
    pub(crate) fn assert_no_output(&self) {
        assert!(self.0.status.success(), "{:?}", self.0);
        assert_eq!(self.0.stdout.trim_ascii(), b"", "{:?}", self.0);
    }

    /// Returns the error object's code, and its message and details as one string.
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

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.0.status.code()
    }
}

/// Returns a configuration of the interface plugin.
pub(crate) fn conf(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version, "name": "lan", "type": "holdfast", "mode": "veth",
        "default_ipv4_ippool": ["default-v4-ippool"], "ipam_unix_socket_path": socket,
    })
}

/// Returns the agent's result of ADD.
pub(crate) fn result() -> Value {
    json!({
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/x"}],
        "ips": [{"address": "172.22.40.181/16", "gateway": "172.22.0.1", "interface": 0},
                {"address": "fd00:22::b5/64", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}
