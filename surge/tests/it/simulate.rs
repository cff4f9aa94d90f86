//! Deterministic simulation of whole sales.

use surge::simulate::{Scale, sales};

#[test]
fn order_places_rate_and_cap_hold_and_most_waits_are_as_predicted() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let report = sales(1..7, threads, Scale::of(8_000), |_, _| ()).unwrap();
    assert_eq!(report.joined, 48_000);
    assert!(report.claims > 30_000, "{report:?}");
    let p90 = report.p90_share();
    assert!(
        (0.80..=0.97).contains(&p90),
        "{p90} of the waits within the p90"
    );
}
