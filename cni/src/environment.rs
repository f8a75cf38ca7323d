//! The `CNI_*` environment variables of one invocation.

use std::time::Duration;

use holdfast_cni::{CniError, Verb, code};

/// The `CNI_*` variables. An empty variable counts as absent, as it does in libcni.
pub(crate) struct Environment {
    pub(crate) command: Option<String>,
    pub(crate) container_id: Option<String>,
    pub(crate) netns: Option<String>,
    pub(crate) ifname: Option<String>,
    pub(crate) args: Option<String>,
    pub(crate) path: Option<String>,
    timeout: Option<String>,
}

/// The timeout of a request without `CNI_TIMEOUT`. The kubelet gives up on a sandbox after two minutes; an error before
/// that gives it a reason to show.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn from_process() -> Self {
        // Lossy, because the agent's validation then refuses the value with an error that shows it.
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

    /// Returns an error that names every variable that the specification requires for the verb and that is missing.
    pub(crate) fn require(&self, verb: Verb) -> Result<(), CniError> {
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

    /// Returns the timeout of the request to the agent, from `CNI_TIMEOUT` in seconds.
    pub(crate) fn timeout(&self) -> Result<Duration, CniError> {
        let Some(text) = &self.timeout else { return Ok(TIMEOUT) };
        text.parse().ok().filter(|seconds| (1..=3600).contains(seconds)).map(Duration::from_secs).ok_or_else(|| {
            let msg = format!("CNI_TIMEOUT {text:?} is not a number of seconds from 1 to 3600");
            CniError::new(code::INVALID_ENVIRONMENT, msg)
        })
    }
}
