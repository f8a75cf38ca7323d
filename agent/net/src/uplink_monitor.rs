//! Watching the uplinks: the kernel flushes an interface's proxies when it goes down, and nobody but us puts them back.

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys,
};
use tokio::time::{sleep, timeout};

use super::{NetError, Network, message::LinkAttrs};

/// Proxies are compared this often even if no interface was heard of: messages can be lost.
const RESTORE: Duration = Duration::from_secs(30);
/// After a comparison that failed, doubled with each more that fails; and before a socket is opened again.
const RETRY: Duration = Duration::from_secs(1);

impl Network {
    /// Restores now, whenever an uplink changes, and now and then. What fails is tried again; it ends, with an error,
    /// only when the kernel gives no socket to hear of interfaces on. To be run as a task.
    pub async fn monitor_uplinks(&self) -> Result<(), NetError> {
        let mut changes = Changes::open()?;
        let mut retry = RETRY;
        loop {
            let pause = match self.restore_proxies().await {
                Ok(_) => {
                    retry = RETRY;
                    RESTORE
                }
                Err(error) => {
                    tracing::warn!(%error, again_in = ?retry, "the node may not answer for all addresses");
                    let pause = retry;
                    retry = RESTORE.min(retry * 2);
                    pause
                }
            };
            // Only the wait for the next occasion is cut short by the clock, never the work.
            if timeout(pause, changes.of_uplinks(self)).await.is_ok_and(|heard| heard.is_none()) {
                tracing::warn!("the kernel's messages about interfaces ended; listening anew");
                sleep(RETRY).await;
                changes = Changes::open_again().await?;
            }
        }
    }
}

/// The kernel's messages about interfaces.
struct Changes {
    events: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, sys::SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
    /// Without it the connection would take itself for finished.
    _handle: rtnetlink::Handle,
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Changes {
    fn open() -> Result<Self, NetError> {
        let broken = |source| NetError::Socket { what: "netlink", source };
        let (connection, handle, events) = new_multicast_connection(&[MulticastGroup::Link]).map_err(broken)?;
        Ok(Self { events, connection: tokio::spawn(connection), _handle: handle })
    }

    /// Waits for as long as the node has no descriptor or no memory to spare.
    async fn open_again() -> Result<Self, NetError> {
        loop {
            match Self::open() {
                Err(error) if error.is_retry() => {
                    tracing::warn!(%error, "the kernel's messages about interfaces cannot be heard; trying again");
                    sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until an uplink may have come up. None: there will be no more messages.
    async fn of_uplinks(&mut self, network: &Network) -> Option<()> {
        loop {
            match self.events.next().await?.0.payload {
                NetlinkPayload::InnerMessage(message) => {
                    let uplink = |attrs: LinkAttrs| attrs.up && network.proxy_arp_ndp.is_uplink(&attrs.name);
                    if LinkAttrs::parse(&message).is_some_and(uplink) {
                        return Some(());
                    }
                }
                // Messages were lost; any of them may have been of an uplink.
                NetlinkPayload::Overrun(_) => return Some(()),
                _ => {}
            }
        }
    }
}
