//! The pools that a pod asks for. The first source that is present replaces all below it: pod annotation
//! `ippools` > pod annotation `ippool` > namespace annotations > CNI configuration > pools marked `default`.

use holdfast_api::annotations::{self, AnnotationError, Annotations, IPPOOL, IPPOOLS, NAMESPACE_IPV4, NAMESPACE_IPV6};
use holdfast_cni::Ipam;
use holdfast_core::{id::IfName, pool::Family};
use serde::Deserialize;

/// The source of pool names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolSource {
    /// An annotation of the pod, which its author may change on purpose.
    Pod(&'static str),
    /// Annotations of the namespace.
    Namespace,
    /// The CNI configuration.
    CniConf,
    /// No pool is named: those marked `default` are used.
    Default,
}

impl std::fmt::Display for PoolSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(annotation) => write!(f, "pod annotation {annotation}"),
            Self::Namespace => f.write_str("namespace annotation"),
            Self::CniConf => f.write_str("CNI configuration"),
            Self::Default => f.write_str("pools marked default"),
        }
    }
}

/// The pools that a pod's interface may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSelection {
    /// The source of the names.
    pub(crate) source: PoolSource,
    ipv4: Vec<String>,
    ipv6: Vec<String>,
    /// True where the annotation says that the interface gets no default route; none where it does not say.
    pub(crate) clean_gateway: Option<bool>,
}

#[derive(Deserialize)]
struct Entry {
    interface: Option<String>,
    #[serde(default)]
    ipv4: Vec<String>,
    #[serde(default)]
    ipv6: Vec<String>,
    cleangateway: Option<bool>,
}

impl PoolSelection {
    /// Returns the selection for `interface` from the annotations of the pod and its namespace and the CNI configuration.
    pub(crate) fn new(
        pod: &Annotations,
        namespace: &Annotations,
        conf: &Ipam,
        interface: &IfName,
    ) -> Result<Self, AnnotationError> {
        let expected = r#"a list like [{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"]}]"#;
        if let Some(entries) = annotations::json(pod, IPPOOLS, expected)? {
            return Self::from_ippools(entries, interface);
        }
        let expected = r#"an object like {"ipv4":["pool"],"ipv6":["pool"]}"#;
        if let Some(entry) = annotations::json(pod, IPPOOL, expected)? {
            return Ok(Self { clean_gateway: None, ..Self::from_entry(PoolSource::Pod(IPPOOL), entry) });
        }
        let names = |annotation| -> Result<Vec<String>, AnnotationError> {
            let expected = r#"a list like ["pool-a","pool-b"]"#;
            Ok(annotations::json(namespace, annotation, expected)?.unwrap_or_default())
        };
        let (ipv4, ipv6) = (names(NAMESPACE_IPV4)?, names(NAMESPACE_IPV6)?);
        if !ipv4.is_empty() || !ipv6.is_empty() {
            return Ok(Self { source: PoolSource::Namespace, ipv4, ipv6, clean_gateway: None });
        }
        let listed = |pools: &Option<Vec<String>>| pools.clone().unwrap_or_default();
        let (ipv4, ipv6) = (listed(&conf.default_ipv4_ippool), listed(&conf.default_ipv6_ippool));
        let source = if ipv4.is_empty() && ipv6.is_empty() { PoolSource::Default } else { PoolSource::CniConf };
        Ok(Self { source, ipv4, ipv6, clean_gateway: None })
    }

    fn from_ippools(entries: Vec<Entry>, interface: &IfName) -> Result<Self, AnnotationError> {
        let missing =
            |why: String| AnnotationError::NoEntry { annotation: IPPOOLS, interface: interface.to_string(), why };
        let named: Vec<_> = entries.iter().filter_map(|entry| entry.interface.as_deref()).collect();
        if !named.is_empty() && named.len() < entries.len() {
            return Err(missing("the interface has to be named in all entries or in none".to_owned()));
        }
        let position = if named.is_empty() {
            position_of(interface)
        } else {
            named.iter().position(|name| *name == interface.as_str())
        };
        let why = if named.is_empty() {
            format!("it has {} entries", entries.len())
        } else {
            format!("it names {}", named.join(", "))
        };
        let entry = position.and_then(|position| entries.into_iter().nth(position)).ok_or_else(|| missing(why))?;
        Ok(Self::from_entry(PoolSource::Pod(IPPOOLS), entry))
    }

    fn from_entry(source: PoolSource, entry: Entry) -> Self {
        Self { source, ipv4: entry.ipv4, ipv6: entry.ipv6, clean_gateway: entry.cleangateway }
    }

    /// Returns the names for a family, which may contain `*`, `?` and `[]`. Returns none where pools marked `default` are
    /// used, and an empty list where the source names pools of the other family only: this one then has no address.
    pub(crate) fn names(&self, family: Family) -> Option<&[String]> {
        match (self.source, family) {
            (PoolSource::Default, _) => None,
            (_, Family::V4) => Some(&self.ipv4),
            (_, Family::V6) => Some(&self.ipv6),
        }
    }

    /// Returns true where a name or pattern for the family matches `pool`.
    pub(crate) fn allows(&self, family: Family, pool: &str) -> bool {
        let matches = |name: &String| glob::Pattern::new(name).is_ok_and(|pattern| pattern.matches(pool));
        self.names(family).is_some_and(|names| names.iter().any(matches))
    }

    /// Returns true where an annotation of the pod names the pools. A change of them moves even a sticky address.
    pub(crate) fn is_explicit(&self) -> bool {
        matches!(self.source, PoolSource::Pod(_))
    }
}

/// Returns the position of the interface among entries without names. They follow the order of the interfaces: `eth0` is
/// the first, then come `net1`, `net2`, …, as Multus names them.
fn position_of(interface: &IfName) -> Option<usize> {
    match interface.as_str().strip_prefix("net") {
        Some(number) => number.parse().ok(),
        None => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn choose(
        pod: &[(&str, &str)],
        namespace: &[(&str, &str)],
        conf: &Ipam,
        interface: &str,
    ) -> Result<PoolSelection, AnnotationError> {
        PoolSelection::new(&annotations(pod), &annotations(namespace), conf, &interface.parse().unwrap())
    }

    fn conf() -> Ipam {
        Ipam { default_ipv4_ippool: Some(vec!["conf".into()]), ..Ipam::default() }
    }

    #[test]
    fn the_first_source_replaces_all_below_it() {
        let pools = (IPPOOLS, r#"[{"ipv4":["a"],"cleangateway":true}]"#);
        let pool = (IPPOOL, r#"{"ipv4":["b"],"ipv6":["c"]}"#);
        let namespace = [(NAMESPACE_IPV6, r#"["n"]"#)];
        let first = choose(&[pools, pool], &namespace, &conf(), "eth0").unwrap();
        assert_eq!(first.names(Family::V4).unwrap(), ["a"]);
        assert_eq!(first.names(Family::V6).unwrap(), [""; 0]);
        assert_eq!(first.clean_gateway, Some(true));
        let second = choose(&[pool], &namespace, &conf(), "eth0").unwrap();
        assert_eq!(
            (second.names(Family::V4).unwrap()[0].as_str(), second.names(Family::V6).unwrap()[0].as_str()),
            ("b", "c")
        );
        assert!(second.is_explicit());
        let third = choose(&[], &namespace, &conf(), "eth0").unwrap();
        assert_eq!((third.source, third.names(Family::V6).unwrap()[0].as_str()), (PoolSource::Namespace, "n"));
        let fourth = choose(&[], &[], &conf(), "eth0").unwrap();
        assert_eq!((fourth.source, fourth.names(Family::V4).unwrap()[0].as_str()), (PoolSource::CniConf, "conf"));
        let fifth = choose(&[], &[], &Ipam::default(), "eth0").unwrap();
        assert_eq!((fifth.source, fifth.names(Family::V4)), (PoolSource::Default, None));
    }

    #[test]
    fn entries_are_found_by_name_or_by_position() {
        let named = [(IPPOOLS, r#"[{"interface":"net1","ipv4":["b"]},{"interface":"eth0","ipv4":["a"]}]"#)];
        assert_eq!(choose(&named, &[], &conf(), "eth0").unwrap().names(Family::V4).unwrap(), ["a"]);
        let placed = [(IPPOOLS, r#"[{"ipv4":["a"]},{"ipv4":["b"]}]"#)];
        assert_eq!(choose(&placed, &[], &conf(), "net1").unwrap().names(Family::V4).unwrap(), ["b"]);
        for (text, word) in [
            (r#"[{"ipv4":["a"]},{"interface":"net1","ipv4":["b"]}]"#, "in all entries or in none"),
            (r#"[{"interface":"net1","ipv4":["b"]}]"#, "net1"),
            ("[]", "0 entries"),
        ] {
            let error = choose(&[(IPPOOLS, text)], &[], &conf(), "eth0").unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn malformed_annotations_are_named() {
        for (annotation, text) in [(IPPOOLS, "{}"), (IPPOOL, "[]"), (IPPOOL, r#"{"ipv4":"a"}"#), (IPPOOL, "\u{0}")] {
            let error = choose(&[(annotation, text)], &[], &conf(), "eth0").unwrap_err().to_string();
            assert!(error.contains(annotation), "{error}");
        }
        assert!(choose(&[], &[(NAMESPACE_IPV4, "a")], &conf(), "eth0").is_err());
    }
}
