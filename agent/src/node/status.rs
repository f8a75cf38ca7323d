//! STATUS: whether an ADD would work now.

use holdfast_cni::{CniError, Invocation, code};
use tokio::time::{Instant, timeout_at};

use super::attachments::Attachments;

impl Attachments {
    /// Returns an error if the API server does not answer.
    pub async fn status(&self, _invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let why = match timeout_at(deadline, self.backends.records.ping_api_server()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        Err(CniError::new(code::NOT_AVAILABLE, format!("the agent cannot work with the API server: {why}")))
    }
}
