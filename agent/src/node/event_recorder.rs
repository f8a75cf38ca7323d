//! Events about violations: Kubernetes events on the pod and its StatefulSet, limited in rate.

use std::{net::IpAddr, sync::PoisonError, time::Instant};

use holdfast_api::event_recorder::EventType;
use holdfast_core::{binding::Report, id::IfIndex};
use holdfast_guard::GuardEvent;

use super::Attach;

impl Attach {
    /// Records a violation that the guard saw: in the log, and as an event of the pod that caused it, or that holds the
    /// address.
    pub(super) async fn record_violation(
        &self,
        link: Option<IfIndex>,
        address: IpAddr,
        report: Report,
        seen: &GuardEvent,
    ) {
        let blamed = match link {
            Some(link) => self.attachment(link).await.ok().flatten(),
            None => None,
        };
        let holder = match seen.holder {
            Some(holder) => self.attachment(holder.link).await.ok().flatten(),
            None => None,
        };
        let Some(subject) = blamed.as_ref().or(holder.as_ref()).map(|attachment| attachment.pod.clone()) else {
            tracing::warn!(reason = report.as_str(), %address, mac = %seen.mac, "seen on a link that is nobody's");
            return;
        };
        let admitted = {
            let mut limit = self.event_limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.admit(&subject, report.as_str(), address, Instant::now())
        };
        if !admitted {
            return;
        }
        let container = |attachment: Option<&super::Attachment>| {
            attachment.map_or("unknown".to_owned(), |attachment| attachment.container.to_string())
        };
        let used = format!("{} (MAC {})", container(blamed.as_ref()), seen.mac);
        let held = match seen.holder {
            Some(there) => {
                format!("its holder is container {} (MAC {})", container(holder.as_ref()), there.mac)
            }
            None => "nobody on this node holds it".to_owned(),
        };
        let fate = if seen.dropped { "dropped" } else { "seen, not dropped" };
        let note = match report {
            Report::StaleContainerFenced => {
                format!("{address}: container {used} still used it; {held}; packets are {fate}")
            }
            Report::SourceViolation => {
                format!("{address}: container {used} used it, and it is not its own; {held}; packets are {fate}")
            }
            Report::AddressConflict => {
                format!("{address}: a host on the LAN with MAC {} claims it; {held}", seen.mac)
            }
        };
        tracing::warn!(pod = %subject, kind = ?seen.kind, via = ?seen.via, address = %address, dropped = seen.dropped, reason = report.as_str(), "{note}");
        // A series of events is counted by reason and action: the address keeps those of different addresses apart.
        let action = format!("Guard {address}");
        self.events.record_for_pod(&subject, EventType::Warning, report.as_str(), action, note);
    }
}
