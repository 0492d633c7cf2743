//! Leader election by a Lease, after the method of Kubernetes' own components: whoever holds the lease renews it; the
//! others take it when they have seen no renewal for its duration on their *own* clock, so that clocks need not agree.
//!
//! A lease is no fence: a leader that was paused may still act for a moment. What must not be done twice is therefore
//! also guarded where it is done (see [`crate::apply`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::causes::causes;

/// The Lease's name.
const NAME: &str = "peernet-operator";
/// How long a lease lasts without renewal; as in Kubernetes' own components.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long stops acting; as in Kubernetes' own components.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews and the others look; as in Kubernetes' own components.
const PERIOD: Duration = Duration::from_secs(2);

/// Why the lease could not be read or written.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// The API server refused.
    #[error("cannot {what} the lease")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: kube::Error,
    },
}

/// What the lease says, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Who holds it; `None` when it was released.
    pub holder: Option<String>,
    /// When it was last renewed by the holder's clock; only ever compared for equality.
    pub renewed: Option<Timestamp>,
    /// How long it lasts after that.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
}

/// The record that was seen last, and since when it has not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    record: Record,
    since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it, or its holder has not renewed it in time: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides what `me` has to do about the lease, which was just found to say `record` and was last `seen` otherwise.
/// Returns what to remember for the next time.
pub fn evaluate(me: &str, record: Record, seen: Option<&Seen>, now: Instant) -> (Step, Seen) {
    let unchanged = seen.filter(|seen| seen.record == record);
    let since = unchanged.map_or(now, |seen| seen.since);
    let step = match &record.holder {
        Some(holder) if holder == me => Step::Renew,
        None => Step::Take,
        Some(_) if now.duration_since(since) > record.duration => Step::Take,
        Some(_) => Step::Wait,
    };
    (step, Seen { record, since })
}

/// Whether this process leads, for those who act. Ends by itself when it is not renewed in time.
#[derive(Clone, Default)]
pub struct Leading {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Leading {
    /// Whether acting is allowed right now.
    pub fn is_held(&self) -> bool {
        self.deadline().is_some_and(|until| Instant::now() < until)
    }

    /// For tests of those who act: held for as long as any test takes.
    #[cfg(test)]
    pub(crate) fn held() -> Self {
        let leading = Leading::default();
        leading.set(Some(Instant::now() + Duration::from_secs(3_600)));
        leading
    }

    fn deadline(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Takes part in the election.
pub struct Elector {
    api: Api<Lease>,
    me: String,
    seen: Option<Seen>,
    leading: Leading,
}

impl Elector {
    /// A participant called `me`, which has to be unique; the Lease lies in `namespace`.
    pub fn new(client: Client, namespace: &str, me: String) -> Self {
        let api = Api::namespaced(client, namespace);
        Elector {
            api,
            me,
            seen: None,
            leading: Leading::default(),
        }
    }

    /// For those who act.
    pub fn leading(&self) -> Leading {
        self.leading.clone()
    }

    /// Returns once this process leads. API servers that do not answer are tried again for as long as it takes. What was
    /// answered so late that it would have to be renewed already is asked for again.
    pub async fn acquire(&mut self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            match self.step().await {
                Ok(true) if begun.elapsed() < PERIOD => {
                    return self.leading.set(Some(begun + DEADLINE));
                }
                Ok(_) => {}
                Err(error) => warn(&error),
            }
        }
    }

    /// Renews the lease; returns once it is lost.
    pub async fn hold(&mut self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(until) = self.leading.deadline() {
            let renewed = timeout_at(until, async {
                ticks.tick().await;
                let begun = Instant::now();
                (begun, self.step().await)
            });
            match renewed.await {
                Ok((begun, Ok(true))) => self.leading.set(Some(begun + DEADLINE)),
                Ok((_, Ok(false))) | Err(_) => break,
                Ok((_, Err(error))) => warn(&error),
            }
        }
        self.leading.set(None);
    }

    /// Gives the lease back, so that another need not wait for it to run out.
    ///
    /// # Errors
    /// When the API server does not take it; it runs out by itself then.
    pub async fn release(&mut self) -> Result<(), LeaseError> {
        self.leading.set(None);
        let Some(lease) = self.read().await? else {
            return Ok(());
        };
        let record = record(&lease);
        if record.holder.as_deref() == Some(self.me.as_str()) {
            self.write(
                lease,
                Record {
                    holder: None,
                    ..record
                },
            )
            .await?;
        }
        Ok(())
    }

    /// One look at the lease, and what follows from it; true when it is ours.
    async fn step(&mut self) -> Result<bool, LeaseError> {
        let found = self.read().await?;
        let now = Timestamp::now();
        let mine = |transitions| Record {
            holder: Some(self.me.clone()),
            renewed: Some(now),
            duration: DURATION,
            transitions,
        };
        let Some(lease) = found else {
            return self.write(Lease::default(), mine(0)).await;
        };
        let (step, seen) = evaluate(&self.me, record(&lease), self.seen.as_ref(), Instant::now());
        let transitions = seen.record.transitions;
        let next = match step {
            Step::Wait => None,
            Step::Renew => Some(mine(transitions)),
            Step::Take => Some(mine(transitions.saturating_add(1))),
        };
        self.seen = Some(seen);
        match next {
            None => Ok(false),
            Some(next) => self.write(lease, next).await,
        }
    }

    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.api
            .get_opt(NAME)
            .await
            .map_err(|source| LeaseError::Api {
                what: "read",
                source,
            })
    }

    /// Writes unless somebody else has since `lease` was read; false then.
    async fn write(&self, mut lease: Lease, record: Record) -> Result<bool, LeaseError> {
        let Record {
            holder,
            renewed,
            duration,
            transitions,
        } = record;
        let renewed = renewed.map(MicroTime);
        let took = lease
            .spec
            .as_ref()
            .is_none_or(|s| s.holder_identity != holder);
        let acquired = if took {
            renewed.clone()
        } else {
            lease.spec.and_then(|s| s.acquire_time)
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: holder,
            renew_time: renewed,
            acquire_time: acquired,
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let written = if lease.metadata.resource_version.is_some() {
            self.api.replace(NAME, &params, &lease).await
        } else {
            lease.metadata = ObjectMeta {
                name: Some(NAME.into()),
                ..ObjectMeta::default()
            };
            self.api.create(&params, &lease).await
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(source) => Err(LeaseError::Api {
                what: "write",
                source,
            }),
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|time| time.0),
        duration: seconds.map_or(DURATION, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn warn(error: &LeaseError) {
    tracing::warn!(error = causes(error), "the lease is not to be had now");
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;

    use super::*;

    fn held_by(holder: &str, renewed: i64) -> Record {
        Record {
            holder: Some(holder.into()),
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            duration: DURATION,
            transitions: 3,
        }
    }

    #[test]
    fn ours_is_renewed_and_a_released_one_is_taken() {
        let now = Instant::now();
        assert_eq!(evaluate("a", held_by("a", 1), None, now).0, Step::Renew);
        assert_eq!(evaluate("a", Record::default(), None, now).0, Step::Take);
    }

    #[test]
    fn another_holders_is_taken_only_when_it_stood_still_on_our_own_clock() {
        let begun = Instant::now();
        // However old its time looks: the holder's clock may be wrong.
        let (step, seen) = evaluate("a", held_by("b", 1), None, begun);
        assert_eq!(step, Step::Wait);
        let (step, seen) = evaluate("a", held_by("b", 1), Some(&seen), begun + DURATION);
        assert_eq!(step, Step::Wait);
        let later = begun + DURATION + Duration::from_millis(1);
        assert_eq!(
            evaluate("a", held_by("b", 1), Some(&seen), later).0,
            Step::Take
        );
        assert_eq!(
            evaluate("a", held_by("b", 2), Some(&seen), later).0,
            Step::Wait,
            "renewed"
        );
    }

    /// Behind a network that was cut and healed, the first answer may come later than a leader may act on it.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_got_too_late_is_not_acted_on() {
        let late = Arc::new(Mutex::new(Some(DEADLINE * 2)));
        let api = tower::service_fn(move |request: Request<Body>| {
            let late = late.lock().unwrap().take().unwrap_or_default();
            async move {
                tokio::time::sleep(late).await;
                let sent = request.into_body().collect().await?.to_bytes();
                // Whatever is written is taken; the lease that is read is ours.
                let read =
                    r#"{"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "a"}}"#;
                let body = if sent.is_empty() { read.into() } else { sent };
                Ok::<_, kube::Error>(Response::new(Body::from(body)))
            }
        });
        let mut elector = Elector::new(Client::new(api, "ns"), "ns", "a".into());
        elector.acquire().await;
        assert!(elector.leading().is_held());
    }

    #[test]
    fn leading_ends_by_itself() {
        let leading = Leading::default();
        assert!(!leading.is_held());
        leading.set(Some(Instant::now() + DEADLINE));
        assert!(leading.is_held());
        leading.set(Some(Instant::now() - Duration::from_millis(1)));
        assert!(!leading.is_held());
    }
}
