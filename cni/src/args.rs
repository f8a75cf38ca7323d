//! The pod's identity in `CNI_ARGS`.

use crate::error::{CniError, code};

/// The pod's identity that a Kubernetes container runtime passes in `CNI_ARGS` (`KEY=value;KEY=value`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct K8sArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`; runtimes older than about 2019 do not pass it.
    pub uid: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: Option<String>,
}

impl K8sArgs {
    /// Parses `CNI_ARGS`. As in libcni, an unknown key is an error (code 4) unless `IgnoreUnknown` is true.
    /// The last value of a repeated key wins.
    pub fn parse(args: &str) -> Result<Self, CniError> {
        let mut parsed = Self::default();
        let mut unknown = None;
        let mut ignore_unknown = false;
        for pair in args.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS: {pair:?} is not KEY=value"))
            })?;
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "K8S_POD_NAMESPACE" => parsed.namespace = value,
                "K8S_POD_NAME" => parsed.name = value,
                "K8S_POD_UID" => parsed.uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => parsed.infra_container_id = value,
                "IgnoreUnknown" => ignore_unknown = Self::flag(value.as_deref())?,
                other => unknown = unknown.or_else(|| Some(other.to_owned())),
            }
        }
        match unknown {
            Some(key) if !ignore_unknown => {
                let msg = format!("CNI_ARGS: {key:?} is unknown and IgnoreUnknown is not set");
                Err(CniError::new(code::INVALID_ENVIRONMENT, msg))
            }
            _ => Ok(parsed),
        }
    }

    fn flag(value: Option<&str>) -> Result<bool, CniError> {
        match value.map(str::to_ascii_lowercase).as_deref() {
            Some("1" | "true") => Ok(true),
            None | Some("0" | "false") => Ok(false),
            Some(other) => {
                let msg = format!("CNI_ARGS: IgnoreUnknown={other:?} is none of 0, 1, true, false");
                Err(CniError::new(code::INVALID_ENVIRONMENT, msg))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_containerd_are_parsed() {
        let args = K8sArgs::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=demo-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u;X=y",
        )
        .unwrap();
        assert_eq!(args.namespace.as_deref(), Some("default"));
        assert_eq!(args.name.as_deref(), Some("demo-0"));
        assert_eq!(args.uid.as_deref(), Some("u"));
        assert_eq!(args.infra_container_id.as_deref(), Some("abc"));
        assert_eq!(K8sArgs::parse("").unwrap(), K8sArgs::default());
        assert_eq!(K8sArgs::parse("K8S_POD_UID=").unwrap().uid, None);
    }

    #[test]
    fn ignore_unknown_applies_to_keys_before_it() {
        assert_eq!(K8sArgs::parse("X=y;IgnoreUnknown=true").unwrap(), K8sArgs::default());
        for bad in ["X=y", "IgnoreUnknown=0;X=y", "IgnoreUnknown=maybe", "K8S_POD_NAME"] {
            assert_eq!(K8sArgs::parse(bad).unwrap_err().code, code::INVALID_ENVIRONMENT, "{bad}");
        }
    }
}
