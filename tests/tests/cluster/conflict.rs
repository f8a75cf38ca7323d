//! A host on the LAN that has a pod's address too.

use anyhow::{Context, Result, ensure};
use xtask::progress::output;

use crate::manifest;
use crate::namespace::TestNamespace;
use crate::sandbox::hardware_address;
use crate::traffic;
use crate::world::World;

/// An address that the LAN's host has besides its own, until this is dropped.
struct Squatter<'a> {
    world: &'a World,
    address: String,
}

impl<'a> Squatter<'a> {
    fn on(world: &'a World, address: &str) -> Result<Self> {
        let squatter = Self { world, address: format!("{address}/32") };
        squatter.ip("add")?;
        Ok(squatter)
    }

    fn ip(&self, verb: &str) -> Result<()> {
        output(&mut self.world.lab().in_lan(&["ip", "addr", verb, &self.address, "dev", "eth0"])).map(drop)
    }
}

impl Drop for Squatter<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.ip("del") {
            eprintln!("the LAN's host keeps {}: {error:#}", self.address);
        }
    }
}

#[test]
fn an_address_conflict_is_reported_with_both_hardware_addresses() -> Result<()> {
    let namespace = TestNamespace::shared("conflict", 5)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let holder = namespace.ready("web-0")?;
    let address = holder.addresses()[0];
    let lan = |words: &[&str]| output(&mut namespace.world.lab().in_lan(words));
    let foreign = hardware_address(&lan(&["ip", "-o", "link", "show", "eth0"])?)?;
    let squatter = Squatter::on(namespace.world, address)?;
    // An ARP request with that address as the sender's is a claim; no host has the address that is asked for.
    let asked = ["ping", "-n", "-c", "1", "-W", "1", "-I", address, "172.22.99.99"];
    ensure!(!namespace.world.lab().in_lan(&asked).output()?.status.success(), "a host has the address asked for");
    let own = namespace.kubectl(&["exec", "web-0", "--", "cat", "/sys/class/net/eth0/address"])?;
    namespace.reported("Pod", "web-0", "AddressConflict", &[address, &foreign, own.trim(), &holder.container])?;
    drop(squatter);
    lan(&["ip", "neigh", "flush", "to", address, "dev", "eth0"])?;
    traffic::reaches(namespace.world, &holder).context("after the LAN's host has given the address up")?;
    namespace.finish()
}
