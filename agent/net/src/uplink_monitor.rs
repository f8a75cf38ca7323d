//! The uplink monitor: the kernel flushes an interface's proxies when it goes down, and the agent has to restore them.

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys,
};
use tokio::time::{sleep, timeout};

use super::{error::NetError, link_attrs::LinkAttrs, network::Network};

/// The longest pause between two restores: notifications of the kernel can be lost.
const RESTORE: Duration = Duration::from_secs(30);
/// The pause after a restore that failed, doubled with each further failure, and before a socket is opened again.
const RETRY: Duration = Duration::from_secs(1);

impl Network {
    /// Restores proxies now, whenever an uplink comes up, and every 30 s; a restore that fails is repeated. Runs until
    /// the kernel refuses a socket for link notifications, and returns that error. Spawn it as a task.
    pub async fn monitor_uplinks(&self) -> Result<(), NetError> {
        let mut notifications = Notifications::open()?;
        let mut retry = RETRY;
        loop {
            let pause = match self.restore_proxies().await {
                Ok(_) => {
                    retry = RETRY;
                    RESTORE
                }
                Err(error) => {
                    tracing::warn!(%error, again_in = ?retry, "proxies were not restored; the node may not answer for all addresses");
                    let pause = retry;
                    retry = RESTORE.min(retry * 2);
                    pause
                }
            };
            // The timeout cuts short the wait only, never a restore.
            if timeout(pause, notifications.uplink_up(self)).await.is_ok_and(|received| received.is_none()) {
                tracing::warn!("the kernel's link notifications ended; subscribing again");
                sleep(RETRY).await;
                notifications = Notifications::open_again().await?;
            }
        }
    }
}

/// A subscription to the kernel's link notifications (`RTNLGRP_LINK`).
struct Notifications {
    messages: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, sys::SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
    /// The connection ends when its last handle is dropped.
    _handle: rtnetlink::Handle,
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Notifications {
    fn open() -> Result<Self, NetError> {
        let error = |source| NetError::Socket { kind: "netlink", source };
        let (connection, handle, messages) = new_multicast_connection(&[MulticastGroup::Link]).map_err(error)?;
        Ok(Self { messages, connection: tokio::spawn(connection), _handle: handle })
    }

    /// Opens a subscription; while the node lacks file descriptors or memory it tries again.
    async fn open_again() -> Result<Self, NetError> {
        loop {
            match Self::open() {
                Err(error) if error.is_retry() => {
                    tracing::warn!(%error, again_in = ?RETRY, "cannot subscribe to the kernel's link notifications");
                    sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until an uplink may have come up. `None`: the subscription has ended.
    async fn uplink_up(&mut self, network: &Network) -> Option<()> {
        loop {
            match self.messages.next().await?.0.payload {
                NetlinkPayload::InnerMessage(message) => {
                    let is_uplink = |attrs: LinkAttrs| attrs.up && network.is_uplink(&attrs.name);
                    if LinkAttrs::parse(&message).is_some_and(is_uplink) {
                        return Some(());
                    }
                }
                // Messages were lost, and any of them may have been an uplink's.
                NetlinkPayload::Overrun(_) => return Some(()),
                _ => {}
            }
        }
    }
}
