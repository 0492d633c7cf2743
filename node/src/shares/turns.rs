//! Turns at this peer: how many pieces it sends at a time, and to whom (`peernet_core::swarm::uploads`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peernet_core::member::PeerId;
use peernet_core::swarm::uploads::{Admission, TurnId, Uploads};
use tokio::sync::oneshot;

/// All turns of this peer.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    uploads: Uploads,
    waiting: HashMap<TurnId, oneshot::Sender<()>>,
}

/// A turn, now or later; over when dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    id: TurnId,
    comes: Option<oneshot::Receiver<()>>,
}

impl Turns {
    /// A fetcher asks for a turn. `None`: too many wait.
    pub(crate) fn ask(self: &Arc<Self>, fetcher: PeerId) -> Option<Turn> {
        let mut state = self.lock();
        let (id, comes) = match state.uploads.ask(fetcher) {
            Admission::Now(id) => (id, None),
            Admission::Waits(id) => {
                let (tell, comes) = oneshot::channel();
                state.waiting.insert(id, tell);
                (id, Some(comes))
            }
            Admission::ComeBack => return None,
        };
        let turns = self.clone();
        Some(Turn { turns, id, comes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until it comes.
    pub(crate) async fn comes(&mut self) {
        if let Some(comes) = &mut self.comes {
            // The sender is kept until it comes or this is dropped.
            let _ = comes.await;
        }
        self.comes = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.waiting.remove(&self.id);
        // Whoever does not hear it any more is about to be dropped, and passes it on.
        if let Some(next) = state.uploads.end(self.id)
            && let Some(tell) = state.waiting.remove(&next)
        {
            let _ = tell.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use peernet_core::swarm::SLOTS;

    use super::*;

    #[test]
    fn a_turn_passes_to_the_next_even_past_one_who_hung_up() {
        let turns = Arc::new(Turns::default());
        let ask = |who| turns.ask(PeerId(who)).expect("room");
        let mut active: Vec<Turn> = (0..SLOTS).map(|n| ask(n as u128)).collect();
        let (gone, mut first, mut last) = (ask(100), ask(101), ask(102));
        assert!(first.comes().now_or_never().is_none());
        drop(gone);
        active.pop();
        assert!(first.comes().now_or_never().is_some());
        assert!(last.comes().now_or_never().is_none());
        // Told that it is its turn, but not listening any more.
        drop(first);
        assert!(last.comes().now_or_never().is_some());
        drop((active, last));
        assert_eq!(turns.lock().waiting.len(), 0);
    }
}
