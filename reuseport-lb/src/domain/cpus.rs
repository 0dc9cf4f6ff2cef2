//! Which worker has what a CPU receives (`affinity = "cpu"`), PURE: CPUs and workers → slots. Not: which CPU a worker runs
//! on (`cpus = "each"`, `kernel/attributes.rs`).

use reuseport_lb_common::load::CPUS;
use reuseport_lb_common::slots::NO_SLOT;

use super::number::Number;

/// The workers that CPUs are shared among.
pub struct CpuShares<'a> {
    /// Numbers of the CPUs that workers run on, in ascending order.
    cpus: &'a [usize],
    /// The workers in the order of their numbers, each with its slot, or [`NO_SLOT`] while it takes nothing.
    workers: &'a [(Number, u16)],
}

impl<'a> CpuShares<'a> {
    /// Shares among `workers`, in the order of their numbers, what comes by any CPU, when they run on `cpus`.
    #[must_use]
    pub fn new(cpus: &'a [usize], workers: &'a [(Number, u16)]) -> Self {
        Self { cpus, workers }
    }

    /// The slot of each CPU. The N-th of those that workers run on is that of worker N, as with `cpus = "each"`. Without
    /// such a worker it is that of the next one that has no CPU, or else, and where a process has several sockets, that of
    /// the N-th one, counted around. What comes by a CPU on which no worker runs is the next higher one's.
    #[must_use]
    pub fn slots(&self) -> Vec<u16> {
        let places = self.places();
        let of = |cpu: usize| {
            let nth = self.cpus.partition_point(|own| *own < cpu).checked_rem(places.len())?;
            Some(self.workers[places[nth]].1)
        };
        (0..CPUS).map(|cpu| of(cpu).unwrap_or(NO_SLOT)).collect()
    }

    /// The workers that no CPU has: they get only what those of CPUs cannot take.
    #[must_use]
    pub fn left_out(&self) -> Vec<Number> {
        let places = self.places();
        let left = (0..self.workers.len()).filter(|at| !places.contains(at));
        left.map(|at| self.workers[at].0).collect()
    }

    /// The places in `workers` of those that have the CPUs, in the order of these.
    fn places(&self) -> Vec<usize> {
        if self.workers.is_empty() {
            return Vec::new();
        }
        let cpus = self.cpus.len().max(1);
        let alone = self.workers.iter().all(|(number, _)| number.part == 0);
        let numbered = |nth: usize| self.workers.binary_search_by_key(&nth, |(number, _)| number.worker).ok();
        let mut others = (0..self.workers.len()).filter(|at| self.workers[*at].0.worker >= cpus);
        let place = |nth: usize| {
            let own = if alone { numbered(nth).or_else(|| others.next()) } else { None };
            own.unwrap_or(nth % self.workers.len())
        };
        (0..cpus).map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(numbers: &[&str]) -> Vec<(Number, u16)> {
        (10..).zip(numbers).map(|(slot, number)| (number.parse().unwrap(), slot)).collect()
    }

    fn first(cpus: &[usize], numbers: &[&str], count: usize) -> Vec<u16> {
        let workers = workers(numbers);
        let slots = CpuShares::new(cpus, &workers).slots();
        assert_eq!(slots.len(), CPUS);
        slots[..count].to_vec()
    }

    #[test]
    fn worker_n_has_the_nth_cpu_counted_around() {
        let four = [0, 1, 2, 3];
        assert_eq!(first(&four, &["0", "1", "2", "3"], 4), [10, 11, 12, 13]);
        assert_eq!(
            first(&four, &["0", "1"], 6),
            [10, 11, 10, 11, 10, 10],
            "CPUs 4 and 5 are not the workers'"
        );
        // Of one that has left, the CPU is another one's, and the others keep theirs.
        assert_eq!(first(&four, &["0", "2", "3"], 4), [10, 11, 11, 12]);
        // Of two that are left, each has one of two CPUs.
        assert_eq!(first(&[0, 1], &["1", "2"], 2), [11, 10]);
        assert_eq!(first(&[4, 5, 8], &["0", "1", "2"], 9), [10, 10, 10, 10, 10, 11, 12, 12, 12]);
        assert_eq!(first(&four, &[], 2), [NO_SLOT; 2]);
        assert_eq!(first(&[], &["0"], 2), [10; 2]);
    }

    #[test]
    fn sockets_of_one_process_are_counted_one_by_one() {
        assert_eq!(first(&[0, 1, 2, 3], &["0", "0.1", "1", "1.1"], 4), [10, 11, 12, 13]);
    }

    #[test]
    fn with_fewer_cpus_than_workers_some_are_left_out() {
        let workers = workers(&["0", "1", "2", "3", "7"]);
        let left = |cpus: &[usize]| -> Vec<String> {
            CpuShares::new(cpus, &workers).left_out().iter().map(Number::to_string).collect()
        };
        assert_eq!(left(&[0, 1]), ["2", "3", "7"]);
        // There is no worker 4, so the fifth CPU is worker 7's.
        assert_eq!(left(&[0, 1, 2, 3, 4]), [""; 0]);
    }
}
