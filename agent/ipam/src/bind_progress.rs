//! The state of one ADD across its attempts. Pure: [`crate::bind`] reads and writes.
//!
//! ```text
//! attempt ─▶ all claims verified ─▶ done
//!    ▲   └─▶ conflict, or a claim was lost ─▶ read the endpoint again ─┐
//!    └─────────────────────────────────────────────────────────────────┘
//! error ─▶ nothing written yet: nothing to undo │ written, or perhaps: drop lost addresses, unbind, release
//! ```

use std::{collections::HashSet, net::IpAddr};

use holdfast_api::endpoint::SpiderEndpoint;

/// The state of one ADD.
#[derive(Debug, Default)]
pub(crate) struct BindProgress {
    listed: HashSet<IpAddr>,
    lost: HashSet<IpAddr>,
    may_have_written: bool,
}

impl BindProgress {
    /// Remembers the addresses of the endpoint that an attempt starts from.
    pub(crate) fn read_endpoint(&mut self, endpoint: Option<&SpiderEndpoint>) {
        self.listed.extend(endpoint.into_iter().flat_map(SpiderEndpoint::addresses));
    }

    /// Remembers that a write of the endpoint begins. It may take place even where no answer comes.
    pub(crate) fn begin_write(&mut self) {
        self.may_have_written = true;
    }

    /// Remembers that an address turned out to belong to another endpoint.
    pub(crate) fn lose(&mut self, address: IpAddr) {
        self.lost.insert(address);
    }

    /// Returns the addresses that belong to other endpoints.
    pub(crate) fn lost(&self) -> &HashSet<IpAddr> {
        &self.lost
    }

    /// Returns true where the endpoint lists no address that was lost: the ADD is done.
    pub(crate) fn is_complete(&self, endpoint: &SpiderEndpoint) -> bool {
        endpoint.addresses().iter().all(|address| !self.lost.contains(address))
    }

    /// Returns true where a failed ADD has to be undone.
    pub(crate) fn needs_undo(&self) -> bool {
        self.may_have_written
    }

    /// Returns the addresses that the endpoint listed at any time and does not list in `written`.
    pub(crate) fn displaced(&self, written: &SpiderEndpoint) -> Vec<IpAddr> {
        self.listed.iter().copied().filter(|address| !written.lists(*address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::id::PodName;
    use serde_json::json;

    use super::*;

    fn endpoint(addresses: &[&str]) -> SpiderEndpoint {
        let mut endpoint = SpiderEndpoint::for_pod(&PodName::new("d", "web-0"));
        let entry = |(index, address)| json!({"interface": format!("net{index}"), "ipv4": format!("{address}/24")});
        let ips: Vec<_> = addresses.iter().enumerate().map(entry).collect();
        endpoint.status = serde_json::from_value(json!({"current": {"ips": ips}})).unwrap();
        endpoint
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_failure_after_a_write_began_is_undone() {
        let mut progress = BindProgress::default();
        progress.read_endpoint(Some(&endpoint(&["10.0.0.1"])));
        progress.lose(address("10.0.0.1"));
        assert!(!progress.needs_undo(), "reading and acquiring are no writes of the endpoint");
        progress.begin_write();
        assert!(progress.needs_undo());
    }

    #[test]
    fn an_endpoint_with_a_lost_address_is_not_complete() {
        let mut progress = BindProgress::default();
        assert!(progress.is_complete(&endpoint(&["10.0.0.1", "10.0.0.2"])));
        progress.lose(address("10.0.0.2"));
        assert!(!progress.is_complete(&endpoint(&["10.0.0.1", "10.0.0.2"])));
        assert!(progress.is_complete(&endpoint(&["10.0.0.1", "10.0.0.3"])));
        assert_eq!(progress.lost(), &HashSet::from([address("10.0.0.2")]));
    }

    #[test]
    fn addresses_of_every_attempt_are_displaced_unless_the_last_lists_them() {
        let mut progress = BindProgress::default();
        progress.read_endpoint(None);
        progress.read_endpoint(Some(&endpoint(&["10.0.0.1"])));
        progress.read_endpoint(Some(&endpoint(&["10.0.0.2", "10.0.0.3"])));
        let displaced: HashSet<_> = progress.displaced(&endpoint(&["10.0.0.3"])).into_iter().collect();
        assert_eq!(displaced, HashSet::from([address("10.0.0.1"), address("10.0.0.2")]));
    }
}
