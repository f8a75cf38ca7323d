//! The manifests of the kinds, for API servers 1.20 and newer.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::{claim::IPClaim, endpoint::SpiderEndpoint, ippool::SpiderIPPool, reserved::SpiderReservedIP};

/// All definitions, as they stand in the chart.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![SpiderIPPool::crd(), endpoint(), SpiderReservedIP::crd(), IPClaim::crd()];
    for version in all.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            keep_boolean_defaults(schema);
        }
    }
    all
}

/// What serde fills in for absent fields is nobody's wish, so it is not written into users' objects; and API server 1.20
/// takes the default `""` for null. That a pool is not `default` and not disabled is worth showing.
fn keep_boolean_defaults(schema: &mut JSONSchemaProps) {
    if schema.type_.as_deref() != Some("boolean") {
        schema.default = None;
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(keep_boolean_defaults);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        keep_boolean_defaults(items);
    }
}

/// The manifests' file names and contents.
pub fn manifests() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
    let manifest = |definition: CustomResourceDefinition| {
        let text = serde_yaml_ng::to_string(&definition)?;
        let text = format!("# Written by `cargo xtask crdgen` from the Rust types in agent/api.\n{text}");
        Ok((format!("{}.yaml", definition.spec.names.plural), text))
    };
    all().into_iter().map(manifest).collect()
}

/// An endpoint's status is written with a plain update, as Spiderpool's is: it has no status subresource.
fn endpoint() -> CustomResourceDefinition {
    let mut definition = SpiderEndpoint::crd();
    for version in &mut definition.spec.versions {
        version.subresources = None;
    }
    definition
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_chart_has_the_manifests_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/holdfast/crds");
        for (name, text) in manifests().unwrap() {
            let there = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert_eq!(there, text, "{name} is out of date: run `cargo xtask crdgen`");
        }
    }

    #[test]
    fn nothing_is_needed_that_api_servers_1_20_do_not_have() {
        for (name, text) in manifests().unwrap() {
            for newer in ["x-kubernetes-validations", "selectableFields"] {
                assert!(!text.contains(newer), "{name} has {newer}");
            }
        }
    }
}
