//! Is that what a fair hash does?

/// Values of chi-squared that are exceeded by chance once in a million times, for 1 to 10 degrees of freedom,
/// computed from the distribution (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.6).
const ONE_IN_A_MILLION: [f64; 10] =
    [23.928, 27.631, 30.665, 33.377, 35.888, 38.258, 40.522, 42.701, 44.811, 46.863];

/// Asserts that `seen` is what independent draws with these `shares` give, at the 0.0001 % level: at 0.1 % one of a
/// hundred runs of all tests fails by chance.
///
/// # Panics
/// If it is not.
pub fn assert_fair(seen: &[u64], shares: &[f64]) {
    assert_eq!(seen.len(), shares.len());
    let total = seen.iter().sum::<u64>() as f64;
    let whole: f64 = shares.iter().sum();
    let terms = seen.iter().zip(shares).map(|(seen, share)| {
        let expected = total * share / whole;
        (*seen as f64 - expected).powi(2) / expected
    });
    let chi_squared: f64 = terms.sum();
    let limit = ONE_IN_A_MILLION[seen.len() - 2];
    println!("{seen:?}: chi-squared {chi_squared:.2}, limit {limit}");
    assert!(
        chi_squared < limit,
        "{seen:?} is not spread as {shares:?}: chi-squared {chi_squared:.2} > {limit}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_die_is_fair() {
        assert_fair(&[1_002, 985, 1_013], &[1.0, 1.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "is not spread")]
    fn a_loaded_die_is_not() {
        assert_fair(&[1_150, 925, 925], &[1.0, 1.0, 1.0]);
    }
}
