//! What counters have counted, as a whole: a test says what each of them must have counted, not only those that it thinks of.

use std::collections::BTreeMap;

use reuseport_lb_client::api::{GroupStatus, ServiceStatus};

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
        let before = Self::of(before).0.into_iter().map(|(name, count)| (name, -count)).collect();
        Self::of(after).and(&Self(before))
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
