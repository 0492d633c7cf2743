//! Peers on one machine without Kubernetes: what the operator does with pods, done with processes.
//!
//! Each round observes ([`peers`]), plans ([`plan`], pure) and performs. What is decided is written down ([`home`]) before
//! it is acted upon, so that a runner that is killed goes on where it was. A round follows when a process ends, someone
//! asks for another number of peers ([`control`]), or time passes: peers tell nothing unasked.

use std::time::Duration;

use peernet_core::member::Liveness;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::runner::child::{Children, Launch, StartError};
use crate::runner::control::{Ask, Reply};
use crate::runner::home::{Home, HomeError, State};
use crate::runner::peers::Peers;
use crate::runner::plan::{Action, Observed, Plan, Progress, Replacement, plan, zone_name};

pub mod child;
pub mod control;
pub mod home;
pub mod manifest;
pub mod peers;
pub mod plan;
pub mod ports;
mod requests;

/// Pause between two rounds while something is under way: short beside the seconds a join or leave takes.
const BUSY: Duration = Duration::from_millis(300);
/// Pause while all is as wanted; a crash is noticed at once anyway.
const IDLE: Duration = Duration::from_secs(2);

/// Why the runner cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// Its state cannot be written.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A process cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Who is told what happens while the runner runs.
pub trait Audience {
    /// Something happened, in a sentence.
    fn line(&mut self, line: &str);
    /// How far things are, when that changed.
    fn progress(&mut self, progress: &Progress);
}

/// A network on this machine.
#[derive(Debug)]
pub struct Runner {
    home: Home,
    state: State,
    children: Children,
    peers: Peers,
    publish: watch::Sender<Progress>,
    asked: mpsc::Receiver<Ask>,
    /// How long the last round took.
    took: Duration,
    /// How the last replacement ended.
    replacement: Option<Replacement>,
    /// What was seen in the last round.
    seen: Observed,
    /// Requests that were accepted since the last round, with what they are answered.
    accepted: Vec<(Reply, oneshot::Sender<Result<Reply, String>>)>,
}

impl Runner {
    /// Takes up the network that `state` describes. The socket's requests come in through `asked`; `publish` is what its
    /// clients watch.
    pub fn new(
        home: Home,
        state: State,
        launch: Launch,
        publish: watch::Sender<Progress>,
        asked: mpsc::Receiver<Ask>,
    ) -> Self {
        let peers = Peers::new(launch.ports);
        Runner {
            home,
            state,
            children: Children::new(launch),
            peers,
            publish,
            asked,
            took: Duration::ZERO,
            replacement: None,
            seen: Observed::default(),
            accepted: Vec::new(),
        }
    }

    /// The directory and what is written there.
    pub fn state(&self) -> (&Home, &State) {
        (&self.home, &self.state)
    }

    /// The processes.
    pub fn children(&self) -> &Children {
        &self.children
    }

    /// One round: observe, plan, perform; then waits until another is due. Dropping the future between two rounds loses
    /// nothing.
    pub async fn round(&mut self, audience: &mut impl Audience) -> Result<Progress, RunError> {
        let start = Instant::now();
        let decided = self.state.decided();
        // Somebody who is down may leave slots without a majority, and may have to be replaced.
        let away = self
            .seen
            .members
            .values()
            .any(|m| m.liveness == Liveness::Down);
        let reports = away || decided.replacing.is_some();
        let observed = self.peers.observe(&decided, &self.children, reports).await;
        let Plan {
            actions,
            mut progress,
        } = plan(&decided, &observed);
        // How the last one ended stays to be read.
        match &progress.replacement {
            Some(now) => self.replacement = now.over.then(|| now.clone()),
            None => progress.replacement.clone_from(&self.replacement),
        }
        for action in actions {
            self.perform(action, &observed, audience).await?;
        }
        self.tell(progress.clone(), audience);
        self.took = start.elapsed();
        self.seen = observed;
        for (answer, reply) in self.accepted.drain(..) {
            // The client may be gone; what it asked for stands.
            let _ = reply.send(Ok(answer));
        }
        Ok(progress)
    }

    /// Waits until something happens that calls for another round, or its time has come.
    pub async fn rest(
        &mut self,
        progress: &Progress,
        audience: &mut impl Audience,
    ) -> Result<(), RunError> {
        // Never busier asking than resting: on a slow machine the peers need the time.
        let pause = if progress.settled {
            IDLE
        } else {
            BUSY.max(self.took)
        };
        let mut due = Instant::now() + pause;
        if let Some(start) = self.children.next_start() {
            due = due.min(start);
        }
        tokio::select! {
            ended = self.children.next_ended() => {
                if let Some(sentence) = self.children.note(ended) {
                    audience.line(&sentence);
                }
            }
            Some(ask) = self.asked.recv() => self.take(ask, audience).await?,
            () = tokio::time::sleep_until(due) => {}
        }
        Ok(())
    }

    /// Ends all processes gracefully.
    pub async fn stop(mut self) {
        self.children.end_all().await;
    }

    fn tell(&self, progress: Progress, audience: &mut impl Audience) {
        let changed = self.publish.send_if_modified(|old| {
            let changed = *old != progress;
            old.clone_from(&progress);
            changed
        });
        if changed {
            audience.progress(&progress);
        }
    }

    fn save(&mut self, change: impl FnOnce(&mut State)) -> Result<(), HomeError> {
        let mut changed = self.state.clone();
        change(&mut changed);
        self.home.save(&changed)?;
        self.state = changed;
        Ok(())
    }

    async fn perform(
        &mut self,
        action: Action,
        observed: &Observed,
        audience: &mut impl Audience,
    ) -> Result<(), RunError> {
        match action {
            Action::Decide { adopt, founded } => {
                self.save(|s| {
                    (s.network_id, s.founded) = (Some(adopt.unwrap_or_else(uuid)), founded)
                })?;
            }
            Action::Founded => self.save(|s| s.founded = true)?,
            Action::Run(running) => {
                if running < self.state.running {
                    let name = |i| format!("{}-{i}", self.state.name());
                    let gone: Vec<String> = (running..self.state.running).map(name).collect();
                    let gone = gone.join(", ");
                    audience.line(&format!(
                        "{gone} left: the ring has proved that others hold all they held"
                    ));
                }
                self.save(|s| s.running = running)?;
                self.children.end_from(running);
            }
            Action::Start(ordinal) => {
                self.children
                    .start(&self.home, ordinal, self.state.running)?
            }
            Action::Assign {
                ordinal,
                zone,
                position,
                found,
            } => {
                let network = self.state.network_id.clone().unwrap_or_default();
                self.peers
                    .assign(&network, ordinal, zone, position, found)
                    .await;
            }
            Action::Drain {
                peer,
                epoch,
                leaving,
            } => self.peers.drain(observed, peer, epoch, leaving).await,
            Action::Hint(peer) => self.peers.hint(observed, peer).await,
            Action::Wipe(ordinal) if self.children.alive(ordinal) => self.children.end(ordinal),
            Action::Wipe(ordinal) => {
                self.home.wipe(ordinal)?;
                let name = format!("{}-{ordinal}", self.state.name());
                audience.line(&format!(
                    "the ring needs nothing of {name} any more: its volume is removed"
                ));
                self.save(|s| {
                    if let Some(replaced) = &mut s.replacing {
                        replaced.wiped = true;
                    }
                })?;
            }
            Action::EndReplacement => self.save(|s| s.replacing = None)?,
        }
        Ok(())
    }

    /// Where each peer is: name, zone, gRPC, REST, process.
    pub fn places(&self) -> Vec<Vec<String>> {
        let row = |ordinal: u32| {
            let ports = self.children.launch().ports;
            vec![
                format!("{}-{ordinal}", self.state.name()),
                zone_name(ordinal % self.state.zones),
                ports.grpc(ordinal).to_string(),
                format!("http://{}", ports.http(ordinal)),
                self.children
                    .pid(ordinal)
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            ]
        };
        (0..self.state.running).map(row).collect()
    }
}

/// A random (version 4) UUID.
fn uuid() -> String {
    let random = fastrand::u128(..);
    let version = (random & !(0xf << 76)) | (0x4 << 76);
    let variant = (version & !(0x3 << 62)) | (0x2 << 62);
    let hex = format!("{variant:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_random_and_say_so() {
        for _ in 0..100 {
            let uuid = uuid();
            let groups: Vec<&str> = uuid.split('-').collect();
            assert_eq!(
                groups.iter().map(|g| g.len()).collect::<Vec<_>>(),
                [8, 4, 4, 4, 12]
            );
            assert!(
                groups[2].starts_with('4') && groups[3].starts_with(['8', '9', 'a', 'b']),
                "{uuid}"
            );
        }
        assert_ne!(uuid(), uuid());
    }
}
