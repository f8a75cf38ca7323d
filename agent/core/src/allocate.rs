//! Which free address to try first.
//!
//! The API server decides who gets an address: creating its claim succeeds once. A proposal only has to be likely.
//! Each pod starts at a place of its own in the pool, so nodes that allocate at the same time seldom meet, and a pod
//! whose first try was cut off finds its own claim again.

use std::net::IpAddr;

use crate::{
    id::{PodName, head},
    pool::AddressSet,
};

/// The addresses of `set` for `pod` to try, best first. `taken` says what is known to be in use or reserved.
pub fn proposals<'a>(
    set: &'a AddressSet,
    pod: &PodName,
    taken: impl Fn(IpAddr) -> bool + 'a,
) -> impl Iterator<Item = IpAddr> + 'a {
    set.iter_from(place(pod)).filter(move |address| !taken(*address))
}

/// Where in a pool a pod starts to look.
fn place(pod: &PodName) -> u128 {
    head(pod.to_string().as_bytes()).into()
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
