//! The CRD manifests of the kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::{claim::IPClaim, endpoint::SpiderEndpoint, ippool::SpiderIPPool, reserved::SpiderReservedIP};

/// Returns all definitions, as the chart has them.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![SpiderIPPool::crd(), endpoint(), SpiderReservedIP::crd(), IPClaim::crd()];
    for version in all.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            keep_boolean_defaults(schema);
        }
    }
    all
}

/// Removes the defaults that serde fills in for absent fields, so that the API server does not write them into users'
/// objects. The booleans `default` and `disable` of a pool are worth showing.
fn keep_boolean_defaults(schema: &mut JSONSchemaProps) {
    if schema.type_.as_deref() != Some("boolean") {
        schema.default = None;
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(keep_boolean_defaults);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        keep_boolean_defaults(items);
    }
}

/// Returns the manifests' file names and contents.
pub fn manifests() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
    let manifest = |definition: CustomResourceDefinition| {
        let text = serde_yaml_ng::to_string(&definition)?;
        let text = format!("# Written by `cargo xtask crdgen` from the Rust types in agent/api.\n{text}");
        Ok((format!("{}.yaml", definition.spec.names.plural), text))
    };
    all().into_iter().map(manifest).collect()
}

/// Returns the definition of `SpiderEndpoint` without a status subresource: its status is written with a plain update, as
/// Spiderpool's is.
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
    fn manifests_use_only_what_api_servers_1_20_have() {
        for (name, text) in manifests().unwrap() {
            for newer in ["x-kubernetes-validations", "selectableFields"] {
                assert!(!text.contains(newer), "{name} has {newer}");
            }
        }
    }
}
