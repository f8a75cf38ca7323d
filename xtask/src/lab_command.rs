//! `cargo xtask lab …`

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cluster::Cluster;
use crate::deploy;
use crate::lab::{DEFAULT, Lab};
use crate::progress::{Progress, output};
use crate::setup::{Release, VARIABLE};

/// Options of `cargo xtask lab`.
#[derive(Args)]
pub struct Arguments {
    /// The name of the laboratory; several run side by side
    #[arg(long, global = true, default_value = DEFAULT, env = "HOLDFAST_LAB_NAME")]
    name: String,
    /// The release of Kubernetes to bring up
    #[arg(long, global = true, value_enum, default_value_t, env = VARIABLE)]
    kubernetes: Release,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make it and wait until the API works and the nodes are registered
    Up,
    /// Remove it with everything in it
    Down,
    /// Show what runs, where, and how to reach it
    Status,
    /// Run kubectl against it
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command at a place: node1, node2, cp (control plane) or lan (a host on the LAN)
    Exec {
        /// node1, node2, cp or lan
        place: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Build holdfast's image and install the chart, or bring an installation up to date
    Install {
        /// Values for the chart, as JSON
        #[arg(long, value_name = "FILE")]
        values: Option<PathBuf>,
    },
    /// Load an image archive on both nodes
    LoadImage {
        /// The archive, for example target/holdfast-image.tar
        archive: PathBuf,
    },
    /// Cut a node's power
    PowerOff {
        /// node1 or node2
        node: String,
    },
    /// Boot a node again
    PowerOn {
        /// node1 or node2
        node: String,
    },
    /// Stop a node's kubelet and containerd; its pods go on
    StopRuntime {
        /// node1 or node2
        node: String,
    },
    /// Start them again
    StartRuntime {
        /// node1 or node2
        node: String,
    },
}

/// Executes the command line. Returns the exit code of the command that was run inside, if there was one.
pub fn run(arguments: Arguments, progress: &Progress) -> Result<ExitCode> {
    let name = &arguments.name;
    match arguments.action {
        Action::Up => Lab::up(name, arguments.kubernetes, progress)?.log_commands(progress),
        Action::Down => Lab::remove(name, progress)?,
        Action::Status => status(&Lab::load(name)?)?,
        Action::Kubectl { arguments } => return pass_on(&mut Lab::load(name)?.kubectl(&arguments)),
        Action::Exec { place, command } => {
            let lab = Lab::load(name)?;
            return pass_on(&mut match place.as_str() {
                "cp" => lab.in_cp(&command),
                "lan" => lab.in_lan(&command),
                node => lab.node(node)?.exec(&command),
            });
        }
        Action::Install { values } => install(name, values.as_deref(), progress)?,
        Action::LoadImage { archive } => Lab::load(name)?.load_image(&archive)?,
        Action::PowerOff { node } => Lab::load(name)?.node(&node)?.power_off(progress)?,
        Action::PowerOn { node } => Lab::load(name)?.node(&node)?.power_on(progress)?,
        Action::StopRuntime { node } => Lab::load(name)?.node(&node)?.stop_runtime(progress)?,
        Action::StartRuntime { node } => Lab::load(name)?.node(&node)?.start_runtime(progress)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pass_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Installs the chart. Programs that run already do not notice a new image under the old name: they are started again.
fn install(name: &str, values: Option<&Path>, progress: &Progress) -> Result<()> {
    let values = values.map(|file| std::fs::read(file).with_context(|| format!("reading {}", file.display())));
    let values = values.transpose()?.map_or(Ok(json!({})), |text| serde_json::from_slice(&text))?;
    let cluster = Cluster::Lab(Lab::load(name)?);
    let agents = ["-n", deploy::NAMESPACE, "daemonset", "holdfast-agent"];
    let installed = cluster.get(&agents).is_ok_and(|set| set.is_some());
    deploy::install(&cluster, &values, progress)?;
    for program in ["daemonset/holdfast-agent", "deployment/holdfast-controller"].into_iter().filter(|_| installed) {
        cluster.run(&["-n", deploy::NAMESPACE, "rollout", "restart", program])?;
        cluster.run(&["-n", deploy::NAMESPACE, "rollout", "status", program, "--timeout=120s"])?;
    }
    Ok(())
}

fn status(lab: &Lab) -> Result<()> {
    let description = lab.description();
    println!("{}: Kubernetes {}", description.name, description.kubernetes);
    println!("  state          {}", description.state_dir.display());
    println!("  kubeconfig     {}", description.kubeconfig.display());
    println!("  control plane  {}", description.netns.cp.display());
    println!("  lan host       {}", description.netns.lan.display());
    for node in &description.nodes {
        let state = if node.leader_pid == 0 { "off".to_owned() } else { format!("leader {}", node.leader_pid) };
        println!("  {}          {} {} {} ({state})", node.name, node.netns.display(), node.ip, node.ip6);
    }
    let ended = lab.ended()?;
    if !ended.is_empty() {
        println!("  NOT RUNNING    {}", ended.join(", "));
    }
    print!("{}", output(&mut lab.kubectl(&["get", "nodes,pods", "--all-namespaces", "-o", "wide"]))?);
    Ok(())
}
