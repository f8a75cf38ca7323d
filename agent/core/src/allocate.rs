//! The order in which a pod tries a pool's addresses.
//!
//! The API server decides which pod gets an address: creating its claim succeeds once. A proposal only has to be likely
//! free. Each pod starts at its own position in the pool, so that nodes that allocate at the same time seldom collide, and
//! a pod whose first ADD was cut off finds its own claim again.

use std::net::IpAddr;

use crate::{
    id::{PodName, digest_head},
    pool::AddressSet,
};

/// Returns the addresses of `set` that `pod` should try, in order, without those for which `taken` returns true: they are
/// known to be in use or reserved.
pub fn proposals<'a>(
    set: &'a AddressSet,
    pod: &PodName,
    taken: impl Fn(IpAddr) -> bool + 'a,
) -> impl Iterator<Item = IpAddr> + 'a {
    set.iter_from(start_position(pod)).filter(move |address| !taken(*address))
}

/// Returns the position in a pool at which a pod starts.
fn start_position(pod: &PodName) -> u128 {
    digest_head(pod.to_string().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Family;

    #[test]
    fn every_free_address_is_proposed_once_and_in_the_same_order() {
        let set = AddressSet::parse(Family::V4, &["10.0.0.1-10.0.0.9"]).unwrap();
        let pod = PodName::new("default", "web-0");
        let taken: IpAddr = "10.0.0.4".parse().unwrap();
        let first: Vec<_> = proposals(&set, &pod, |address| address == taken).collect();
        let second: Vec<_> = proposals(&set, &pod, |address| address == taken).collect();
        assert_eq!(first, second);
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted.len(), 8);
        assert!(!sorted.contains(&taken));
    }
}
