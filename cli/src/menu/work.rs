//! Performing effects in the background.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use peernet_core::key::Name;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::args::Put;
use crate::get;
use crate::menu::app::{Effect, Event, Which};
use crate::menu::listing::Page;
use crate::menu::swarm::{Fetch, Fetches};
use crate::menu::transfers::Meter;
use crate::names;
use crate::put;
use crate::servers::Servers;
use crate::share;
use crate::status;

/// Transfers that move bytes at once; the others wait their turn. Guess: enough to fill a link, few enough to finish one
/// after another.
const AT_ONCE: usize = 3;
/// Longest that a listing, a removal or a look at the peers may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is under way.
pub(super) struct Work {
    servers: Servers,
    tasks: JoinSet<Event>,
    /// The listing under way of each pane: a newer one replaces it.
    listings: BTreeMap<Which, AbortHandle>,
    transfers: BTreeMap<u64, (ProgressBar, AbortHandle)>,
    turns: Arc<Semaphore>,
    /// How fast the peer's fetches are, by name.
    rates: Rc<RefCell<BTreeMap<String, ProgressBar>>>,
}

impl Work {
    pub(super) fn new(servers: Servers) -> Self {
        Work {
            servers,
            tasks: JoinSet::new(),
            listings: BTreeMap::new(),
            transfers: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            rates: Rc::default(),
        }
    }

    /// Begins what the application wants; the answer comes out of [`Work::next`].
    pub(super) fn perform(&mut self, effect: Effect) {
        let servers = self.servers.clone();
        match effect {
            Effect::List {
                which,
                ticket,
                prefix,
                after,
            } => {
                let first = after.is_empty();
                let task = self.tasks.spawn_local(async move {
                    let page = patiently(names::page(&servers, &prefix, after)).await;
                    let page = page.map(|(files, next)| Page { files, next });
                    Event::Listed {
                        which,
                        ticket,
                        first,
                        page,
                    }
                });
                if let Some(earlier) = self.listings.insert(which, task) {
                    earlier.abort();
                }
            }
            Effect::Look => {
                self.tasks.spawn_local(async move {
                    Event::Looked(patiently(status::look(&servers)).await.map(Box::new))
                });
            }
            Effect::Swarm => {
                let rates = self.rates.clone();
                self.tasks.spawn_local(async move {
                    let listed = patiently(share::coming(&servers)).await;
                    Event::Swarm(listed.map(|(peer, coming)| Fetches {
                        peer,
                        all: measured(&mut rates.borrow_mut(), coming),
                    }))
                });
            }
            Effect::GiveUp { name } => {
                self.tasks.spawn_local(async move {
                    let outcome = patiently(share::give_up(&servers, &name)).await;
                    Event::Changed(match outcome {
                        Ok(true) => Ok(format!("{name} is not fetched any more")),
                        Ok(false) => Err(format!("{name} is not on its way any more")),
                        Err(reason) => Err(format!("{name} was not given up: {reason}")),
                    })
                });
            }
            Effect::Remove { name } => {
                self.tasks.spawn_local(async move {
                    let outcome = patiently(names::delete(&servers, &name)).await;
                    Event::Changed(match outcome {
                        Ok(()) => Ok(format!("removed {name}")),
                        Err(reason) => Err(format!("{name} was not removed: {reason}")),
                    })
                });
            }
            Effect::Rename { name, to } => {
                self.tasks.spawn_local(async move {
                    let outcome = patiently(names::move_to(&servers, &name, &to)).await;
                    Event::Changed(match outcome {
                        Ok(file) => Ok(format!("renamed {name} to {}", file.name)),
                        Err(reason) => Err(format!("{name} was not renamed: {reason}")),
                    })
                });
            }
            Effect::Pin { name, pinned } => {
                self.tasks.spawn_local(async move {
                    let done = if pinned { "pinned" } else { "unpinned" };
                    let outcome = patiently(names::set_pin(&servers, &name, pinned)).await;
                    Event::Changed(match outcome {
                        Ok(()) => Ok(format!("{done} {name}")),
                        Err(reason) => Err(format!("{name} was not {done}: {reason}")),
                    })
                });
            }
            Effect::Put { id, path, name } => {
                self.transfer(id, async move |bar| {
                    store(&servers, &path, name, &bar).await
                });
            }
            Effect::Get { id, name, path } => {
                self.transfer(id, async move |bar| {
                    fetch(&servers, &name, &path, &bar).await
                });
            }
            Effect::Cancel { id } => {
                if let Some((_, task)) = self.transfers.remove(&id) {
                    task.abort();
                }
            }
            // Whoever owns the terminal does it.
            Effect::Quit => {}
        }
    }

    fn transfer<F>(&mut self, id: u64, job: impl FnOnce(ProgressBar) -> F + 'static)
    where
        F: Future<Output = Result<String, String>> + 'static,
    {
        let (bar, turns) = (ProgressBar::hidden(), self.turns.clone());
        let meter = bar.clone();
        let task = self.tasks.spawn_local(async move {
            let _turn = turns.acquire_owned().await.expect("never closed");
            bar.reset();
            Event::Moved {
                id,
                outcome: job(bar).await,
            }
        });
        self.transfers.insert(id, (meter, task));
    }

    /// The next thing that is done. Waits for ever when nothing is under way.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            match self.tasks.join_next().await {
                None => std::future::pending().await,
                Some(Ok(event)) => {
                    if let Event::Moved { id, .. } = &event {
                        self.transfers.remove(id);
                    }
                    return event;
                }
                Some(Err(error)) if error.is_cancelled() => {}
                // Its message is on the terminal already, which the panic's hook has given back.
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// How far each transfer is.
    pub(super) fn meters(&self) -> Vec<(u64, Meter)> {
        let all = self.transfers.iter();
        all.map(|(id, (bar, _))| (*id, meter(bar))).collect()
    }
}

fn meter(bar: &ProgressBar) -> Meter {
    Meter {
        bytes: bar.position(),
        size: bar.length(),
        bytes_per_second: bar.per_sec(),
        seconds_left: bar.eta().as_secs(),
    }
}

/// What is on its way, with rates since it was first seen; what is not on its way any more is forgotten.
fn measured(
    rates: &mut BTreeMap<String, ProgressBar>,
    coming: Vec<(String, u64, u64)>,
) -> Vec<Fetch> {
    rates.retain(|name, _| coming.iter().any(|(n, ..)| n == name));
    let fetches = coming.into_iter().map(|(name, here, size)| {
        let bar = rates.entry(name.clone()).or_insert_with(|| {
            // What was there before did not come just now.
            ProgressBar::hidden().with_position(here)
        });
        bar.set_length(size);
        bar.set_position(here);
        let meter = meter(bar);
        Fetch { name, meter }
    });
    fetches.collect()
}

/// With an end, and the failure in words.
async fn patiently<T, E: std::fmt::Display>(
    job: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(PATIENCE, job).await {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(_) => Err(format!(
            "no answer within {} s; r tries again",
            PATIENCE.as_secs()
        )),
    }
}

async fn store(
    servers: &Servers,
    path: &str,
    name: String,
    bar: &ProgressBar,
) -> Result<String, String> {
    let put = Put {
        paths: vec![local(path)],
        name: Some(name),
        content_type: None,
        tag: Vec::new(),
        compress: None,
        if_absent: false,
    };
    let job = only(&put)?;
    let stored = put::store(servers, &job, &put, bar).await;
    stored
        .map(|stored| stored.file.name)
        .map_err(|e| e.to_string())
}

/// What is to be stored, which must be a file: the transfer of a menu has one name and one size.
fn only(put: &Put) -> Result<put::Job, String> {
    let mut jobs = put::jobs(put, |path| path.exists()).map_err(|e| e.to_string())?;
    match (jobs.pop(), put.paths.as_slice()) {
        (Some(job), [path]) if jobs.is_empty() && !path.is_dir() => Ok(job),
        _ => Err(
            "a directory is not stored from here; `peernet put DIRECTORY NAME` stores all below it"
                .into(),
        ),
    }
}

async fn fetch(
    servers: &Servers,
    name: &str,
    path: &str,
    bar: &ProgressBar,
) -> Result<String, String> {
    let name = Name::new(name.to_owned()).map_err(|e| e.to_string())?;
    let path = get::destination(&name, Some(&local(path)));
    let saved = get::save(servers, &name, &path, bar).await;
    saved.map_err(|e| e.to_string())?;
    Ok(path.display().to_string())
}

/// No shell is there to expand `~`, but whoever types a path expects it.
fn local(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_refused_whatever_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &Path| Put {
            paths: vec![path.to_owned()],
            name: Some("n".into()),
            content_type: None,
            tag: Vec::new(),
            compress: None,
            if_absent: false,
        };
        for file in ["a", "b"] {
            let refused = only(&put(dir.path())).unwrap_err();
            assert!(refused.contains("peernet put"), "{refused}");
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        assert!(only(&put(dir.path())).is_err());
        assert_eq!(
            only(&put(&dir.path().join("a"))).unwrap().name.as_str(),
            "n"
        );
    }
}
