//! Distributions, and how they are printed.

use std::time::Duration;

/// What was measured again and again, by the name that it is printed with.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    what: &'static str,
    values: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, values: Vec::new() }
    }

    pub(crate) fn add(&mut self, value: Duration) {
        self.values.push(value);
    }

    /// The value that so many percent are not above.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or_default()
    }

    /// Prints the distribution.
    pub(crate) fn print(&self) {
        println!("{}", self.line());
    }

    /// Prints it with its part of what is allowed.
    pub(crate) fn print_beside(&self, budgets: &[(usize, Duration)]) {
        let part = |(percent, budget): &(usize, Duration)| {
            let part = self.at(*percent).as_secs_f64() / budget.as_secs_f64();
            format!("p{percent} {part:.2} of {budget:?}")
        };
        println!("{}   {}", self.line(), budgets.iter().map(part).collect::<Vec<_>>().join(", "));
    }

    fn line(&self) -> String {
        let [low, middle, high, last] = [0, 50, 99, 100].map(|percent| self.at(percent));
        let what = self.what;
        format!("{what:42} min {low:>8.1?}  p50 {middle:>8.1?}  p99 {high:>8.1?}  max {last:>8.1?}")
    }
}
