//! Peers on one machine without Kubernetes: what the operator does with pods, done with processes.
//!
//! Each round observes ([`peers`]), plans ([`plan`], pure) and performs. What is decided is written down ([`home`]) before
//! it is acted upon, so that a runner that is killed goes on where it was. A round follows when a process ends, someone
//! asks for another number of peers ([`control`]), or time passes: peers tell nothing unasked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use peernet_core::member::{Liveness, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::runner::child::{Children, Launch};
use crate::runner::control::{Ask, Reply};
use crate::runner::home::{Home, HomeError, State};
use crate::runner::peers::Peers;
use crate::runner::plan::{Action, Observed, Plan, Progress, Replacement, plan, zone_name};
use crate::runner::setback::Setback;

pub mod child;
pub mod control;
pub mod home;
pub mod manifest;
pub mod peers;
pub mod plan;
pub mod ports;
mod requests;
mod setback;

/// Pause between two rounds while something is under way: short beside the seconds a join or leave takes.
const BUSY: Duration = Duration::from_millis(300);
/// Pause while all is as wanted; a crash is noticed at once anyway.
const IDLE: Duration = Duration::from_secs(2);

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
    /// What could not be written down, or set aside.
    setbacks: BTreeMap<Place, Setback>,
    /// Whom the last recovery gave up.
    given_up: BTreeSet<PeerId>,
    /// Why a process could not be started, when it was tried last.
    unstarted: BTreeMap<u32, String>,
    /// Volumes that nobody needs any more, on their way out.
    removals: JoinSet<Result<(), (PathBuf, io::Error)>>,
}

/// What may refuse the runner something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// The state file.
    State,
    /// The volume of a peer that is replaced.
    Volume,
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
        let mut removals = JoinSet::new();
        for path in home.set_aside_before() {
            remove(&mut removals, path);
        }
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
            setbacks: BTreeMap::new(),
            given_up: BTreeSet::new(),
            unstarted: BTreeMap::new(),
            removals,
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

    /// Why the process of that number could not be started, if that is so.
    pub fn unstarted(&self, ordinal: u32) -> Option<&str> {
        self.unstarted.get(&ordinal).map(String::as_str)
    }

    /// One round: observe, plan, perform; then waits until another is due. Dropping the future between two rounds loses
    /// nothing.
    pub async fn round(&mut self, audience: &mut impl Audience) -> Progress {
        let start = Instant::now();
        let decided = self.state.decided();
        // Somebody who is down may leave slots without a majority, and may have to be replaced.
        let away = self
            .seen
            .members
            .values()
            .any(|m| m.liveness == Liveness::Down);
        // Nor is a process that tells nothing of itself ended before all others say that they do not know it.
        let leaving = decided.running > decided.wanted;
        let reports = away || leaving || decided.replacing.is_some();
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
            self.perform(action, &observed, audience).await;
        }
        self.tell(progress.clone(), audience);
        self.took = start.elapsed();
        self.seen = observed;
        for (answer, reply) in self.accepted.drain(..) {
            // The client may be gone; what it asked for stands.
            let _ = reply.send(Ok(answer));
        }
        progress
    }

    /// Waits until something happens that calls for another round, or its time has come.
    pub async fn rest(&mut self, progress: &Progress, audience: &mut impl Audience) {
        // Never busier asking than resting: on a slow machine the peers need the time.
        let pause = if progress.settled {
            IDLE
        } else {
            BUSY.max(self.took)
        };
        let now = Instant::now();
        let mut due = now + pause;
        // One that might have been started by now waits for something else.
        if let Some(start) = self.children.next_start().filter(|start| *start > now) {
            due = due.min(start);
        }
        tokio::select! {
            ended = self.children.next_ended() => {
                if let Some(sentence) = self.children.note(ended) {
                    audience.line(&sentence);
                }
            }
            Some(ask) = self.asked.recv() => self.take(ask, audience).await,
            Some(Ok(Err((path, reason)))) = self.removals.join_next() => {
                let path = path.display();
                audience.line(&format!("{path}, which nobody needs any more, cannot be removed: {reason}"));
            }
            () = tokio::time::sleep_until(due) => {}
        }
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

    async fn perform(&mut self, action: Action, observed: &Observed, audience: &mut impl Audience) {
        match action {
            Action::Start(ordinal) => {
                let running = self.state.running;
                match self.children.start(&self.home, ordinal, running) {
                    Ok(()) => drop(self.unstarted.remove(&ordinal)),
                    Err(error) => {
                        let why = error.to_string();
                        if self.unstarted.get(&ordinal) != Some(&why) {
                            audience.line(&format!("{why} (it is tried again)"));
                            self.unstarted.insert(ordinal, why);
                        }
                    }
                }
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
                self.keep(Place::Volume, audience, |me, told| me.wipe(ordinal, told));
            }
            Action::Decide { adopt, founded } => self.keep(Place::State, audience, |me, _| {
                me.save(|s| (s.network_id, s.founded) = (Some(adopt.unwrap_or_else(uuid)), founded))
            }),
            Action::Founded => {
                self.keep(Place::State, audience, |me, _| {
                    me.save(|s| s.founded = true)
                });
            }
            Action::Run(running) => {
                self.keep(Place::State, audience, |me, told| {
                    me.set_running(running, told)
                });
            }
            Action::EndReplacement => {
                self.keep(Place::State, audience, |me, _| {
                    me.save(|s| s.replacing = None)
                });
            }
        }
    }

    /// Changes something in the directory. What that refuses is planned again in the next round, and done when it is time.
    fn keep<A: Audience>(
        &mut self,
        place: Place,
        audience: &mut A,
        change: impl FnOnce(&mut Self, &mut A) -> Result<(), HomeError>,
    ) {
        if self.setbacks.get(&place).is_some_and(|s| !s.may_try()) {
            return;
        }
        match change(self, audience) {
            Ok(()) => drop(self.setbacks.remove(&place)),
            Err(error) => {
                let setback = self.setbacks.entry(place).or_default();
                if let Some(sentence) = setback.again(error.to_string()) {
                    audience.line(&sentence);
                }
            }
        }
    }

    fn set_running(&mut self, running: u32, audience: &mut impl Audience) -> Result<(), HomeError> {
        let name = |i| format!("{}-{i}", self.state.name());
        let gone: Vec<String> = (running..self.state.running).map(name).collect();
        self.save(|s| s.running = running)?;
        if !gone.is_empty() {
            let gone = gone.join(", ");
            audience.line(&format!(
                "{gone} left: the ring has proved that others hold all they held"
            ));
        }
        self.children.end_from(running);
        self.unstarted.retain(|ordinal, _| *ordinal < running);
        Ok(())
    }

    fn wipe(&mut self, ordinal: u32, audience: &mut impl Audience) -> Result<(), HomeError> {
        // From here on it is gone, whatever is written down: on a full disk, its room may be what that waits for.
        if let Some(old) = self.home.set_aside(ordinal)? {
            remove(&mut self.removals, old);
        }
        self.save(|s| {
            if let Some(replaced) = &mut s.replacing {
                replaced.wiped = true;
            }
        })?;
        // What was wrong went with the volume.
        self.children.forgive(ordinal);
        self.unstarted.remove(&ordinal);
        let name = format!("{}-{ordinal}", self.state.name());
        audience.line(&format!(
            "the ring needs nothing of {name} any more: its volume is removed"
        ));
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

/// Removes a volume that was set aside. A large one takes minutes; nobody waits for it.
fn remove(removals: &mut JoinSet<Result<(), (PathBuf, io::Error)>>, path: PathBuf) {
    removals.spawn_blocking(move || fs::remove_dir_all(&path).map_err(|reason| (path, reason)));
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
pub(crate) mod tests;
