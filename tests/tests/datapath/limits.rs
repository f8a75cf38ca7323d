//! Floods.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use holdfast_abi::{Counter, Event, RATE_KEY_BURST, RATE_LINK_BURST};

use holdfast_tests::{frames, programs::Programs};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn one_address_is_reported_a_few_times() -> Result<()> {
    let programs = Programs::new()?;
    let frame = frames::ipv4(MAC, Ipv4Addr::new(10, 7, 0, 3), "hello");
    programs.repeat(&frame, 10_000)?;
    ensure!(programs.counter(Counter::DropForeign)? == 10_000);
    let (sent, limited) = (programs.counter(Counter::Events)?, programs.counter(Counter::EventsLimited)?);
    ensure!(sent + limited == 10_000 && sent >= u64::from(RATE_KEY_BURST), "{sent} {limited}");
    // The runs take a few milliseconds, so at most one window ends meanwhile.
    ensure!(sent <= 2 * u64::from(RATE_KEY_BURST), "{sent}");
    Ok(())
}

#[test]
fn a_walk_through_a_subnet_is_reported_a_few_times_more() -> Result<()> {
    let programs = Programs::new()?;
    for number in 0..4_000u32 {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 7, 16, 0)) + number);
        programs.run(&frames::ipv4(MAC, address, "hello"))?;
    }
    let sent = programs.counter(Counter::Events)?;
    ensure!(programs.counter(Counter::DropForeign)? == 4_000);
    ensure!(sent >= u64::from(RATE_LINK_BURST), "{sent}");
    ensure!(sent < 4_000 && sent + programs.counter(Counter::EventsLimited)? == 4_000, "{sent}");
    Ok(())
}

#[test]
fn events_that_find_no_room_are_counted_and_the_verdict_stands() -> Result<()> {
    let programs = Programs::with_small_ring()?;
    let page = 4_096;
    let room = page / (size_of::<Event>() + 8);
    for number in 0..64u8 {
        let verdict = programs.run(&frames::ipv4(MAC, Ipv4Addr::new(10, 7, 1, number), "hello"))?;
        ensure!(verdict == Programs::DROP, "{number}: {verdict}");
    }
    let (sent, lost) = (programs.counter(Counter::Events)?, programs.counter(Counter::EventsLost)?);
    ensure!(sent > 0 && sent <= room as u64 && sent + lost == 64, "{sent} sent, {lost} lost, room for {room}");
    Ok(())
}
