//! The arguments of both roles.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// The arguments of both roles.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// The key `conf.yml` of the ConfigMap `spiderpool-conf`, as a file.
    #[arg(long, env = "HOLDFAST_CONF", default_value = "/etc/holdfast/conf.yml")]
    pub conf: PathBuf,
    /// The log's filter, as tracing's `EnvFilter` has it.
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info")]
    pub log: String,
    /// An address for scraping metrics from outside, for example `0.0.0.0:5711`. They stand at the health address too.
    #[arg(long, env = "HOLDFAST_METRICS")]
    pub metrics: Option<SocketAddr>,
}
