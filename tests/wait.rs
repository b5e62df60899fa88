//! Waiting for a condition.

use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for something before it gives up: for the slowest machine under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `condition` again and again until it has an answer.
///
/// # Panics
///
/// When it has none for [`PATIENCE`]; then the test has failed, for lack of `what`.
pub async fn wait_for<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    wait_long_for(PATIENCE, what, condition).await
}

/// The same with a patience of its own: for what takes a while where nothing is wrong.
///
/// # Panics
///
/// When there is no answer for so long.
pub async fn wait_long_for<T>(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
