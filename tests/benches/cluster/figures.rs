//! Distributions, and how they are printed.

use std::time::Duration;

/// The values of a repeated measurement, and the name that they are printed with.
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

    /// Returns the given percentile.
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

    /// Prints it with its share of the budgets.
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
