//! Undisturbed from now on, does everything come to rest as it was asked for? That is what shows that a leave goes on
//! after any crash, and that a change of mind restores what was.

use super::copy::FACTOR;
use super::{Action, Leave, State, at};

/// Rounds of everything that may happen; each round decides one configuration at most, and two leaves take eight.
const ROUNDS: usize = 24;

impl Leave {
    /// Lets everything happen, in a fixed order, that does not disturb.
    pub(super) fn comes_to_rest(&self, state: &State) -> bool {
        let mut now = state.clone();
        for _ in 0..ROUNDS {
            if self.is_at_rest(&now) {
                return true;
            }
            let mut actions = Vec::new();
            self.possible(&now, &mut actions);
            // Receipts that are only just given arrive in the next round.
            actions.sort_by_key(|action| matches!(action, Action::Judge));
            for action in actions {
                if !matches!(
                    action,
                    Action::Scale | Action::Crash(_) | Action::Retire(..) | Action::Store(_)
                ) {
                    self.step(&mut now, action);
                }
            }
        }
        self.is_at_rest(&now)
    }

    /// As many pods as wanted, all members, with three copies of everything, and nothing kept elsewhere.
    fn is_at_rest(&self, state: &State) -> bool {
        let wanted = self.wanted(state);
        let config = &state.newest;
        let whole = |id: &peernet_core::member::PeerId| {
            let peer = state.peer(at(*id));
            at(*id) < wanted && state.alive(*id) && peer.copy.has(state.acknowledged)
        };
        let tidy = |pod: u8| {
            let peer = state.peer(pod);
            let frozen = peer.record.as_ref().is_some_and(|r| r.frozen.is_some());
            peer.runs() && !peer.drain.leaving && !frozen
        };
        state.set == wanted
            && config.next.is_none()
            && config.replicas.len() == FACTOR
            && config.replicas.iter().all(whole)
            && (0..wanted).all(tidy)
    }
}
