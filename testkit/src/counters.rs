//! What counters have counted, as a whole: a test says what each of them must have counted, not only those that it thinks of.

use std::collections::BTreeMap;

use reuseport_lb_client::api::{GroupStatus, ServiceStatus};

/// What counts while a worker is stalled: its queue is handed over, and new connections avoid it.
pub const SHUNNED: [&str; 5] =
    ["arrival_packet", "arrival_migration", "owner_taken", "owner_ejected", "detour_candidate"];

/// Counters by name; those that have counted nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    /// Of a group, since it was made.
    #[must_use]
    pub fn of_group(group: &GroupStatus) -> Self {
        Self::sum(group.counters.iter().map(|(name, count)| (&**name, count.cast_signed())))
    }

    /// Of a service over all its groups, since they were made.
    #[must_use]
    pub fn of(service: &ServiceStatus) -> Self {
        let groups = service.groups.iter().map(Self::of_group);
        groups.fold(Self::default(), |sum, group| sum.and(&group))
    }

    /// What all of them counted between two looks at a service.
    #[must_use]
    pub fn difference(before: &ServiceStatus, after: &ServiceStatus) -> Self {
        Self::of(after).less(&Self::of(before))
    }

    /// What these have counted more than others.
    #[must_use]
    pub fn less(self, others: &Self) -> Self {
        let others = others.0.iter().map(|(name, count)| (name.clone(), -count)).collect();
        self.and(&Self(others))
    }

    /// These and nothing else.
    #[must_use]
    pub fn expected(counts: &[(&str, u64)]) -> Self {
        Self::sum(counts.iter().map(|(name, count)| (*name, count.cast_signed())))
    }

    /// So many packets that all went to the owners of their buckets.
    #[must_use]
    pub fn all_taken(packets: u64) -> Self {
        Self::expected(&[("arrival_packet", packets), ("owner_taken", packets)])
    }

    /// Takes those of `names` out, where how they share a sum is a matter of chance; their sum.
    pub fn take(&mut self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.0.remove(*name)).sum::<i64>().cast_unsigned()
    }

    /// How much one of them has counted.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Asserts that those of `must` have counted, those of `may` perhaps, and no others; how often is a matter of
    /// chance, but for the sums.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_only(&self, must: &[&str], may: &[&str]) {
        let has = |name: &&str| self.0.get(*name).is_some_and(|count| *count > 0);
        assert!(must.iter().all(has), "{must:?} have not all counted: {self:?}");
        let known = |name: &&String| must.contains(&name.as_str()) || may.contains(&name.as_str());
        assert!(
            self.0.keys().all(|name| known(&name)),
            "others have counted than {must:?} and {may:?}: {self:?}"
        );
        self.assert_sums();
    }

    /// Asserts the sums of docs/COUNTERS.md, which hold when nothing is being decided.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn assert_sums(&self) {
        let of = |stage: &str| -> i64 {
            self.0.iter().filter(|(name, _)| name.starts_with(stage)).map(|(_, count)| count).sum()
        };
        let one = |name: &str| self.get(name);
        let went_on = of("owner_") - one("owner_taken") - one("owner_kept") - one("owner_directed");
        let sums =
            [(of("arrival_"), of("owner_")), (went_on, of("detour_")), (one("detour_none"), one("refused"))];
        assert!(sums.iter().all(|(one, other)| one == other), "the sums do not hold: {sums:?} of {self:?}");
    }

    fn and(self, other: &Self) -> Self {
        let both = self.0.iter().chain(&other.0);
        Self::sum(both.map(|(name, count)| (&**name, *count)))
    }

    fn sum<'a>(counts: impl Iterator<Item = (&'a str, i64)>) -> Self {
        let mut sums = BTreeMap::new();
        counts.for_each(|(name, count)| *sums.entry(name.to_owned()).or_default() += count);
        sums.retain(|_, count| *count != 0);
        Self(sums)
    }
}
