//! The annotations that users write on pods, templates and namespaces, and the values that they hold.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use holdfast_core::guard_mode::GuardMode;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use crate::{ippool::Route, retain::parse_retain};

/// A pod's pools for each interface: `[{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"],"cleangateway":false}]`.
pub const IPPOOLS: &str = "ipam.spidernet.io/ippools";
/// The pools of a pod's only interface: `{"ipv4":["pool"],"ipv6":["pool"]}`.
pub const IPPOOL: &str = "ipam.spidernet.io/ippool";
/// A namespace's IPv4 pools: `["pool"]`.
pub const NAMESPACE_IPV4: &str = "ipam.spidernet.io/default-ipv4-ippool";
/// A namespace's IPv6 pools: `["pool"]`.
pub const NAMESPACE_IPV6: &str = "ipam.spidernet.io/default-ipv6-ippool";
/// More routes for a pod: `[{"dst":"10.0.0.0/8","gw":"172.22.0.9"}]`.
pub const ROUTES: &str = "ipam.spidernet.io/routes";
/// The interface that gets the default route.
pub const DEFAULT_ROUTE_NIC: &str = "ipam.spidernet.io/default-route-nic";
/// The addresses of each ordinal, on a StatefulSet's template: `{"0":["10.0.0.10"],"1":["10.0.0.11"]}`.
pub const STATIC_IPS: &str = "ipam.spidernet.io/static-ips";
/// The time for which an address is kept after its ordinal is scaled away, on the pod (from its template) or the
/// StatefulSet. The endpoint remembers it, since the pod is gone when it counts.
pub const RETAIN: &str = "ipam.spidernet.io/retain";
/// The guard's mode for packets whose address is not the pod's own: `enforce` or `observe`.
pub const GUARD: &str = "holdfast.io/guard";

/// The annotations of one object.
pub type Annotations = BTreeMap<String, String>;

/// An annotation whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// The value has another form than the annotation's.
    #[error("the annotation {annotation} is not {expected}: {why}")]
    Malformed {
        /// The annotation's key.
        annotation: &'static str,
        /// The form that the value should have.
        expected: &'static str,
        /// The parser's error.
        why: String,
    },
    /// A list for the pod's interfaces has no entry for one of them.
    #[error("the annotation {annotation} has no entry for interface {interface}: {why}")]
    NoEntry {
        /// The annotation's key.
        annotation: &'static str,
        /// The interface.
        interface: String,
        /// The entries that the list has.
        why: String,
    },
}

/// Returns the JSON value of an annotation; none where it is absent. `expected` describes its form for the error.
pub fn json<T: DeserializeOwned>(
    annotations: &Annotations,
    annotation: &'static str,
    expected: &'static str,
) -> Result<Option<T>, AnnotationError> {
    let parse = |text: &String| serde_json::from_str(text);
    let value = annotations.get(annotation).map(parse).transpose();
    value.map_err(|error| AnnotationError::Malformed { annotation, expected, why: error.to_string() })
}

/// Returns the time of [`RETAIN`]; none where it is absent.
pub fn retain(annotations: &Annotations) -> Result<Option<Duration>, AnnotationError> {
    let value = annotations.get(RETAIN).map(|text| parse_retain(text)).transpose();
    value.map_err(|error| AnnotationError::Malformed {
        annotation: RETAIN,
        expected: "a time like 24h",
        why: error.to_string(),
    })
}

/// Returns the time of [`RETAIN`]; none where it is absent or malformed, which an ADD refuses.
pub fn retain_of(annotations: &Annotations) -> Option<Duration> {
    retain(annotations).ok().flatten()
}

/// Returns the mode of [`GUARD`]; none where it is absent.
pub fn guard_mode(annotations: &Annotations) -> Result<Option<GuardMode>, AnnotationError> {
    let Some(text) = annotations.get(GUARD) else { return Ok(None) };
    text.parse().map(Some).map_err(|()| AnnotationError::Malformed {
        annotation: GUARD,
        expected: "enforce or observe",
        why: format!("it is {text:?}"),
    })
}

/// Returns the mode of [`GUARD`] on a pod; none where it is absent or malformed, which an ADD refuses.
pub fn guard_mode_of(pod: &Pod) -> Option<GuardMode> {
    guard_mode(pod.annotations()).ok().flatten()
}

/// Returns the routes of [`ROUTES`], each with a network as its destination and an address as its next hop; none where it
/// is absent.
pub fn routes(annotations: &Annotations) -> Result<Vec<Route>, AnnotationError> {
    let expected = r#"a list like [{"dst":"10.0.0.0/8","gw":"172.22.0.9"}]"#;
    let malformed = |why| AnnotationError::Malformed { annotation: ROUTES, expected, why };
    let routes: Vec<Route> = json(annotations, ROUTES, expected)?.unwrap_or_default();
    for route in &routes {
        route.dst.parse::<IpNet>().map_err(|_| malformed(format!("dst {:?} is no network", route.dst)))?;
        route.gw.parse::<IpAddr>().map_err(|_| malformed(format!("gw {:?} is no address", route.gw)))?;
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(annotation: &str, text: &str) -> Annotations {
        [(annotation.to_owned(), text.to_owned())].into()
    }

    #[test]
    fn absent_annotations_have_no_value() {
        let none = Annotations::new();
        assert_eq!((retain(&none), guard_mode(&none), routes(&none)), (Ok(None), Ok(None), Ok(Vec::new())));
        assert_eq!(json::<u8>(&none, IPPOOL, "a number"), Ok(None));
    }

    #[test]
    fn values_are_parsed() {
        assert_eq!(retain(&one(RETAIN, "90s")), Ok(Some(Duration::from_secs(90))));
        assert_eq!(guard_mode(&one(GUARD, "observe")), Ok(Some(GuardMode::Observe)));
        let text = r#"[{"dst":"10.0.0.0/8","gw":"172.22.0.9"},{"dst":"fd00::/8","gw":"fe80::1"}]"#;
        let parsed = routes(&one(ROUTES, text)).unwrap();
        assert_eq!(parsed.iter().map(|route| route.dst.as_str()).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::/8"]);
    }

    #[test]
    fn errors_name_the_annotation_and_its_form() {
        let gateway = r#"[{"dst":"10.0.0.0/8","gw":"router"}]"#;
        let errors = [
            (retain(&one(RETAIN, "soon")).unwrap_err(), [RETAIN, "a time like 24h", "soon"]),
            (guard_mode(&one(GUARD, "off")).unwrap_err(), [GUARD, "enforce or observe", "off"]),
            (routes(&one(ROUTES, "{}")).unwrap_err(), [ROUTES, "a list like", "expected a sequence"]),
            (routes(&one(ROUTES, r#"[{"dst":"10/8","gw":"::1"}]"#)).unwrap_err(), [ROUTES, "no network", "10/8"]),
            (routes(&one(ROUTES, gateway)).unwrap_err(), [ROUTES, "no address", "router"]),
        ];
        for (error, words) in errors {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
        }
    }
}
