//! The values of the maps, in the agent's types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use holdfast_core::{
    guard_mode::GuardMode,
    id::{Generation, IfIndex, IfName},
    mac::Mac,
};
use ipnet::IpNet;

use holdfast_abi as abi;

/// The role of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// A pod's link.
    Pod,
    /// The node's link to the LAN.
    Uplink,
}

/// The agent's facts about a pod's link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// The MAC of the pod's end. All zero leaves MACs unchecked.
    pub mac: Mac,
    /// The container, by `ContainerId::tag`.
    pub container_tag: u64,
    /// The generation that the container was bound with.
    pub generation: Generation,
    /// The fate of packets with foreign addresses.
    pub mode: GuardMode,
}

/// A link the guard sits on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its identity in bindings and events.
    pub link: IfIndex,
    /// The interface's name; for a link inside a pod the name it has there.
    pub name: IfName,
    /// Its role.
    pub role: LinkRole,
    /// Whether the programs sit inside the pod's network namespace.
    pub inside: bool,
    /// Whether it is an uplink that pods share, on which what they send is judged too.
    pub shared: bool,
    /// The agent's facts about it.
    pub info: LinkInfo,
}

impl Link {
    /// Returns its flags in the maps, without those of the hook.
    pub(super) fn flags(&self) -> u32 {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        flag(self.inside, abi::LINK_INSIDE) | flag(self.shared, abi::LINK_SHARED)
    }
}

/// An address to be bound to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingEntry {
    /// The link.
    pub link: IfIndex,
    /// The address.
    pub address: IpAddr,
    /// The fencing token.
    pub generation: Generation,
    /// The container, by `ContainerId::tag`.
    pub container_tag: u64,
    /// The only MAC that may use the address. All zero leaves the MAC unchecked.
    pub mac: Mac,
}

/// The right of a link to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindingState {
    /// The link may use it.
    Current,
    /// The address has a newer holder.
    Stale,
}

/// A binding as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The address and its link.
    pub entry: BindingEntry,
    /// The state.
    pub state: BindingState,
}

/// Returns an address as the maps have it.
pub(super) fn address_key(address: IpAddr) -> abi::Address {
    match address {
        IpAddr::V4(v4) => abi::v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Returns an address of the maps.
pub(super) fn address_of(key: abi::Address) -> IpAddr {
    let v6 = Ipv6Addr::from(key);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// Returns a network as a prefix of `POOLS`: its length in bits, and its address.
pub(super) fn prefix_key(net: &IpNet) -> (u32, abi::Address) {
    let offset = if net.addr().is_ipv4() { 128 - Ipv4Addr::BITS } else { 0 };
    (offset + u32::from(net.prefix_len()), address_key(net.network()))
}

pub(super) fn binding_value(entry: &BindingEntry) -> abi::Binding {
    abi::Binding {
        generation: entry.generation.0,
        container_tag: entry.container_tag,
        state: abi::STATE_CURRENT,
        flags: 0,
        mac: entry.mac.0,
        lease_slot: 0,
    }
}

pub(super) fn binding_of(key: &abi::BindingKey, value: &abi::Binding) -> Binding {
    let entry = BindingEntry {
        link: IfIndex(key.link),
        address: address_of(key.address),
        generation: Generation(value.generation),
        container_tag: value.container_tag,
        mac: Mac(value.mac),
    };
    let state = if value.state == abi::STATE_CURRENT { BindingState::Current } else { BindingState::Stale };
    Binding { entry, state }
}

pub(super) fn owner_value(entry: &BindingEntry) -> abi::Owner {
    abi::Owner {
        generation: entry.generation.0,
        container_tag: entry.container_tag,
        link: entry.link.0,
        flags: 0,
        mac: entry.mac.0,
        pad: [0; 2],
    }
}

pub(super) fn link_value(name: &IfName, role: LinkRole, info: LinkInfo, flags: u32) -> abi::Link {
    let mut padded = [0; abi::IF_NAME_LEN];
    let bytes = name.as_str().as_bytes();
    padded[..bytes.len()].copy_from_slice(bytes);
    abi::Link {
        generation: info.generation.0,
        container_tag: info.container_tag,
        mac: info.mac.0,
        mode: match info.mode {
            GuardMode::Enforce => abi::MODE_ENFORCE,
            GuardMode::Observe => abi::MODE_OBSERVE,
        },
        role: match role {
            LinkRole::Pod => abi::ROLE_POD,
            LinkRole::Uplink => abi::ROLE_UPLINK,
        },
        flags,
        reserved: 0,
        name: padded,
    }
}

/// Returns a link of the maps; none if its name is not valid, which no agent writes.
pub(super) fn link_of(link: u32, value: &abi::Link) -> Option<Link> {
    let length = value.name.iter().position(|byte| *byte == 0).unwrap_or(value.name.len());
    let name = std::str::from_utf8(&value.name[..length]).ok()?.parse().ok()?;
    let mode = if value.mode == abi::MODE_OBSERVE { GuardMode::Observe } else { GuardMode::Enforce };
    let info = LinkInfo {
        mac: Mac(value.mac),
        container_tag: value.container_tag,
        generation: Generation(value.generation),
        mode,
    };
    let role = if value.role == abi::ROLE_UPLINK { LinkRole::Uplink } else { LinkRole::Pod };
    let has = |flag| value.flags & flag != 0;
    let (inside, shared) = (has(abi::LINK_INSIDE), has(abi::LINK_SHARED));
    Some(Link { link: IfIndex(link), name, role, inside, shared, info })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_maps() {
        for text in ["10.0.0.1", "0.0.0.0", "255.255.255.255", "::", "fd00::1", "2001:db8::ffff:1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(address_of(address_key(address)), address);
        }
    }

    #[test]
    fn prefixes_of_ipv4_lie_behind_the_mapped_ones() {
        let key = |text: &str| prefix_key(&text.parse().unwrap());
        assert_eq!(key("10.1.2.3/8"), (104, abi::v4_mapped([10, 0, 0, 0])));
        assert_eq!(key("0.0.0.0/0"), (96, abi::v4_mapped([0; 4])));
        assert_eq!(key("fd00::1/64").0, 64);
    }

    #[test]
    fn links_survive_the_maps() {
        let name: IfName = "fifteen-chars-1".parse().unwrap();
        let info = LinkInfo { mac: Mac([1; 6]), container_tag: 2, generation: Generation(3), mode: GuardMode::Observe };
        let link = link_of(7, &link_value(&name, LinkRole::Pod, info, abi::LINK_INSIDE)).unwrap();
        assert_eq!(link, Link { link: IfIndex(7), name, role: LinkRole::Pod, inside: true, shared: false, info });
    }
}
