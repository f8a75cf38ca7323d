//! The static addresses of a StatefulSet's ordinals.

use std::{collections::HashMap, net::IpAddr};

use holdfast_api::{
    annotations::{self, AnnotationError, Annotations, STATIC_IPS},
    owner::Owner,
};
use holdfast_core::id::{PodName, ordinal};

/// Returns the static addresses of `pod`'s ordinal; none where the annotation is absent. An ordinal without an entry is an
/// error: a set with static addresses gets no others.
pub(crate) fn addresses(
    annotations: &Annotations,
    pod: &PodName,
    owner: &Owner,
) -> Result<Vec<IpAddr>, AnnotationError> {
    let expected = r#"an object like {"0":["10.0.0.10"],"1":["10.0.0.11"]}"#;
    let malformed = |why: String| AnnotationError::Malformed { annotation: STATIC_IPS, expected, why };
    let by_ordinal: Option<HashMap<String, Vec<String>>> = annotations::json(annotations, STATIC_IPS, expected)?;
    let Some(by_ordinal) = by_ordinal else { return Ok(Vec::new()) };
    let ordinal = ordinal(&pod.name, &owner.name).filter(|_| owner.is_stateful_set());
    let ordinal = ordinal.ok_or_else(|| malformed("only the pods of a StatefulSet have ordinals".to_owned()))?;
    let listed = by_ordinal.get(&ordinal.to_string());
    let listed = listed.ok_or_else(|| malformed(format!("it has no entry for ordinal {ordinal}")))?;
    let parse = |text: &String| text.parse().map_err(|_| malformed(format!("{text:?} is no address")));
    listed.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, kind: &str) -> Result<Vec<IpAddr>, String> {
        let annotations = [(STATIC_IPS.to_owned(), text.to_owned())].into();
        let owner = Owner { kind: kind.to_owned(), name: "web".to_owned(), uid: None };
        addresses(&annotations, &PodName::new("d", "web-1"), &owner).map_err(|error| error.to_string())
    }

    #[test]
    fn an_ordinal_has_its_addresses() {
        let text = r#"{"0":["10.0.0.10"],"1":["10.0.0.11","fd00::11"]}"#;
        let expected: [IpAddr; 2] = ["10.0.0.11".parse().unwrap(), "fd00::11".parse().unwrap()];
        assert_eq!(ask(text, "StatefulSet").unwrap(), expected);
        let owner = Owner { kind: "StatefulSet".to_owned(), name: "web".to_owned(), uid: None };
        assert_eq!(addresses(&Annotations::new(), &PodName::new("d", "web-1"), &owner), Ok(Vec::new()));
    }

    #[test]
    fn errors_name_the_invalid_entry() {
        for (text, kind, word) in [
            (r#"{"0":["10.0.0.10"]}"#, "StatefulSet", "no entry for ordinal 1"),
            (r#"{"1":["10.0.0"]}"#, "StatefulSet", "\"10.0.0\" is no address"),
            (r#"{"1":["10.0.0.1"]}"#, "Deployment", "only the pods of a StatefulSet"),
            ("[]", "StatefulSet", STATIC_IPS),
        ] {
            let error = ask(text, kind).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
