//! What holds at any time, whatever has been killed.

use eve_tests::Platform;
use eve_tests::invariants::{ALWAYS, Broken, PLANS, Rule, SETTLED, broken};

/// Checks, in one snapshot, what no crash may break.
pub async fn hold(platform: &Platform) {
    check(platform, ALWAYS).await;
}

/// Checks besides what holds once nothing is left to do.
pub async fn settled(platform: &Platform) {
    hold(platform).await;
    check(platform, SETTLED).await;
    check(platform, PLANS).await;
}

async fn check(platform: &Platform, rules: &[Rule]) {
    let broken = broken(platform.pool(), rules).await.expect("the invariants can be checked");
    let broken: Vec<String> = broken.iter().map(Broken::to_string).collect();
    assert!(broken.is_empty(), "broken:\n{}", broken.join("\n"));
}
