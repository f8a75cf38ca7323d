//! One thing that a probe looks at.

use std::sync::Arc;

use futures::future::BoxFuture;

/// Looks at one thing. The error says what is wrong.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A check that answers at once.
pub fn check(look: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Check {
    Arc::new(move || {
        let seen = look();
        Box::pin(async move { seen })
    })
}

/// The checks of each probe.
#[derive(Clone, Default)]
pub struct Probes {
    /// The others are not asked until all of these are fine once.
    pub startup: Vec<Check>,
    /// All fine: the role can do its work.
    pub readiness: Vec<Check>,
    /// One fails: a restart may help.
    pub liveness: Vec<Check>,
}
