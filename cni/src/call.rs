//! What the runtime asked for, from the environment and stdin; and the answer in the form it expects.

use std::time::Duration;

use holdfast_cni::{AddResult, CniError, CniVersion, Invocation, NetConf, Plugin, Verb, code};
use serde::Deserialize;
use serde_json::{Value, json};

/// The `CNI_*` variables. An empty one counts as absent, as it does for the reference libraries.
pub(crate) struct Environment {
    pub(crate) command: Option<String>,
    container_id: Option<String>,
    netns: Option<String>,
    ifname: Option<String>,
    args: Option<String>,
    path: Option<String>,
    timeout: Option<String>,
}

/// A call that may be sent.
pub(crate) struct Call {
    pub(crate) verb: Verb,
    pub(crate) invocation: Invocation,
    pub(crate) conf: NetConf,
    pub(crate) timeout: Duration,
    version: CniVersion,
}

/// The kubelet gives up on a sandbox after two minutes; answering before that leaves it a reason to show.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Environment {
    pub(crate) fn from_process() -> Self {
        // What is not UTF-8 is kept lossily: the agent refuses it by its own rules, with a text that shows it.
        let get = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let get = |name| get(name).filter(|value| !value.is_empty());
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            timeout: get("CNI_TIMEOUT"),
        }
    }

    /// Checks all that can be checked without the agent. `version` is set as soon as it is known, so that an
    /// error after that can name it.
    pub(crate) fn call(
        &self,
        command: &str,
        input: &[u8],
        argv0: &str,
        version: &mut Option<CniVersion>,
    ) -> Result<Call, CniError> {
        let verb = Verb::ALL
            .into_iter()
            .find(|verb| verb.as_str() == command)
            .ok_or_else(|| CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {command:?} is not known")))?;
        self.require(verb)?;
        let config = if verb == Verb::Del && says_nothing(input) { nothing() } else { decode(input)? };
        let conf = NetConf::from_value(&config)?;
        let spoken = conf.version()?;
        *version = Some(spoken);
        spoken.allows(verb)?;
        let plugin = Plugin::of(argv0, &conf);
        validate(verb, plugin, &conf)?;
        let invocation = Invocation {
            container_id: self.container_id.clone().unwrap_or_default(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            path: self.path.clone(),
            plugin,
            config,
        };
        Ok(Call { verb, invocation, conf, timeout: self.timeout()?, version: spoken })
    }

    /// The variables that the specification requires for the verb; all that are missing are named at once.
    fn require(&self, verb: Verb) -> Result<(), CniError> {
        let container = ("CNI_CONTAINERID", &self.container_id);
        let netns = ("CNI_NETNS", &self.netns);
        let ifname = ("CNI_IFNAME", &self.ifname);
        let required = match verb {
            Verb::Add | Verb::Check => vec![container, netns, ifname],
            Verb::Del => vec![container, ifname],
            Verb::Status | Verb::Gc => vec![],
        };
        let missing: Vec<_> = required.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!("required environment variables missing for {verb}: {}", missing.join(", "));
        Err(CniError::new(code::INVALID_ENVIRONMENT, msg))
    }

    fn timeout(&self) -> Result<Duration, CniError> {
        let Some(text) = &self.timeout else { return Ok(TIMEOUT) };
        text.parse().ok().filter(|seconds| (1..=3600).contains(seconds)).map(Duration::from_secs).ok_or_else(|| {
            let msg = format!("CNI_TIMEOUT {text:?} is not a number of seconds from 1 to 3600");
            CniError::new(code::INVALID_ENVIRONMENT, msg)
        })
    }
}

impl Call {
    /// The agent's 200 answer, as the runtime wants it on stdout. Only ADD has a result.
    pub(crate) fn render(&self, body: &[u8]) -> Result<String, CniError> {
        if self.verb != Verb::Add {
            return Ok(String::new());
        }
        let bad = |details: &dyn std::fmt::Display| {
            CniError::new(code::BAD_ANSWER, "the holdfast agent's answer is not a result of ADD").with_details(details)
        };
        let result: AddResult = serde_json::from_slice(body).map_err(|error| bad(&error))?;
        // An empty body of JSON would read as a result too, and the pod would run without an address.
        if result.ips.is_empty() {
            return Err(bad(&"it has no address"));
        }
        Ok(result.render(self.version, self.invocation.plugin).to_string())
    }
}

/// The rules of the specification for single verbs.
fn validate(verb: Verb, plugin: Plugin, conf: &NetConf) -> Result<(), CniError> {
    let invalid = |msg: &str| Err(CniError::new(code::INVALID_CONFIG, msg));
    if conf.name.is_empty() && verb != Verb::Status {
        return invalid("the network configuration has no name");
    }
    match verb {
        Verb::Add if plugin == Plugin::Holdfast && conf.prev_result.is_some() => {
            invalid("holdfast makes the pod's interface, so it must be the first plugin in the list: prevResult is set")
        }
        Verb::Check if conf.prev_result.is_none() => invalid("CHECK needs prevResult, the result of the ADD"),
        Verb::Gc if conf.valid_attachments.is_none() => {
            invalid("GC needs cni.dev/valid-attachments; without it everything would count as garbage")
        }
        _ => Ok(()),
    }
}

/// Runtimes that lost a network's configuration send none with its DEL.
fn says_nothing(input: &[u8]) -> bool {
    let text = input.trim_ascii();
    text.is_empty() || serde_json::from_slice(text).is_ok_and(|value: Value| value == json!({}) || value.is_null())
}

/// What such a DEL is done with: the container's ID says what goes, and the socket is where it is by default.
fn nothing() -> Value {
    json!({"cniVersion": CniVersion::NEWEST.as_str(), "name": "unknown"})
}

fn decode(input: &[u8]) -> Result<Value, CniError> {
    serde_json::from_slice(input).map_err(|error| {
        CniError::new(code::DECODING, "failed to decode the network configuration on stdin").with_details(error)
    })
}

/// The answer to VERSION. It needs no agent, and old runtimes send nothing on stdin.
pub(crate) fn versions(input: &[u8]) -> Result<String, CniError> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    let asked = if input.trim_ascii().is_empty() {
        Asked::default()
    } else {
        Asked::deserialize(decode(input)?).map_err(|error| {
            CniError::new(code::DECODING, "failed to decode the request for versions on stdin").with_details(error)
        })?
    };
    // The answer is in the version asked in, if that is one of ours.
    let version = asked.cni_version.parse().unwrap_or(CniVersion::NEWEST);
    let supported = CniVersion::ALL.map(CniVersion::as_str);
    Ok(json!({"cniVersion": version.as_str(), "supportedVersions": supported}).to_string())
}
