//! The guard's mode, which the configuration and pods ask for.

use serde::Deserialize;

/// The fate of a packet whose address is not its link's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardMode {
    /// It is dropped.
    #[default]
    Enforce,
    /// It passes; the agent hears of it all the same. Addresses that have moved on are dropped in this mode too.
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
