//! Reports of violations: Kubernetes events on the pod and its StatefulSet, limited in rate.

use std::net::IpAddr;

use holdfast_api::event_recorder::EventType;
use holdfast_core::{
    binding::Report,
    id::{IfIndex, PodName},
};
use holdfast_guard::GuardEvent;
use tokio::time::Instant;

use super::{attachment::Attachment, driver::GuardDriver};

impl GuardDriver {
    /// Reports a violation in the log and as an event of the pod that caused it, or that holds the address.
    pub(super) async fn report_violation(
        &self,
        link: Option<IfIndex>,
        address: IpAddr,
        report: Report,
        seen: &GuardEvent,
    ) {
        let blamed = self.attachment_or_none(link).await;
        let holder = self.attachment_or_none(seen.holder.map(|holder| holder.link)).await;
        let Some(subject) = blamed.as_ref().or(holder.as_ref()).map(|attachment| attachment.pod.clone()) else {
            tracing::warn!(reason = report.as_str(), %address, mac = %seen.mac, "seen on a link that belongs to no pod");
            return;
        };
        if !self.admit_event(&subject, report, address) {
            return;
        }
        let note = note(address, report, seen, blamed.as_ref(), holder.as_ref());
        tracing::warn!(pod = %subject, kind = ?seen.kind, via = ?seen.via, address = %address, dropped = seen.dropped, reason = report.as_str(), "{note}");
        // A series of events is counted by reason and action: the address keeps those of different addresses apart.
        let action = format!("Guard {address}");
        self.events.record_for_pod(&subject, EventType::Warning, report.as_str(), action, note);
    }

    async fn attachment_or_none(&self, link: Option<IfIndex>) -> Option<Attachment> {
        self.attachment(link?).await.ok().flatten()
    }

    fn admit_event(&self, subject: &PodName, report: Report, address: IpAddr) -> bool {
        self.event_limit.lock().admit(subject, report.as_str(), address, Instant::now().into_std())
    }
}

fn note(
    address: IpAddr,
    report: Report,
    seen: &GuardEvent,
    blamed: Option<&Attachment>,
    holder: Option<&Attachment>,
) -> String {
    let container = |attachment: Option<&Attachment>| {
        attachment.map_or("unknown".to_owned(), |attachment| attachment.container.to_string())
    };
    let used = format!("{} (MAC {})", container(blamed), seen.mac);
    let held = match seen.holder {
        Some(there) => format!("its holder is container {} (MAC {})", container(holder), there.mac),
        None => "no container on this node holds it".to_owned(),
    };
    let fate = if seen.dropped { "dropped" } else { "seen, not dropped" };
    match report {
        Report::StaleContainerFenced => {
            format!("{address}: container {used} still used it; {held}; packets are {fate}")
        }
        Report::SourceViolation => {
            format!("{address}: container {used} used it, and it is not its own; {held}; packets are {fate}")
        }
        Report::AddressConflict => {
            format!("{address}: a host on the LAN with MAC {} claims it; {held}", seen.mac)
        }
    }
}
