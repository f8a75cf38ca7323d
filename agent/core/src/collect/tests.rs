//! The table of verdicts, row by row.

use std::time::Duration;

use super::*;

const STICKY: EndpointFacts<'static> = EndpointFacts {
    name: "web-2",
    pod_uid: "p",
    set: Some(SetKey { name: "web", uid: Some("s") }),
    bound: true,
    retain: None,
    vacant_for: Duration::ZERO,
};
const PLAIN: EndpointFacts<'static> = EndpointFacts { set: None, ..STICKY };
const SET: SetFacts<'static> = SetFacts { uid: "s", start: 0, replicas: 3, deleting: false };

const POD: PodFacts<'static> = PodFacts { uid: "p", finished: None, terminating: None, node: NodeFacts::Ready };
const OWN: Option<PodFacts<'static>> = Some(POD);
const OTHER: Option<PodFacts<'static>> = Some(PodFacts { uid: "q", ..POD });

fn judge(endpoint: &EndpointFacts<'_>, pod: Option<PodFacts<'_>>, set: Option<SetFacts<'_>>) -> Verdict {
    super::judge(endpoint, pod, set, &Policy::default())
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn terminating(seen_for: u64) -> PodFacts<'static> {
    PodFacts { terminating: Some(Termination { seen_for: s(seen_for), grace: s(30) }), ..POD }
}

#[test]
fn pods_without_a_set_release_their_addresses() {
    assert_eq!(judge(&PLAIN, OWN, None), Verdict::Keep);
    assert_eq!(judge(&PLAIN, OTHER, None), Verdict::Release(Reason::PodReplaced));
    assert_eq!(judge(&PLAIN, None, None), Verdict::Release(Reason::PodGone));
}

#[test]
fn a_finished_pod_uses_its_address_until_its_sandbox_is_gone() {
    let finished =
        |seen_for| Some(PodFacts { finished: Some(Termination { seen_for: s(seen_for), grace: s(30) }), ..POD });
    let unbound = EndpointFacts { bound: false, ..PLAIN };
    assert_eq!(judge(&unbound, finished(0), None), Verdict::Release(Reason::PodFinished));
    assert_eq!(judge(&PLAIN, finished(1), None), Verdict::Wait(s(34)));
    assert_eq!(judge(&PLAIN, finished(35), None), Verdict::Release(Reason::PodFinished));
    assert_eq!(judge(&STICKY, finished(1), None), Verdict::Wait(s(34)));
    assert_eq!(judge(&STICKY, finished(35), None), Verdict::Release(Reason::StatefulSetGone));
    assert_eq!(judge(&STICKY, finished(35), Some(SET)), Verdict::Keep);
    // The earlier deadline counts.
    let both = |seen_for| finished(1).map(|pod| PodFacts { terminating: terminating(seen_for).terminating, ..pod });
    assert_eq!(judge(&PLAIN, both(20), None), Verdict::Wait(s(15)));
    assert_eq!(judge(&PLAIN, both(35), None), Verdict::Release(Reason::TerminatingTimeout));
    let lost = finished(1).map(|pod| PodFacts { node: NodeFacts::Gone(s(5)), ..pod });
    assert_eq!(judge(&PLAIN, lost, None), Verdict::Release(Reason::NodeGone));
}

#[test]
fn a_record_without_a_pod_uid_may_be_of_any_pod_of_its_name() {
    for endpoint in [PLAIN, STICKY] {
        let unknown = EndpointFacts { pod_uid: "", ..endpoint };
        assert_eq!(judge(&unknown, OWN, None), Verdict::Keep);
        assert_eq!(judge(&unknown, OTHER, None), Verdict::Keep);
        assert!(judge(&unknown, None, None).acts());
    }
}

#[test]
fn sticky_addresses_stay_reserved() {
    let reserved = EndpointFacts { bound: false, ..STICKY };
    assert_eq!(judge(&STICKY, OWN, Some(SET)), Verdict::Keep);
    assert_eq!(judge(&STICKY, OTHER, Some(SET)), Verdict::Keep);
    assert_eq!(judge(&STICKY, None, Some(SET)), Verdict::Unbind(Reason::PodGone));
    assert_eq!(judge(&reserved, None, Some(SET)), Verdict::Keep);
}

#[test]
fn a_deleted_set_releases_the_addresses_that_no_pod_uses() {
    let other = SetFacts { uid: "t", ..SET };
    let deleting = SetFacts { deleting: true, ..SET };
    for set in [None, Some(other), Some(deleting)] {
        assert_eq!(judge(&STICKY, None, set), Verdict::Release(Reason::StatefulSetGone));
        assert_eq!(judge(&STICKY, OWN, set), Verdict::Keep, "orphaned pods keep their addresses");
        assert_eq!(judge(&STICKY, OTHER, set), Verdict::Release(Reason::StatefulSetGone));
    }
    let unknown = EndpointFacts { set: Some(SetKey { name: "web", uid: None }), ..STICKY };
    assert_eq!(judge(&unknown, None, Some(other)), Verdict::Unbind(Reason::PodGone));
}

#[test]
fn a_terminating_pod_counts_as_gone_once_its_sandbox_is() {
    let terminating = Some(terminating(0));
    let reserved = EndpointFacts { bound: false, ..STICKY };
    assert_eq!(judge(&STICKY, terminating, None), Verdict::Wait(s(35)));
    assert_eq!(judge(&reserved, terminating, None), Verdict::Release(Reason::StatefulSetGone));
    assert_eq!(judge(&reserved, terminating, Some(SET)), Verdict::Keep);
    assert_eq!(
        judge(&reserved, terminating, Some(SetFacts { replicas: 0, ..SET })),
        Verdict::Release(Reason::ScaledDown)
    );
    assert_eq!(judge(&PLAIN, terminating, None), Verdict::Wait(s(35)));
}

#[test]
fn scaling_down_releases_the_ordinals_outside() {
    let cases = [(0, 3, false), (0, 2, true), (2, 1, false), (3, 5, true), (i32::MAX, 5, true)];
    for (start, replicas, freed) in cases {
        let verdict = judge(&STICKY, None, Some(SetFacts { start, replicas, ..SET }));
        let expected = if freed { Verdict::Release(Reason::ScaledDown) } else { Verdict::Unbind(Reason::PodGone) };
        assert_eq!(verdict, expected, "{start} {replicas}");
    }
    assert_eq!(judge(&STICKY, OWN, Some(SetFacts { replicas: 0, ..SET })), Verdict::Keep);
}

#[test]
fn claims_wait_for_their_cooldown_before_they_are_deleted() {
    let cooldowns = Cooldowns::default();
    let claim = |released, listed, seconds| {
        judge_claim(&ClaimFacts { released, listed, pod: true, seen_for: s(seconds) }, &cooldowns)
    };
    let orphan = |seconds| {
        judge_claim(&ClaimFacts { released: false, listed: false, pod: false, seen_for: s(seconds) }, &cooldowns)
    };
    assert_eq!(orphan(4), ClaimVerdict::Wait(s(1)));
    assert_eq!(orphan(5), ClaimVerdict::Mark);
    assert_eq!(claim(false, true, 1000), ClaimVerdict::Keep);
    assert_eq!(claim(false, false, 59), ClaimVerdict::Wait(Duration::from_secs(1)));
    assert_eq!(claim(false, false, 60), ClaimVerdict::Mark);
    assert_eq!(claim(true, false, 10), ClaimVerdict::Wait(Duration::from_secs(20)));
    assert_eq!(claim(true, false, 30), ClaimVerdict::Finish);
    assert_eq!(claim(true, true, 0), ClaimVerdict::Finish);
}

#[test]
fn pods_past_their_grace_period_lose_their_addresses() {
    let past_grace = Some(terminating(35));
    assert_eq!(judge(&STICKY, Some(terminating(34)), Some(SET)), Verdict::Wait(s(1)));
    assert_eq!(judge(&STICKY, past_grace, Some(SET)), Verdict::Unbind(Reason::TerminatingTimeout));
    assert_eq!(judge(&STICKY, past_grace, None), Verdict::Release(Reason::StatefulSetGone));
    assert_eq!(judge(&STICKY, past_grace, Some(SetFacts { replicas: 0, ..SET })), Verdict::Release(Reason::ScaledDown));
    assert_eq!(judge(&PLAIN, past_grace, None), Verdict::Release(Reason::TerminatingTimeout));
    let reserved = EndpointFacts { bound: false, ..STICKY };
    assert_eq!(judge(&reserved, past_grace, Some(SET)), Verdict::Keep);

    let gone = |seconds| Some(PodFacts { node: NodeFacts::Gone(s(seconds)), ..POD });
    assert_eq!(judge(&STICKY, gone(1), Some(SET)), Verdict::Wait(s(4)));
    assert_eq!(judge(&STICKY, gone(5), Some(SET)), Verdict::Unbind(Reason::NodeGone));
    assert_eq!(judge(&PLAIN, gone(5), None), Verdict::Release(Reason::NodeGone));
    assert_eq!(judge(&reserved, gone(5), Some(SET)), Verdict::Keep);
}

#[test]
fn the_policy_decides_about_pods_past_their_grace_period() {
    let off = Policy { terminating: false, ..Policy::default() };
    let past_grace = Some(terminating(100));
    assert_eq!(super::judge(&STICKY, past_grace, Some(SET), &off), Verdict::Keep);
    assert_eq!(super::judge(&PLAIN, past_grace, None, &off), Verdict::Keep);
    let release = Policy { on_timeout: OnTimeout::Release, ..Policy::default() };
    assert_eq!(super::judge(&STICKY, past_grace, Some(SET), &release), Verdict::Release(Reason::TerminatingTimeout));
    assert_eq!(super::judge(&STICKY, None, Some(SET), &release), Verdict::Unbind(Reason::PodGone));
    let ready_only = Policy { stateless_on_not_ready_node: false, ..Policy::default() };
    let lost = Some(PodFacts { node: NodeFacts::NotReady, ..terminating(100) });
    assert_eq!(super::judge(&PLAIN, lost, None, &ready_only), Verdict::Keep);
    assert_eq!(super::judge(&PLAIN, past_grace, None, &ready_only), Verdict::Release(Reason::TerminatingTimeout));
    assert_eq!(super::judge(&STICKY, lost, Some(SET), &ready_only), Verdict::Unbind(Reason::TerminatingTimeout));
}

#[test]
fn retained_addresses_outlive_a_smaller_set() {
    let small = Some(SetFacts { replicas: 0, ..SET });
    let bound = EndpointFacts { retain: Some(s(100)), ..STICKY };
    assert_eq!(judge(&bound, None, small), Verdict::Unbind(Reason::PodGone));
    let vacant = |seconds| EndpointFacts { bound: false, vacant_for: s(seconds), ..bound };
    assert_eq!(judge(&vacant(40), None, small), Verdict::Wait(s(60)));
    assert_eq!(judge(&vacant(100), None, small), Verdict::Release(Reason::RetainOver));
    assert_eq!(judge(&vacant(100), None, Some(SET)), Verdict::Keep);
    assert_eq!(judge(&vacant(0), None, None), Verdict::Release(Reason::StatefulSetGone));
}

#[test]
fn first_seen_counts_from_the_last_change() {
    let mut seen = FirstSeen::default();
    assert_eq!(seen.seen_for("a", 1, s(10)), s(0));
    assert_eq!(seen.seen_for("a", 1, s(14)), s(4));
    assert_eq!(seen.seen_for("a", 2, s(15)), s(0));
    assert_eq!(seen.seen_for("b", 1, s(15)), s(0));
    seen.forget("a");
    assert_eq!(seen.seen_for("a", 2, s(20)), s(0));
    assert_eq!((seen.len(), seen.is_empty()), (2, false));
    seen.retain(|key| *key == "b");
    assert_eq!((seen.len(), seen.seen_for("b", 1, s(25))), (1, s(10)));
}
