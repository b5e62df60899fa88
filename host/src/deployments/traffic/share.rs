//! Shares by numbers of replicas: a Service leads to each of its pods alike.

/// Most replicas that follow from a share: more than that is said in so many words.
const MOST: i64 = 100;

/// How many replicas beside `others` take the share of requests that is nearest to `percent` (1 to 100): at
/// least one, and the fewer of two that are as near. None if that would be more than 100: 100 % takes an app
/// that nobody else answers for.
pub fn replicas_for(percent: i32, others: i32) -> Option<i32> {
    let (percent, others) = (i64::from(percent), i64::from(others.max(0)));
    if others == 0 {
        return Some(1);
    }
    if percent >= 100 {
        return None;
    }
    // own / (own + others) = percent / 100
    let fewer = (others * percent / (100 - percent)).max(1);
    let more = fewer + 1;
    // How far off it is, in hundredths of a request times all replicas.
    let off = |own: i64| (100 * own - percent * (own + others)).abs();
    let own = match off(more) * (fewer + others) < off(fewer) * (more + others) {
        true => more,
        false => fewer,
    };
    (own <= MOST).then_some(own as i32)
}

/// The share of `own` in `all`, in percent with one decimal; 0 of nothing.
pub fn percent(own: i32, all: i32) -> f64 {
    if all <= 0 {
        return 0.0;
    }
    (1000.0 * f64::from(own) / f64::from(all)).round() / 10.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_become_replicas() {
        for (share, others, replicas) in [
            (10, 9, Some(1)),
            (10, 3, Some(1)),
            (25, 3, Some(1)),
            (50, 3, Some(3)),
            (40, 3, Some(2)),
            (90, 3, Some(27)),
            (1, 1, Some(1)),
            (10, 0, Some(1)),
            (100, 0, Some(1)),
            (100, 1, None),
            (99, 1, Some(99)),
            (99, 2, None),
        ] {
            assert_eq!(replicas_for(share, others), replicas, "{share} % beside {others}");
        }
        assert_eq!(percent(1, 4), 25.0);
        assert_eq!(percent(1, 3), 33.3);
        assert_eq!(percent(0, 0), 0.0);
    }

    proptest! {
        /// No other number of replicas comes nearer, and none that comes as near is smaller.
        #[test]
        fn nothing_comes_nearer(share in 1..=99_i32, others in 1..=1_000_i32) {
            let distance = |own: i64| {
                // Exact: a fraction with the denominator beside it.
                let all = own + i64::from(others);
                ((100 * own - i64::from(share) * all).abs(), all)
            };
            let nearer = |a: i64, b: i64| {
                let ((off_a, all_a), (off_b, all_b)) = (distance(a), distance(b));
                off_a * all_b < off_b * all_a
            };
            let exact = i64::from(others) * i64::from(share) / i64::from(100 - share);
            match replicas_for(share, others) {
                Some(own) => {
                    let own = i64::from(own);
                    prop_assert!((1..=MOST).contains(&own));
                    for other in 1..=2 * MOST + 2 {
                        prop_assert!(!nearer(other, own), "{other} is nearer than {own}");
                        prop_assert!(other >= own || nearer(own, other), "{other} is as near");
                    }
                }
                None => prop_assert!(exact >= MOST, "{exact} replicas are not too many"),
            }
        }

        /// A greater share never takes fewer replicas, nor do more of the others.
        #[test]
        fn more_takes_no_less(share in 1..=98_i32, others in 1..=999_i32) {
            let most = |replicas: Option<i32>| replicas.unwrap_or(i32::MAX);
            let own = most(replicas_for(share, others));
            prop_assert!(most(replicas_for(share + 1, others)) >= own);
            prop_assert!(most(replicas_for(share, others + 1)) >= own);
        }

        /// Where the share can be had exactly, it is.
        #[test]
        fn what_is_exact_stays_so(share in 1..=99_i32, times in 1..=100_i32) {
            let common = (1..=share).rev().find(|by| share % by == 0 && 100 % by == 0).unwrap_or(1);
            let (own, others) = (share / common * times, (100 - share) / common * times);
            let wanted = (i64::from(own) <= MOST).then_some(own);
            prop_assert_eq!(replicas_for(share, others), wanted);
        }

        /// Shares of all together are the whole, within what rounding takes.
        #[test]
        fn shares_add_up(parts in proptest::collection::vec(0..=1_000_i32, 1..5)) {
            let all: i32 = parts.iter().sum();
            let sum: f64 = parts.iter().map(|part| percent(*part, all)).sum();
            prop_assert!(all == 0 || (sum - 100.0).abs() < 0.3, "{sum}");
        }
    }
}
