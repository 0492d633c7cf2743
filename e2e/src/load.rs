//! Clients that write, delete and read the same files throughout a test, while peers come, go and die, and that remember all
//! they saw for [`history::check`].
//!
//! Their rate is bounded, so that they disturb what is watched as little as may be and still meet every moment of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{self, Protocol, Received, TransferError};
use crate::content::Content;
use crate::history::{self, Recorder};
use crate::network::Network;
use crate::patience::within;
use crate::peer::Peer;

/// Files that are overwritten again and again.
const NAMES: usize = 24;
/// Clients of each kind; two, so that they get into each other's way.
const WRITERS: u64 = 2;
const READERS: u64 = 2;
/// Between two puts, and two gets, of one client.
const WRITE_PERIOD: Duration = Duration::from_millis(500);
const READ_PERIOD: Duration = Duration::from_millis(250);
/// Of a writer's puts, so many are deletes instead: what is gone must stay gone.
const DELETE_ONE_IN: usize = 8;
/// Sizes, spread evenly over the orders of magnitude: in a name's record, in a chunk, in two. Fewer bytes might be the
/// same twice, and a history needs every put to be unique.
const SMALLEST: u64 = 16;
const LARGEST: u64 = 1536 * 1024;
/// A client goes from peer to peer for so long before it gives up on one put or get, as an application would.
const PERSISTENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(100);
/// Longest that some hundred operations may take.
const SERVED: Duration = Duration::from_secs(300);

/// What the clients met with.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Puts and deletes acknowledged.
    pub puts: u64,
    /// Gets that returned something.
    pub gets: u64,
    /// Attempts that failed, by kind: how many, and what the last one said.
    pub failures: BTreeMap<String, (u64, String)>,
    /// Puts and gets that no peer served in time.
    pub given_up: u64,
    /// Longest that one put or delete took, with all its attempts.
    pub slowest_put: Duration,
    /// Longest that one get took, with all its attempts.
    pub slowest_get: Duration,
}

/// The running clients.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// The peers that clients may ask now.
type Serving = Box<dyn Fn() -> Vec<Peer> + Send + Sync>;

struct Shared {
    serving: Serving,
    recorder: Recorder,
    tally: Mutex<Tally>,
    /// Puts, deletes and gets that were served since the beginning.
    served: watch::Sender<u64>,
}

impl Load {
    /// Starts two writers and two readers.
    pub fn start(network: &Arc<Network>, seed: u64) -> Self {
        let network = network.clone();
        Load::among(move || network.serving(), seed)
    }

    /// Starts two writers and two readers, which ask the peers that are `serving` at the time.
    pub fn among(serving: impl Fn() -> Vec<Peer> + Send + Sync + 'static, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            serving: Box::new(serving),
            recorder: Recorder::default(),
            tally: Mutex::default(),
            served: watch::Sender::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..WRITERS + READERS {
            let client = Client {
                shared: shared.clone(),
                random: Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number)),
            };
            let wish = if number < WRITERS {
                Wish::Put
            } else {
                Wish::Get
            };
            clients.spawn(client.run(wish, stopped.clone()));
        }
        Load {
            shared,
            clients,
            stop,
        }
    }

    /// Waits until so many more puts, deletes and gets were served.
    ///
    /// # Errors
    /// They were not within five minutes.
    pub async fn serves(&self, more: u64) -> Result<()> {
        let mut served = self.shared.served.subscribe();
        let wanted = *served.borrow() + more;
        let serving = served.wait_for(|count| *count >= wanted);
        within("clients are served", SERVED, serving).await?;
        Ok(())
    }

    /// Where more operations on the same network can be written down.
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// Judges what was seen so far, while clients go on.
    ///
    /// # Errors
    /// It cannot have happened.
    pub async fn judge(&self) -> Result<usize> {
        let operations = self.shared.recorder.operations();
        let count = operations.len();
        tokio::task::spawn_blocking(move || history::check(&operations)).await??;
        Ok(count)
    }

    /// What the clients met with since the last call.
    pub fn since_last(&self) -> Tally {
        std::mem::take(&mut *self.shared.tally())
    }

    /// What the clients met with since the last call, after it was made sure that files went in and out meanwhile, and
    /// that no client was left without an answer.
    ///
    /// # Errors
    /// They did not, or one was.
    pub fn went_on(&self, during: &str) -> Result<Tally> {
        let tally = self.since_last();
        eprintln!("  during {during}: {tally}");
        ensure!(
            tally.puts > 0,
            "no put was acknowledged during {during}: {tally}"
        );
        ensure!(tally.gets > 0, "no get succeeded during {during}: {tally}");
        ensure!(
            tally.given_up == 0,
            "a client gave up during {during}: {tally}"
        );
        Ok(tally)
    }

    /// Stops the clients, reads every file once more, and judges the whole history.
    ///
    /// # Errors
    /// A file cannot be read, or what was seen cannot have happened.
    pub async fn finish(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("a client panicked")?;
        }
        let mut last = Client {
            shared: self.shared.clone(),
            random: Rng::with_seed(0),
        };
        for number in 0..NAMES {
            ensure!(
                last.fulfil(Wish::Get, number).await,
                "{} cannot be read at the end",
                name(number)
            );
        }
        let operations = self.shared.recorder.operations();
        let count = operations.len();
        tokio::task::spawn_blocking(move || history::check(&operations)).await??;
        eprintln!("  a history of {count} puts and gets can have happened");
        Ok(())
    }
}

struct Client {
    shared: Arc<Shared>,
    random: Rng,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Put,
    Delete,
    Get,
}

impl Client {
    async fn run(mut self, wish: Wish, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(if wish == Wish::Put {
            WRITE_PERIOD
        } else {
            READ_PERIOD
        });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => return,
            }
            let number = self.random.usize(..NAMES);
            let delete = wish == Wish::Put && self.random.usize(..DELETE_ONE_IN) == 0;
            self.fulfil(if delete { Wish::Delete } else { wish }, number)
                .await;
        }
    }

    /// Goes from peer to peer until one serves the wish, whatever the failures: in the end, one must. Whether one did.
    async fn fulfil(&mut self, wish: Wish, number: usize) -> bool {
        let begin = Instant::now();
        let done = loop {
            let peers = (self.shared.serving)();
            let (kind, text) = if peers.is_empty() {
                ("no peer is ready".into(), String::new())
            } else {
                let peer = &peers[self.random.usize(..peers.len())];
                match self.attempt(wish, &name(number), peer).await {
                    Ok(()) => break true,
                    Err(error) => (error.kind(), format!("{}: {error}", peer.name)),
                }
            };
            self.shared.tally().failed(kind, text);
            if begin.elapsed() > PERSISTENCE {
                break false;
            }
            sleep(PAUSE).await;
        };
        if done {
            self.shared.served.send_modify(|count| *count += 1);
        }
        let mut tally = self.shared.tally();
        let Tally {
            puts,
            gets,
            given_up,
            slowest_put,
            slowest_get,
            failures: _,
        } = &mut *tally;
        let (count, slowest) = match wish {
            Wish::Put | Wish::Delete => (puts, slowest_put),
            Wish::Get => (gets, slowest_get),
        };
        *count += u64::from(done);
        *slowest = begin.elapsed().max(*slowest);
        *given_up += u64::from(!done);
        done
    }

    async fn attempt(&mut self, wish: Wish, name: &str, peer: &Peer) -> Result<(), TransferError> {
        let protocol = Protocol::of(self.random.usize(..));
        let by = format!("{} {protocol:?}", peer.name);
        match wish {
            Wish::Put => {
                // Each attempt puts another content, since one that failed may still take effect.
                let content = self.content();
                let value = Received {
                    hash: content.hash(),
                    len: content.len,
                };
                let begun = self.shared.recorder.set(name, &by, Some(value));
                client::put(peer, protocol, name, content).await?;
                begun.acknowledged();
            }
            Wish::Delete => {
                let begun = self.shared.recorder.set(name, &by, None);
                match client::delete(peer, protocol, name).await {
                    Ok(()) => begun.acknowledged(),
                    Err(error) if error.is_not_found() => begun.found_nothing(),
                    Err(error) => return Err(error),
                }
            }
            Wish::Get => {
                let begun = self.shared.recorder.get(name, &by);
                match client::get(peer, protocol, name).await {
                    Ok(received) => begun.returned(Some(received)),
                    Err(error) if error.is_not_found() => begun.returned(None),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn content(&mut self) -> Content {
        let magnitude = (LARGEST as f64 / SMALLEST as f64).powf(self.random.f64());
        Content {
            seed: self.random.u64(..),
            len: (SMALLEST as f64 * magnitude) as u64,
        }
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(number: usize) -> String {
    format!("load/{number:02}")
}

impl Tally {
    fn failed(&mut self, kind: String, text: String) {
        let (count, last) = self.failures.entry(kind).or_default();
        (*count, *last) = (*count + 1, text);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            puts,
            gets,
            failures,
            given_up,
            slowest_put,
            slowest_get,
        } = self;
        let (put, get) = (slowest_put.as_secs_f64(), slowest_get.as_secs_f64());
        write!(
            f,
            "{puts} puts (slowest {put:.1} s) and {gets} gets ({get:.1} s), {given_up} given up"
        )?;
        for (kind, (count, last)) in failures {
            write!(
                f,
                "; {count} attempts failed with {kind:?}, the last one: {last}"
            )?;
        }
        Ok(())
    }
}
