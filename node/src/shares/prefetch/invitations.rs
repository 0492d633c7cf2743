//! Having other peers fetch a content: each is asked until it has begun, whether or not anybody listens.
//!
//! A peer can begin when it finds a provider, so the first questions may be too early, and a peer may be away for a moment.
//! Once it has begun it goes on by itself; it is asked further only for those who listen. There is one round of questions for
//! a content however many ask for it: whoever comes later adds peers to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use peernet_core::key::Key;
use peernet_core::member::{Liveness, Member, PeerId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::super::ShareError;

/// How often each peer is asked how far it is.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A peer that brings nothing for so long has failed (guess: longer than one may wait for its turn).
pub(super) const GIVE_UP: Duration = Duration::from_secs(120);
/// Peers asked at once for a content (guess: those that do not answer hold up few others).
const AT_ONCE: usize = 16;
/// Contents that others are asked to fetch at once (guess: as many as may be on their way here).
const INVITATIONS: usize = 64;

/// Those who are asked, and how far they are.
pub(super) type Guests = BTreeMap<PeerId, Guest>;

/// A peer that is asked to fetch a content.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    /// Bytes that it lacks.
    pub(super) missing: u64,
    /// Why it is not asked any more.
    pub(super) failure: Option<String>,
    /// It has said that it fetches.
    begun: bool,
    /// When it was asked first, or had got further.
    since: Instant,
}

impl Guest {
    fn new(name: String, missing: u64) -> Self {
        Guest {
            name,
            missing,
            failure: None,
            begun: false,
            since: Instant::now(),
        }
    }

    /// Nothing is left to ask.
    fn is_over(&self) -> bool {
        self.missing == 0 || self.failure.is_some()
    }

    /// It says how much it lacks, or why it does not fetch now.
    fn hear(&mut self, answer: Result<u64, String>) {
        self.begun |= answer.is_ok();
        match answer {
            Ok(left) if left < self.missing => (self.missing, self.since) = (left, Instant::now()),
            _ if self.since.elapsed() <= GIVE_UP => {}
            Ok(_) => self.failure = Some("nothing comes".into()),
            Err(reason) => self.failure = Some(reason),
        }
    }
}

/// Which `count` of them are asked: the same ones each time as long as they answer, so that a content that is asked for once more
/// is not brought onto others (rendezvous hashing; Thaler and Ravishankar).
pub(super) fn choose(mut members: Vec<Member>, content: Key, count: usize) -> Vec<Member> {
    let weight = |m: &Member| Key::of_bytes(&[&content.0[..], &m.id.0.to_be_bytes()].concat());
    members.sort_by_cached_key(|m| (m.liveness != Liveness::Active, weight(m)));
    members.truncate(count);
    members
}

/// The contents that others are asked to fetch.
#[derive(Default)]
pub(in crate::shares) struct Invitations {
    under_way: Mutex<HashMap<Key, Invitation>>,
}

struct Invitation {
    /// Of the task.
    number: u64,
    guests: Arc<watch::Sender<Guests>>,
    _task: AbortOnDropHandle<()>,
}

impl Invitations {
    /// Has these asked to fetch a content of `size` bytes, by who asks others already, or else anew. Returns how far all are that
    /// are asked; it ends when the content is given up.
    pub(super) fn invite<A>(
        self: &Arc<Self>,
        content: Key,
        size: u64,
        members: &[Member],
        ask: impl Fn(PeerId) -> A + Send + Sync + 'static,
    ) -> Result<watch::Receiver<Guests>, ShareError>
    where
        A: Future<Output = Result<u64, String>> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(known) = under_way.get(&content) {
            known
                .guests
                .send_modify(|guests| add(guests, members, size));
            return Ok(known.guests.subscribe());
        }
        if under_way.len() >= INVITATIONS {
            return Err(ShareError::Busy);
        }
        let mut guests = Guests::new();
        add(&mut guests, members, size);
        let (guests, told) = watch::channel(guests);
        let (guests, number) = (Arc::new(guests), fastrand::u64(..));
        let work = self.clone().ask_all(content, number, guests.clone(), ask);
        let invitation = Invitation {
            number,
            guests,
            _task: AbortOnDropHandle::new(tokio::spawn(work)),
        };
        under_way.insert(content, invitation);
        Ok(told)
    }

    /// Nobody is asked any more.
    pub(in crate::shares) fn end(&self, content: Key) {
        let ended = self.lock().remove(&content);
        drop(ended);
    }

    async fn ask_all<A>(
        self: Arc<Self>,
        content: Key,
        number: u64,
        guests: Arc<watch::Sender<Guests>>,
        ask: impl Fn(PeerId) -> A + Send + Sync,
    ) where
        A: Future<Output = Result<u64, String>> + Send,
    {
        loop {
            let open: Vec<PeerId> = {
                let guests = guests.borrow();
                let open = guests.iter().filter(|(_, guest)| !guest.is_over());
                open.map(|(id, _)| *id).collect()
            };
            let asked = open.into_iter().map(|id| {
                let answer = ask(id);
                async move { (id, answer.await) }
            });
            let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
            while let Some((id, answer)) = answers.next().await {
                guests.send_modify(|guests| {
                    if let Some(guest) = guests.get_mut(&id) {
                        guest.hear(answer);
                    }
                });
            }
            if self.is_over(content, number) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether nobody is left to be asked; it is forgotten then, so that whoever comes now begins anew.
    fn is_over(&self, content: Key, number: u64) -> bool {
        let mut under_way = self.lock();
        let known = under_way.get(&content);
        let Some(known) = known.filter(|known| known.number == number) else {
            return true;
        };
        let listens = known.guests.receiver_count() > 0;
        let wanted = |guest: &Guest| !guest.is_over() && (listens || !guest.begun);
        if known.guests.borrow().values().any(wanted) {
            return false;
        }
        under_way.remove(&content);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Invitation>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has failed is asked again.
fn add(guests: &mut Guests, members: &[Member], size: u64) {
    for Member { id, name, .. } in members {
        if guests.get(id).is_none_or(|guest| guest.failure.is_some()) {
            guests.insert(*id, Guest::new(name.clone(), size));
        }
    }
}

#[cfg(test)]
mod tests;
