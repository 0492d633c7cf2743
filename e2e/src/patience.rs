//! Waiting for something to become true, for a bounded time.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, anyhow};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at something that cannot be watched.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until `look` succeeds; once `limit` has passed, its last error is returned.
///
/// For what has no watch: the peers' own answers. Objects of the API server are watched instead.
///
/// # Errors
/// The last look's, or that it did not end in time.
pub async fn eventually<T, F>(what: &str, limit: Duration, look: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut last = anyhow!("no answer");
    loop {
        match timeout(deadline - Instant::now().min(deadline), look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(last.context(format!("{what}: not within {} s", limit.as_secs())));
        }
        sleep(PAUSE).await;
    }
}

/// Watches an object until it is as wanted. A watch that a busy API server breaks off begins anew: what an object is now is
/// told first.
///
/// # Errors
/// None.
pub async fn watched<K>(api: Api<K>, name: &str, wanted: impl Condition<K>) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let wanted = |object: Option<&K>| wanted.matches_object(object);
    while let Err(error) = await_condition(api.clone(), name, wanted).await {
        eprintln!("  the watch of {name} begins anew: {error}");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Gives `work` a limit.
///
/// # Errors
/// Its own, or that it took longer.
pub async fn within<T, E>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T>
where
    E: Into<anyhow::Error>,
{
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|e| e.into().context(what.to_owned())),
        Err(_) => Err(anyhow!("{what}: not within {} s", limit.as_secs())),
    }
}
