//! The wire types between the CNI plugin and the agent, and the parts of the CNI specification that both use.
//!
//! ```text
//! runtime ── CNI_* environment, configuration on stdin ──▶ plugin (src/main.rs)
//! plugin  ── POST /v1/{add,del,check,status,gc}, body [`Invocation`] ──▶ agent, over a unix socket
//! agent   ── 200 and [`AddResult`] or `{}`; 4xx/5xx and [`CniError`] ──▶ plugin
//! plugin  ── the result in the configuration's CNI version, or an error object ──▶ runtime
//! ```
//!
//! The runtime executes the plugin once per verb, so the binary has to be small: this crate depends on nothing heavier
//! than serde.

#![forbid(unsafe_code)]

mod args;
mod error;
mod invocation;
mod netconf;
mod plugin;
mod result;
mod verb;
mod version;

pub use args::K8sArgs;
pub use error::{CniError, code};
pub use invocation::Invocation;
pub use netconf::{Attachment, DEFAULT_SOCKET, Ipam, Mode, NetConf};
pub use plugin::Plugin;
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use verb::Verb;
pub use version::CniVersion;
