//! The agent is killed at any moment of an ADD or a DEL: the next agent and a retry complete what was left half done.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::lab::Node;
use xtask::progress::Poll;

use crate::namespace::{Holder, TestNamespace, text};
use crate::sandbox::{Answer, Sandbox, conf};
use crate::world::World;
use crate::{agents, manifest, sandbox, traffic};

/// Steps of the moment at which the agent is killed. An ADD takes some of these; the last ones come after its end.
const STEP: Duration = Duration::from_millis(1);
const STEPS: u16 = 14;

/// An agent that a test started and may kill.
struct Agent(Child);

impl Agent {
    /// Starts the program on a node and waits until it serves.
    fn start(namespace: &TestNamespace, node: &Node, program: &Path, asks: &Sandbox) -> Result<Self> {
        let kubeconfig = &namespace.world.lab().description().kubeconfig;
        let mut command = Command::new("env");
        command.args([
            format!("NODE_NAME={}", node.name()),
            format!("KUBECONFIG={}", kubeconfig.display()),
            // The plugin and its configuration are there already.
            "HOLDFAST_PLUGIN=".to_owned(),
            "HOLDFAST_CNI_CONF_NAME=".to_owned(),
            program.display().to_string(),
            "agent".to_owned(),
        ]);
        let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
        let mut agent = Self(node.exec(&words).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        namespace.wait("the agent to serve", 20, || {
            ensure!(agent.0.try_wait()?.is_none(), "the agent ended");
            let answer = asks.call("STATUS", &conf("1.1.0"))?;
            Ok(if answer.ok { Poll::Ready(()) } else { Poll::Pending(answer.stdout.to_string()) })
        })?;
        Ok(agent)
    }

    /// Kills the agent `after` the beginning of `work`; returns what `work` returned.
    fn killed_during<T: Send>(mut self, after: Duration, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let working = scope.spawn(work);
            std::thread::sleep(after);
            self.0.kill()?;
            self.0.wait()?;
            working.join().map_err(|_| anyhow::anyhow!("the work panicked"))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Copies the program of a running agent to a file that stays when its container goes; returns the file.
fn program_of(world: &World, node: &str, folder: &Path) -> Result<std::path::PathBuf> {
    let (container, _) = agents::container(world, node)?;
    let program = folder.join("holdfast-agent");
    fs::copy(format!("/proc/{}/exe", sandbox::process_of(&container)?), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

/// Applies a pod without an owner that uses the node's network; returns it once it runs.
fn single(namespace: &TestNamespace, name: &str, node: &str) -> Result<Value> {
    let mut pod = manifest::pod(name);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["nodeName"] = json!(node);
    namespace.apply(pod)?;
    namespace.running(name, "")
}

/// Returns the holder of an endpoint. An error unless its claims are the addresses that it lists, no more and no less, and
/// its container has them.
fn whole(namespace: &TestNamespace, pod: &str, sandbox: &Sandbox) -> Result<Holder> {
    let holder = namespace.holder(pod)?;
    ensure!(holder.container == sandbox.container, "another container holds {pod}: {holder:?}");
    let mut listed: Vec<IpAddr> = holder.addresses().iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
    let owner = format!("{}/{pod}", namespace.name);
    let claims = namespace.claims()?;
    let held =
        claims.iter().filter(|claim| claim["spec"]["endpoint"] == owner.as_str() && claim["spec"]["state"] == "held");
    let mut claimed: Vec<IpAddr> =
        held.map(|claim| Ok(text(claim, "/spec/address")?.parse()?)).collect::<Result<_>>()?;
    listed.sort_unstable();
    claimed.sort_unstable();
    ensure!(listed == claimed, "{pod} lists {listed:?} and has claimed {claimed:?}");
    traffic::reaches(namespace.world, &holder)?;
    Ok(holder)
}

#[test]
fn killed_at_any_moment_of_an_add_and_a_del() -> Result<()> {
    let namespace = TestNamespace::exclusive("crash", 40)?;
    let world = namespace.world;
    let sticky = namespace.pod_without_network("web")?;
    let name = text(&sticky, "/spec/nodeName")?;
    let node = world.lab().node(name)?;
    let folder = tempfile::tempdir()?;
    let program = program_of(world, name, folder.path())?;
    let singles =
        (0..STEPS).map(|step| single(&namespace, &format!("single-{step}"), name)).collect::<Result<Vec<_>>>()?;
    let away = agents::remove(world)?;
    let asks = Sandbox::named(world, &sticky, "asks")?;
    let (add, del) = (|it: &Sandbox| it.call("ADD", &conf("1.0.0")), |it: &Sandbox| it.call("DEL", &conf("1.0.0")));
    let both = |verb: &(dyn Fn(&Sandbox) -> Result<Answer> + Sync), one: &Sandbox, other: &Sandbox| {
        std::thread::scope(|scope| {
            let (first, second) = (scope.spawn(|| verb(one)), scope.spawn(|| verb(other)));
            Ok::<_, anyhow::Error>(
                [first.join(), second.join()]
                    .map(|outcome| outcome.is_ok_and(|answer| answer.is_ok_and(|answer| answer.ok))),
            )
        })
    };
    let mut addresses = None;
    for (step, single) in (0..STEPS).zip(&singles) {
        let after = STEP * step.into();
        let one = Sandbox::new(world, &sticky, &format!("crash-sticky-{step}"))?;
        let other = Sandbox::new(world, single, &format!("crash-single-{step}"))?;
        let agent = Agent::start(&namespace, &node, &program, &asks)?;
        let answered = agent.killed_during(after, || both(&add, &one, &other))?;
        let agent = Agent::start(&namespace, &node, &program, &asks)?;
        add(&one)?.result().with_context(|| format!("the retry after a kill at {after:?}"))?;
        add(&other)?.result()?;
        let holder = whole(&namespace, "web-0", &one)?;
        whole(&namespace, &format!("single-{step}"), &other)?;
        let kept = addresses.get_or_insert_with(|| holder.addresses().map(str::to_owned));
        ensure!(*kept == holder.addresses(), "killed at {after:?}: the sticky addresses {kept:?} became {holder:?}");
        let deleted = agent.killed_during(after, || both(&del, &one, &other))?;
        eprintln!("killed after {after:?}: ADDs done {answered:?}, DELs done {deleted:?}");
        let _agent = Agent::start(&namespace, &node, &program, &asks)?;
        del(&one)?.result()?;
        del(&other)?.result()?;
        let endpoint = namespace.endpoint("web-0")?.context("the sticky endpoint is kept")?;
        ensure!(endpoint["status"]["current"]["state"] == "Reserved", "it is still held: {endpoint}");
        ensure!(namespace.endpoint(&format!("single-{step}"))?.is_none(), "single-{step} still has an endpoint");
    }
    away.back()?;
    namespace.finish()
}
