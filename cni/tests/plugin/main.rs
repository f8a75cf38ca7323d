//! The plugin as a runtime runs it: a process, an environment, a configuration on stdin; with an agent that answers
//! what the test wants. No root, no network.

mod fake;
mod hostile;
mod verbs;
