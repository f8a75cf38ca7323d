//! Adoption of what an earlier agent left pinned.

use crate::{
    error::DatapathError,
    interfaces::{index_of, is_nodes},
    pins::{self, EGRESS, INGRESS, remove},
    resolve_owners::resolve_owners,
    state::State,
};

impl State {
    /// Adopts what an earlier agent left: swaps the programs on interfaces that exist, and removes everything of others.
    /// A link that cannot be adopted is logged, and the others still are.
    pub(super) fn adopt(&mut self) -> Result<(), DatapathError> {
        let links = self.maps.links()?;
        for link in &links {
            if link.inside && is_nodes(link.info.mac) {
                self.maps.remove_mac(link.link, link.info.mac)?;
            }
            let there = if link.inside { self.swap_inside(link) } else { Ok(index_of(&link.name) == Some(link.link)) };
            let result = match there {
                Ok(true) if link.inside => Ok(()),
                Ok(true) => self.attach(link.link, &link.name, link.role, link.shared),
                Ok(false) => {
                    tracing::info!(link = %link.link, name = %link.name, "the interface is gone: removing its guard");
                    self.forget(link.link, &link.name, link.inside)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(link = %link.link, name = %link.name, %error, "not adopted");
            }
        }
        self.unshare()?;
        self.remove_orphans()?;
        resolve_owners(&mut self.maps)
    }

    /// Removes bindings without a link, and pins without a link.
    fn remove_orphans(&mut self) -> Result<(), DatapathError> {
        let links = self.maps.links()?;
        for binding in self.maps.bindings()? {
            if !links.iter().any(|link| link.link == binding.entry.link) {
                self.maps.remove_bindings(binding.entry.link)?;
            }
        }
        let known: Vec<_> = links
            .iter()
            .flat_map(|link| {
                let name = if link.inside { pins::pod_netns_name(link.link) } else { link.name.to_string() };
                [INGRESS, EGRESS].map(|side| self.pins.link(&name, side))
            })
            .collect();
        for name in self.pins.link_pins()? {
            let path = self.pins.links().join(&name);
            if !known.contains(&path) && name != pins::SANDBOX_EXIT {
                remove(&path)?;
            }
        }
        Ok(())
    }
}
