//! What the CNI plugin and the agent say to each other, and what both know of the CNI specification.
//!
//! ```text
//! runtime ── CNI_* environment, configuration on stdin ──▶ plugin (src/main.rs)
//! plugin  ── POST /v1/{add,del,check,status,gc}, body [`Invocation`] ──▶ agent, over a unix socket
//! agent   ── 200 and [`AddResult`] or `{}`; 4xx/5xx and [`CniError`] ──▶ plugin
//! plugin  ── the result in the form of the configuration's CNI version, or an error object ──▶ runtime
//! ```
//!
//! The plugin is exec'd once for every verb and has to be small, so this crate knows serde and nothing heavier.

#![forbid(unsafe_code)]

mod args;
mod error;
mod invocation;
mod netconf;
mod result;
mod version;

pub use args::K8sArgs;
pub use error::{CniError, code};
pub use invocation::{Invocation, Plugin, Verb};
pub use netconf::{Attachment, DEFAULT_SOCKET, Ipam, Mode, NetConf};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use version::CniVersion;
