//! The guard's mode, set by the configuration and by pods.

use serde::Deserialize;

/// The fate of a packet whose address is not its link's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardMode {
    /// The packet is dropped.
    #[default]
    Enforce,
    /// The packet passes and is reported. Packets from an address that has a newer holder are dropped in this mode, too.
    Observe,
}

impl std::str::FromStr for GuardMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "observe" => Ok(Self::Observe),
            _ => Err(()),
        }
    }
}
