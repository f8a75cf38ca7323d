//! The parser on frames without an interface, by `BPF_PROG_TEST_RUN`.

use std::net::Ipv6Addr;

use anyhow::{Context, Result, ensure};
use holdfast_abi::Counter;
use holdfast_tests::{
    frames,
    programs::{MAC, Programs, V4, V6},
};

/// Not managed.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Frames of every kind that the programs look into, in a VLAN: the kernel refuses to test shorter frames that begin
/// with a short IP header, but not if there is a tag before it.
fn kinds() -> Vec<(&'static str, usize, Vec<u8>)> {
    let tag = |frame: Vec<u8>| frames::tagged(&frame, 0x8100, 7);
    let tag_twice = |frame: Vec<u8>| frames::tagged(&tag(frame), 0x88a8, 8);
    vec![
        // With the length from which on the verdict is known.
        ("IPv4", 18 + 20, tag(frames::ipv4(MAC, V4, "hello"))),
        ("IPv4 in two VLANs", 22 + 20, tag_twice(frames::ipv4(MAC, V4, "hello"))),
        ("IPv6", 18 + 24, tag(frames::ipv6(MAC, V6, "hello"))),
        ("ARP", 18 + 28, tag(frames::arp(MAC, MAC, V4))),
        ("advertisement", 18 + 40 + 24, tag(frames::advertisement(MAC, V6, V6, MAC))),
        ("hidden advertisement", 18 + 40 + 8 + 24, tag(frames::hidden_advertisement(MAC, V6, V6, MAC))),
        ("wordy advertisement", 18 + 40 + 24, tag(frames::wordy_advertisement(MAC, V6, V6, MAC, 3))),
        ("duplicate address detection", 18 + 40 + 24, tag(frames::detection(MAC, V6))),
        ("solicitation", 18 + 40 + 1, tag(frames::solicitation(MAC, V6, ROUTER, MAC))),
        ("redirect", 18 + 40 + 40, tag(frames::redirect(MAC, ROUTER, ROUTER, V6, Some(MAC)))),
    ]
}

#[test]
fn frames_cut_short_anywhere_are_counted_and_dropped() -> Result<()> {
    let programs = Programs::new()?;
    for (what, enough, frame) in kinds() {
        for length in 14..=frame.len() {
            let before = programs.counter(Counter::DropMalformed)?;
            let verdict = programs.run(&frame[..length]).with_context(|| format!("{what}, {length} bytes"))?;
            let malformed = programs.counter(Counter::DropMalformed)? - before;
            let expected = if length < enough { (Programs::DROP, 1) } else { (Programs::PASS, 0) };
            ensure!((verdict, malformed) == expected, "{what}, {length} bytes: {verdict}, {malformed} counted");
        }
    }
    Ok(())
}

#[test]
fn no_frame_confuses_the_other_programs() -> Result<()> {
    let programs = Programs::new()?;
    for (what, _, frame) in kinds() {
        for length in 14..=frame.len() {
            for name in ["guard_to_pod", "watch_uplink", "guard_uplink_out"] {
                let verdict = programs.test_run(name, &frame[..length], 1)?;
                ensure!(verdict == Programs::PASS, "{name}: {what}, {length} bytes: {verdict}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_no_ip_passes_at_any_length() -> Result<()> {
    let programs = Programs::new()?;
    let frame = frames::other(MAC, "an experiment");
    for length in 14..=frame.len() {
        ensure!(programs.run(&frame[..length])? == Programs::PASS, "{length} bytes");
    }
    // ARP for something that is not IPv4.
    let mut frame = frames::arp(MAC, MAC, V4);
    frame[16] = 9;
    ensure!(programs.run(&frame)? == Programs::PASS);
    Ok(())
}

#[test]
fn too_many_headers_do_not_hide_an_advertisement() -> Result<()> {
    let programs = Programs::new()?;
    let foreign = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 3);
    let body = &frames::advertisement(MAC, V6, foreign, MAC)[54..];
    for headers in 0..6 {
        let mut payload = Vec::new();
        for number in 0..headers {
            let next = if number + 1 == headers { 58 } else { 60 };
            payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(body);
        let first = if headers == 0 { 58 } else { 60 };
        let verdict = programs.run(&frames::ipv6_packet(MAC, V6, 255, first, &payload))?;
        ensure!(verdict == Programs::DROP, "{headers} headers: {verdict}");
    }
    Ok(())
}

#[test]
fn too_many_options_do_not_hide_a_mac() -> Result<()> {
    let programs = Programs::new()?;
    let stranger = [2, 0, 0, 0, 0, 9];
    for options in 0..8 {
        for (mac, seen, unseen) in [(MAC, Programs::PASS, Programs::DROP), (stranger, Programs::DROP, Programs::DROP)] {
            let verdict = programs.run(&frames::wordy_advertisement(MAC, V6, V6, mac, options))?;
            ensure!(verdict == if options < 4 { seen } else { unseen }, "{options} options, {mac:02x?}: {verdict}");
        }
    }
    // Options without a length make receivers discard the packet, and the program come to an end.
    let mut frame = frames::advertisement(MAC, V6, V6, stranger);
    frame[14 + 40 + 25] = 0;
    ensure!(programs.run(&frame)? == Programs::PASS);
    Ok(())
}

/// Random bytes behind every protocol: whatever comes, there is a verdict.
#[test]
fn noise_gets_a_verdict() -> Result<()> {
    let programs = Programs::new()?;
    // Not random at all, and the same every time (splitmix64).
    let mut state = 7u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    for number in 0..20_000usize {
        let mut frame: Vec<u8> = (0..16).flat_map(|_| next()).collect();
        let ethertype = [0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8][number % 5];
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        if ethertype == 0x86dd {
            // Half of the time something that is looked into.
            frame[21] = 255;
            frame[20] = [0, 43, 58, 60][number / 5 % 4];
            frame[54] = [133, 135, 136, 137][number / 20 % 4];
        }
        for name in ["guard_from_pod", "guard_to_pod", "watch_uplink", "guard_uplink_out"] {
            let verdict = programs.test_run(name, &frame, 1)?;
            ensure!([Programs::PASS, Programs::DROP].contains(&verdict), "{name}: {verdict} on {frame:02x?}");
        }
    }
    Ok(())
}
