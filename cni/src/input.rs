//! Standard input: the network configuration, or the input of VERSION.

use std::io::{self, Read};

use holdfast_cni::{CniError, CniVersion, code};
use serde::Deserialize;
use serde_json::{Value, json};

/// The size limit of stdin in bytes.
const MAX_LENGTH: u64 = 4 << 20;

/// Reads stdin to its end.
pub(crate) fn read() -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_LENGTH + 1).read_to_end(&mut input);
    read.map_err(|error| CniError::new(code::IO, format!("reading the network configuration from stdin: {error}")))?;
    if input.len() as u64 > MAX_LENGTH {
        let msg = "failed to decode the network configuration: it has more than 4 MiB";
        return Err(CniError::new(code::DECODING, msg));
    }
    Ok(input)
}

/// Decodes stdin as JSON.
pub(crate) fn decode(input: &[u8]) -> Result<Value, CniError> {
    serde_json::from_slice(input).map_err(|error| {
        CniError::new(code::DECODING, "failed to decode the network configuration on stdin").with_details(error)
    })
}

/// Returns the result of VERSION, in the version of the input if it is supported. An old runtime sends no input.
pub(crate) fn versions(input: &[u8]) -> Result<String, CniError> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Version {
        cni_version: String,
    }
    let requested = if input.trim_ascii().is_empty() {
        Version::default()
    } else {
        Version::deserialize(decode(input)?).map_err(|error| {
            CniError::new(code::DECODING, "failed to decode the input of VERSION on stdin").with_details(error)
        })?
    };
    let version = requested.cni_version.parse().unwrap_or(CniVersion::NEWEST);
    let supported = CniVersion::ALL.map(CniVersion::as_str);
    Ok(json!({"cniVersion": version.as_str(), "supportedVersions": supported}).to_string())
}
