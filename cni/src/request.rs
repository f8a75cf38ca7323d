//! The request to the agent, made from the environment and stdin, and its result for stdout.

use std::time::Duration;

use holdfast_cni::{AddResult, CniError, CniVersion, Invocation, NetConf, Plugin, Verb, code};
use serde_json::{Value, json};

use crate::{environment::Environment, input};

/// A validated request to the agent.
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) invocation: Invocation,
    pub(crate) conf: NetConf,
    pub(crate) timeout: Duration,
    version: CniVersion,
}

impl Request {
    /// Validates everything that can be validated without the agent. Sets `version` as soon as it is known, so that
    /// a later error can be printed in it.
    pub(crate) fn new(
        command: &str,
        environment: &Environment,
        input: &[u8],
        argv0: &str,
        version: &mut Option<CniVersion>,
    ) -> Result<Self, CniError> {
        let verb = Verb::ALL
            .into_iter()
            .find(|verb| verb.as_str() == command)
            .ok_or_else(|| CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {command:?} is unknown")))?;
        environment.require(verb)?;
        let config = if verb == Verb::Del && is_empty(input) { default_config() } else { input::decode(input)? };
        let conf = NetConf::from_value(&config)?;
        let requested = conf.version()?;
        *version = Some(requested);
        requested.require(verb)?;
        let plugin = Plugin::of(argv0, &conf);
        validate(verb, plugin, &conf)?;
        let invocation = Invocation {
            container_id: environment.container_id.clone().unwrap_or_default(),
            netns: environment.netns.clone(),
            ifname: environment.ifname.clone(),
            args: environment.args.clone(),
            path: environment.path.clone(),
            plugin,
            config,
        };
        Ok(Self { verb, invocation, conf, timeout: environment.timeout()?, version: requested })
    }

    /// Returns the body of the agent's 200 response in the form for stdout. Only ADD has a result.
    pub(crate) fn render(&self, body: &[u8]) -> Result<String, CniError> {
        if self.verb != Verb::Add {
            return Ok(String::new());
        }
        let invalid = |details: &dyn std::fmt::Display| {
            CniError::new(code::BAD_RESPONSE, "the holdfast agent's response is not a result of ADD")
                .with_details(details)
        };
        let result: AddResult = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
        // `{}` is a valid result too, and the pod would run without an address.
        if result.ips.is_empty() {
            return Err(invalid(&"it has no address"));
        }
        Ok(result.render(self.version, self.invocation.plugin).to_string())
    }
}

/// Checks the specification's requirements on the configuration for each verb.
fn validate(verb: Verb, plugin: Plugin, conf: &NetConf) -> Result<(), CniError> {
    let invalid = |msg: &str| Err(CniError::new(code::INVALID_CONFIG, msg));
    if conf.name.is_empty() && verb != Verb::Status {
        return invalid("the network configuration has no name");
    }
    match verb {
        Verb::Add if plugin == Plugin::Holdfast && conf.prev_result.is_some() => invalid(
            "prevResult is set: holdfast creates the pod's interface, so it must be the first plugin in the list",
        ),
        Verb::Check if conf.prev_result.is_none() => invalid("CHECK needs prevResult, the result of the ADD"),
        Verb::Gc if conf.valid_attachments.is_none() => {
            invalid("GC needs cni.dev/valid-attachments; without it GC would remove every attachment")
        }
        _ => Ok(()),
    }
}

/// Returns true for a configuration without content: a runtime that lost a network's configuration sends one with DEL.
fn is_empty(input: &[u8]) -> bool {
    let text = input.trim_ascii();
    text.is_empty() || serde_json::from_slice(text).is_ok_and(|value: Value| value == json!({}) || value.is_null())
}

/// Returns the configuration for a DEL without one. The container ID identifies the attachment, and the agent listens
/// on the default socket.
fn default_config() -> Value {
    json!({"cniVersion": CniVersion::NEWEST.as_str(), "name": "unknown"})
}
