//! The plugin's verbs: records, interface and guard put together.
//!
//! ```text
//! ADD  ┌ records: ipam::bind ┐─▶ guard: attach ─▶ addresses ─▶ guard: bind ─▶ routes, announce ─▶ reply ─▶ release displaced
//!      └ link: network       ┘         (a failure undoes all of it, in reverse)
//! DEL  guard: fence ─▶ announcements, routes, link ─▶ records ─▶ reply ─▶ guard: forget, mark claims
//! ```
//!
//! As IPAM delegate the interface is another plugin's: the guard goes inside the pod's namespace, where it finds it.

mod check;
mod cni_request;
mod del;
mod driver;
mod error;
mod event_recorder;
mod pod_locks;
mod pod_netns;
mod reconcile;
mod reconcile_link;
mod sandbox;
mod sandbox_exit;
pub mod watch;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cni_request::CniRequest;
use driver::Attachment;
use error::NodeError;
use holdfast_api::event_recorder::{EventRateLimit, EventRecorder};
use holdfast_cni::{AddResult, CniError, Interface, Invocation, IpConfig, Plugin, Route, code};
use holdfast_core::{
    binding::{Bindings, Event, LinkOwner},
    guard_mode::GuardMode,
    id::{IfIndex, IfName},
    pool::Family,
};
use holdfast_guard::{Datapath, DatapathError, GuardMetrics};
use holdfast_ipam::{IpAllocation, Ipam};
use holdfast_net::{Network, PodAddress, PodLink, PodNet};
use ipnet::IpNet;
use pod_locks::PodLocks;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::node::sandbox::Sandboxes;

/// How long undoing a failed ADD may take, beyond the deadline that it may have failed for.
const UNDO: Duration = Duration::from_secs(5);

/// The guard, and how it is used.
pub struct Guard {
    /// Its programs and maps.
    pub datapath: Datapath,
    /// What happens to foreign addresses, unless a pod says otherwise.
    pub mode: GuardMode,
    /// What is counted.
    pub metrics: GuardMetrics,
}

/// What the verbs work with. Cheap to clone.
#[derive(Clone)]
pub struct Attach {
    ipam: Ipam,
    network: Network,
    datapath: Datapath,
    mode: GuardMode,
    metrics: GuardMetrics,
    /// One verb at a time for each pod.
    locks: Arc<PodLocks>,
    /// What the kernel's map should hold.
    bindings: Arc<Mutex<Bindings>>,
    /// Whose links are. Those on the node say it themselves too, at the cost of a list.
    attachments: Arc<Mutex<HashMap<IfIndex, Attachment>>>,
    sandboxes: Arc<Sandboxes>,
    events: EventRecorder,
    event_limit: Arc<Mutex<EventRateLimit>>,
    /// A comparison is wanted before its time.
    wanted: Arc<Notify>,
    started: Instant,
    stop: CancellationToken,
    /// What goes on after a reply.
    background: TaskTracker,
}

impl Attach {
    /// The verbs over `ipam`, `network` and `datapath`. What the guard enforces already is taken over.
    pub fn new(ipam: Ipam, network: Network, guard: Guard, events: EventRecorder) -> Result<Self, DatapathError> {
        let attach = Self {
            ipam,
            network,
            datapath: guard.datapath,
            mode: guard.mode,
            metrics: guard.metrics,
            locks: Arc::default(),
            bindings: Arc::default(),
            attachments: Arc::default(),
            sandboxes: Arc::default(),
            events,
            event_limit: Arc::default(),
            wanted: Arc::default(),
            started: Instant::now(),
            stop: CancellationToken::new(),
            background: TaskTracker::new(),
        };
        attach.adopt_bindings()?;
        Ok(attach)
    }

    /// Waits for what goes on after replies.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
    }

    /// Gives a container its interface and addresses.
    pub async fn add(&self, invocation: &Invocation, deadline: Instant) -> Result<AddResult, CniError> {
        let request = CniRequest::for_add(invocation)?;
        let deadline = deadline.into();
        let Ok(_lock) = tokio::time::timeout_at(deadline, self.locks.lock(&request.pod)).await else {
            return Err(NodeError::Deadline.for_runtime(&request.pod));
        };
        let known = self
            .is_attached(&request.container, &request.interface)
            .map_err(|error| error.for_runtime(&request.pod))?;
        let adding = tokio::time::timeout_at(deadline, self.try_add(&request, invocation.plugin)).await;
        let error = match adding.unwrap_or(Err(NodeError::Deadline)) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        tracing::warn!(pod = %request.pod, %error, "ADD failed");
        // A container that has its interface already keeps it, whatever a repeated ADD runs into.
        if !known && tokio::time::timeout(UNDO, self.undo(&request, invocation.plugin, &error)).await.is_err() {
            tracing::warn!(pod = %request.pod, "a failed ADD was not undone in time; the runtime's DEL and the controller come after");
        }
        Err(error.for_runtime(&request.pod))
    }

    async fn try_add(&self, request: &CniRequest, plugin: Plugin) -> Result<AddResult, NodeError> {
        match plugin {
            Plugin::Holdfast => self.add_link(request).await,
            Plugin::Spiderpool => self.add_addresses(request).await,
        }
    }

    /// As IPAM delegate: the interface is another plugin's.
    async fn add_addresses(&self, request: &CniRequest) -> Result<AddResult, NodeError> {
        let bound = self.ipam.bind(&request.bind_request()).await?;
        // The pod's older sandboxes are silent before the runtime hears that it may start the new one.
        for address in bound.ip.networks().map(|net| net.addr()) {
            self.step(Event::Reassigned { address, to: request.container.tag() })?;
        }
        self.release_later(request, &bound);
        self.watch_sandbox(request.container.clone());
        self.attach_pod_interface(request, &bound);
        Ok(result_of(&bound, &[]))
    }

    async fn add_link(&self, request: &CniRequest) -> Result<AddResult, NodeError> {
        let spec = request.link()?;
        let bind = request.bind_request();
        // The link needs no address: it is made while the API server is asked for one.
        let (link, bound) = tokio::join!(self.network.create(&spec), self.ipam.bind(&bind));
        // A request that the API server refuses is the better explanation when both fail.
        let bound = bound?;
        let link = link?;
        let net = pod_net(request, &bound)?;
        let owner = LinkOwner { tag: request.container.tag(), mac: link.pod_mac };
        let mode = bound.mode.unwrap_or(self.mode);
        // The guard is there before the link comes up, and the binding right before the address is taken from an older
        // sandbox: in between, packets to it would reach neither.
        self.attach_host_link((link.host_index, &link.host_name, mode), owner, bound.generation)?;
        let placement = self.network.configure(&link, &net).await?;
        self.bind_link(link.host_index, owner, bound.generation, net.ips())?;
        self.network.advertise(&link, &net, &placement.uplink).await?;
        self.datapath.attach_uplink(placement.uplink.index, &placement.uplink.name)?;
        self.attachments().insert(link.host_index, Attachment::of_request(request));
        self.release_later(request, &bound);
        self.watch_sandbox(request.container.clone());
        tracing::info!(
            pod = %request.pod, generation = %bound.generation, link = %link.host_name,
            addresses = ?net.ips().collect::<Vec<_>>(), "attached"
        );
        Ok(result_of(&bound, &interfaces(&link, placement.mtu, request)))
    }

    /// Make before break: addresses that the pod moved away from go only once the new ones work.
    fn release_later(&self, request: &CniRequest, bound: &IpAllocation) {
        if bound.displaced.is_empty() {
            return;
        }
        let (ipam, pod, displaced) = (self.ipam.clone(), request.pod.clone(), bound.displaced.clone());
        self.background.spawn(async move { ipam.release_addresses(&pod, &displaced).await });
    }
}

fn interfaces(link: &PodLink, mtu: u32, request: &CniRequest) -> [Interface; 2] {
    let interface = |name: &IfName, mac: String, sandbox| Interface {
        name: name.to_string(),
        mac: Some(mac),
        mtu: Some(mtu),
        sandbox,
    };
    let sandbox = link.spec.netns.to_str().map(str::to_owned);
    [
        interface(&link.host_name, link.host_mac.to_string(), None),
        interface(&request.interface, link.pod_mac.to_string(), sandbox),
    ]
}

/// The addresses and routes of a record, parsed.
fn pod_net(request: &CniRequest, bound: &IpAllocation) -> Result<PodNet, NodeError> {
    let ip = &bound.ip;
    let addresses = ip.networks().map(|address| PodAddress { address, gateway: gateway(bound, address) }).collect();
    let routes = ip.routes.iter().filter_map(|route| Some((route.dst.parse().ok()?, route.gw.parse().ok())));
    let master = request.conf.master.as_deref().map(str::parse).transpose();
    let master = master.map_err(|error: holdfast_core::id::IdError| {
        CniError::new(code::INVALID_CONFIG, format!("master in the network configuration: {error}"))
    })?;
    Ok(PodNet { addresses, routes: routes.collect(), default_route: !ip.clean_gateway.unwrap_or(false), master })
}

fn gateway(bound: &IpAllocation, address: IpNet) -> Option<IpAddr> {
    let text = match Family::of(address.addr()) {
        Family::V4 => &bound.ip.ipv4_gateway,
        Family::V6 => &bound.ip.ipv6_gateway,
    };
    text.as_ref()?.parse().ok()
}

fn result_of(bound: &IpAllocation, interfaces: &[Interface]) -> AddResult {
    let ip = &bound.ip;
    let inside = interfaces.iter().position(|interface| interface.sandbox.is_some());
    let ips: Vec<_> = ip
        .networks()
        .map(|address| IpConfig {
            address,
            gateway: gateway(bound, address),
            interface: inside.and_then(|index| u32::try_from(index).ok()),
        })
        .collect();
    let default_of = |ip: &IpConfig| {
        let any = if ip.address.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        ip.gateway.and_then(|gw| Some(Route { dst: any.parse().ok()?, gw: Some(gw) }))
    };
    let clean = ip.clean_gateway.unwrap_or(false);
    let mut routes: Vec<_> = ips.iter().filter(|_| !clean).filter_map(default_of).collect();
    let extra =
        ip.routes.iter().filter_map(|route| Some(Route { dst: route.dst.parse().ok()?, gw: route.gw.parse().ok() }));
    routes.extend(extra);
    AddResult { interfaces: interfaces.to_vec(), ips, routes, ..AddResult::default() }
}
