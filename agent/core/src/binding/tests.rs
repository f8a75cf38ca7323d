use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{id::ContainerId, mac::Mac};

const NOW: Duration = Duration::from_secs(100);
const A: IfIndex = IfIndex(1);
const B: IfIndex = IfIndex(2);

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn tag(name: &str) -> u64 {
    name.parse::<ContainerId>().unwrap().tag()
}

fn owner(name: &str) -> LinkOwner {
    LinkOwner { tag: tag(name), mac: Mac([2; 6]) }
}

fn bind(link: IfIndex, name: &str, generation: u64) -> Event {
    Event::Bind { link, owner: owner(name), address: ip(1), generation: Generation(generation) }
}

/// A record that names this container, which is dead.
fn recorded(name: &str, generation: u64) -> RecordedHolder {
    RecordedHolder::Container { tag: tag(name), generation: Generation(generation), may_live: false }
}

fn observation(recorded: RecordedHolder) -> Observation {
    Observation { recorded, listed: vec![ip(1)], same_pod: true, alive: true }
}

fn observed(link: IfIndex, observation: Observation) -> Event {
    Event::Observed { link, observation }
}

/// Link A with an old container, link B with the newer one.
fn superseded() -> Bindings {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "old", 1));
    bindings.step(NOW, bind(B, "new", 2));
    bindings
}

#[test]
fn a_newer_holder_makes_the_older_stale() {
    let mut bindings = Bindings::default();
    assert_eq!(
        bindings.step(NOW, bind(A, "old", 1)),
        [Action::MakeCurrent { link: A, owner: owner("old"), address: ip(1), generation: Generation(1) }]
    );
    bindings.step(NOW, bind(B, "new", 2));
    assert_eq!((bindings.state(A, ip(1)), bindings.state(B, ip(1))), (Some(State::Stale), Some(State::Current)));
    assert_eq!(bindings.holder(ip(1)), Some(B));
}

#[test]
fn a_detached_link_holds_nothing() {
    let mut bindings = superseded();
    assert_eq!(bindings.step(NOW, Event::Detached { link: B }), []);
    assert_eq!((bindings.holder(ip(1)), bindings.state(A, ip(1))), (None, Some(State::Stale)));
}

#[test]
fn a_reused_interface_index_belongs_to_the_new_container() {
    let mut bindings = superseded();
    let event = Event::Bind { link: A, owner: owner("next"), address: ip(2), generation: Generation(1) };
    bindings.step(NOW, event);
    assert_eq!((bindings.state(A, ip(1)), bindings.state(A, ip(2))), (None, Some(State::Current)));
}

#[test]
fn packets_are_reported_and_make_the_node_verify() {
    let mut bindings = superseded();
    let packet = |violation| Event::Violation { link: A, address: ip(1), violation };
    let report = |report| Action::Report { link: Some(A), address: ip(1), report };
    let fenced = report(Report::StaleContainerFenced);
    assert_eq!(bindings.step(NOW, packet(Violation::Stale)), [fenced, Action::Verify { link: A }]);
    assert_eq!(bindings.step(NOW, packet(Violation::Stale)), [fenced], "one verification is enough for a while");
    let later = NOW + VERIFY_INTERVAL;
    assert_eq!(
        bindings.step(later, packet(Violation::Foreign)),
        [report(Report::SourceViolation), Action::Verify { link: A }]
    );
    assert_eq!(bindings.step(later, packet(Violation::Mac)), [report(Report::SourceViolation)]);
    let unknown = Event::Violation { link: IfIndex(9), address: ip(1), violation: Violation::Foreign };
    assert_eq!(bindings.step(later, unknown).len(), 1, "a link that was never bound has no record to verify");
}

#[test]
fn a_dead_sandbox_is_fenced_at_once_and_collected_after_verification() {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "old", 1));
    let exited = Event::SandboxExited { tag: tag("old") };
    assert_eq!(bindings.step(NOW, exited), [Action::MakeStale { link: A, address: ip(1) }, Action::Verify { link: A }]);
    assert_eq!(bindings.state(A, ip(1)), Some(State::Dead));
    let dead = Observation { alive: false, ..observation(recorded("old", 1)) };
    assert_eq!(bindings.step(NOW, observed(A, dead)), [Action::Collect { link: A }]);
    assert_eq!(bindings.step(NOW, Event::SandboxExited { tag: 0 }), [], "another sandbox's exit");
}

#[test]
fn a_false_exit_is_reverted_by_verification() {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "old", 1));
    bindings.step(NOW, Event::SandboxExited { tag: tag("old") });
    assert_eq!(
        bindings.step(NOW, observed(A, observation(recorded("old", 1)))),
        [Action::MakeCurrent { link: A, owner: owner("old"), address: ip(1), generation: Generation(1) }]
    );
}

#[test]
fn an_outdated_record_is_rebound() {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "seen", 2));
    for holder in [RecordedHolder::Vacant, recorded("older", 1)] {
        assert_eq!(bindings.step(NOW, observed(A, observation(holder))), [Action::Rebind { link: A }]);
    }
}

#[test]
fn a_superseded_container_is_fenced() {
    let cases = [
        observation(RecordedHolder::Container { tag: tag("elsewhere"), generation: Generation(3), may_live: true }),
        Observation { same_pod: false, ..observation(recorded("other", 3)) },
        Observation { same_pod: false, ..observation(RecordedHolder::Vacant) },
        Observation { alive: false, ..observation(recorded("other", 3)) },
        observation(RecordedHolder::Dismissed),
        Observation { listed: Vec::new(), ..observation(RecordedHolder::Vacant) },
    ];
    for case in cases {
        let mut bindings = Bindings::default();
        bindings.step(NOW, bind(A, "old", 1));
        let expected = [Action::MakeStale { link: A, address: ip(1) }, Action::Withdraw { link: A }];
        assert_eq!(bindings.step(NOW, observed(A, case)), expected);
    }
}

#[test]
fn a_detaching_link_is_fenced_and_not_verified() {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "old", 1));
    assert_eq!(bindings.step(NOW, Event::Detaching { link: A }), [Action::MakeStale { link: A, address: ip(1) }]);
    assert_eq!(bindings.state(A, ip(1)), Some(State::Stale));
    for holder in [RecordedHolder::Vacant, recorded("old", 1), recorded("other", 2)] {
        assert_eq!(
            bindings.step(NOW, observed(A, observation(holder))),
            [],
            "a verification under way changes nothing"
        );
    }
    assert_eq!(bindings.step(NOW, Event::SandboxExited { tag: tag("old") }), []);
    let seen = Event::Violation { link: A, address: ip(1), violation: Violation::Stale };
    assert_eq!(bindings.step(NOW, seen).len(), 1, "reported, not verified");
    let again = bindings.step(NOW, bind(A, "old", 1));
    assert!(matches!(again[..], [Action::MakeCurrent { .. }]), "a repeated ADD binds it again");
    assert_eq!(bindings.step(NOW, Event::Detaching { link: B }), []);
}

#[test]
fn a_reassigned_address_is_fenced_on_every_other_link() {
    let mut bindings = Bindings::default();
    bindings.step(NOW, bind(A, "old", 1));
    let reassigned = |to| Event::Reassigned { address: ip(1), to: tag(to) };
    assert_eq!(bindings.step(NOW, reassigned("old")), [], "the address is the holder's own");
    assert_eq!(bindings.step(NOW, reassigned("new")), [Action::MakeStale { link: A, address: ip(1) }]);
    assert_eq!(bindings.holder(ip(1)), None);
}

#[test]
fn a_record_read_before_a_newer_bind_changes_nothing() {
    let mut bindings = superseded();
    assert_eq!(bindings.step(NOW, observed(A, observation(recorded("old", 1)))), []);
    assert_eq!(bindings.holder(ip(1)), Some(B));
    let newer = bindings.step(NOW, observed(A, observation(recorded("old", 3))));
    assert!(matches!(newer[..], [Action::MakeCurrent { link: A, .. }]), "{newer:?}");
}

#[test]
fn only_claims_on_bound_addresses_are_conflicts() {
    let mut bindings = superseded();
    let report = Action::Report { link: None, address: ip(1), report: Report::AddressConflict };
    assert_eq!(bindings.step(NOW, Event::Conflict { address: ip(1) }), [report]);
    assert_eq!(bindings.step(NOW, Event::Conflict { address: ip(7) }), []);
}

fn any_link() -> impl Strategy<Value = IfIndex> {
    (1u32..5).prop_map(IfIndex)
}

fn any_packet() -> impl Strategy<Value = Event> {
    let violation = prop_oneof![Just(Violation::Stale), Just(Violation::Foreign), Just(Violation::Mac)];
    prop_oneof![
        (any_link(), 1u8..4, violation).prop_map(|(link, last, violation)| Event::Violation {
            link,
            address: ip(last),
            violation
        }),
        (1u8..4).prop_map(|last| Event::Conflict { address: ip(last) }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let name = "[a-d]";
    let bind = (any_link(), name, 1u8..4, 1u64..9).prop_map(|(link, name, last, generation)| Event::Bind {
        link,
        owner: owner(&name),
        address: ip(last),
        generation: Generation(generation),
    });
    let holder = (name, 1u64..9, any::<bool>()).prop_map(|(name, generation, may_live)| RecordedHolder::Container {
        tag: tag(&name),
        generation: Generation(generation),
        may_live,
    });
    let recorded = prop_oneof![4 => holder, 1 => Just(RecordedHolder::Vacant), 1 => Just(RecordedHolder::Dismissed)];
    let listed = prop::collection::vec(1u8..4, 0..3);
    let observed =
        (any_link(), recorded, listed, any::<[bool; 2]>()).prop_map(|(link, recorded, listed, [same_pod, alive])| {
            let listed = listed.into_iter().map(ip).collect();
            Event::Observed { link, observation: Observation { recorded, listed, same_pod, alive } }
        });
    prop_oneof![
        bind,
        observed,
        any_packet(),
        any_link().prop_map(|link| Event::Detached { link }),
        any_link().prop_map(|link| Event::Detaching { link }),
        (name, 1u8..4).prop_map(|(name, last)| Event::Reassigned { address: ip(last), to: tag(&name) }),
        name.prop_map(|name| Event::SandboxExited { tag: tag(&name) }),
    ]
}

/// Returns the current pairs of link and address.
fn current(bindings: &Bindings) -> BTreeSet<(IfIndex, IpAddr)> {
    let pairs = (1u32..5).flat_map(|link| (1u8..4).map(move |last| (IfIndex(link), ip(last))));
    pairs.filter(|(link, address)| bindings.state(*link, *address) == Some(State::Current)).collect()
}

/// A model of the kernel: applies the actions to its map.
fn carry_out(map: &mut BTreeSet<(IfIndex, IpAddr)>, event: &Event, actions: &[Action]) {
    if let Event::Detached { link } = event {
        map.retain(|(there, _)| there != link);
    }
    for action in actions {
        match *action {
            Action::MakeCurrent { link, address, .. } => {
                map.insert((link, address));
                map.retain(|(there, held)| *there == link || *held != address);
            }
            Action::MakeStale { link, address } => drop(map.remove(&(link, address))),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn no_events_make_two_holders_and_the_kernel_map_agrees(events in prop::collection::vec(any_event(), 0..60)) {
        let (mut bindings, mut map) = (Bindings::default(), BTreeSet::new());
        for event in events {
            // A reused interface index was free in between: the kernel removed the old link's entries.
            if let Event::Bind { link, owner, .. } = &event
                && bindings.owner(*link).is_some_and(|there| there.tag != owner.tag)
            {
                map.retain(|(there, _)| there != link);
            }
            let actions = bindings.step(NOW, event.clone());
            carry_out(&mut map, &event, &actions);
            let now = current(&bindings);
            let addresses: BTreeSet<_> = now.iter().map(|(_, address)| *address).collect();
            prop_assert_eq!(addresses.len(), now.len(), "an address has two holders");
            prop_assert_eq!(&now, &map);
        }
    }

    #[test]
    fn packets_alone_change_no_binding(
        before in prop::collection::vec(any_event(), 0..30),
        packets in prop::collection::vec(any_packet(), 0..30),
    ) {
        let mut bindings = Bindings::default();
        for event in before {
            bindings.step(NOW, event);
        }
        let held = current(&bindings);
        for packet in packets {
            for action in bindings.step(NOW, packet) {
                prop_assert!(matches!(action, Action::Report { .. } | Action::Verify { .. }), "{action:?}");
            }
        }
        prop_assert_eq!(current(&bindings), held);
    }
}
